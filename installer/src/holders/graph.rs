//! In which order holders are taken down: a pure look at sysfs, where each device names the devices that are made of it in
//! `holders` (Documentation/ABI/testing/sysfs-block in Linux; `bd_link_disk_holder` in block/holder.c).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{Holder, Kind};
use crate::disk::sysfs_text;
use crate::inventory::{Mounts, Roots, is_of_bcache, parts, read_mounts};

/// The holders of the disk, each behind all that is above it.
///
/// # Errors
/// What is not taken down.
pub(super) fn holders(roots: &Roots, disk: &str) -> Result<Vec<Holder>, String> {
    let mounts = read_mounts(roots).map_err(|error| format!("{error:#}"))?;
    let mut ours = BTreeSet::new();
    reach(roots, disk, &mut ours);
    let mut walk = Walk { roots, mounts, ours, seen: BTreeSet::new(), found: Vec::new() };
    walk.whole(disk)?;
    Ok(walk.found)
}

/// Adds a device, its partitions, and all that is made of them.
fn reach(roots: &Roots, name: &str, ours: &mut BTreeSet<String>) {
    for (directory, part) in parts(&roots.sys.join("block").join(name), name) {
        if ours.insert(part) {
            entries(&directory.join("holders")).iter().for_each(|holder| reach(roots, holder, ours));
        }
    }
}

struct Walk<'a> {
    roots: &'a Roots,
    mounts: Mounts,
    /// The disk, its partitions, and all that is made of them.
    ours: BTreeSet<String>,
    seen: BTreeSet<String>,
    found: Vec<Holder>,
}

impl Walk<'_> {
    /// A device with its partitions: md arrays may have some.
    fn whole(&mut self, name: &str) -> Result<(), String> {
        // A holder that is reached twice is on the list already, before both of what it holds.
        if !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let block = self.roots.sys.join("block").join(name);
        let mut parts = parts(&block, name);
        // Partitions are above their device.
        parts.rotate_left(1);
        for (directory, part) in parts {
            self.device(&directory, &part)?;
        }
        Ok(())
    }

    fn device(&mut self, directory: &Path, name: &str) -> Result<(), String> {
        self.users(directory, name)?;
        for holder in entries(&directory.join("holders")) {
            if self.seen.contains(&holder) {
                continue;
            }
            self.whole(&holder)?;
            self.found.extend(self.holder(&holder, name)?);
        }
        self.found.extend(self.bcache(directory, name)?);
        Ok(())
    }

    /// Mounts and swap, which have the device by its own name or by the device mapper's.
    fn users(&mut self, directory: &Path, name: &str) -> Result<(), String> {
        let number = sysfs_text(&directory.join("dev")).unwrap_or_default();
        let mapped = sysfs_text(&directory.join("dm/name")).map(|mapped| format!("mapper/{mapped}"));
        for name in [Some(name), mapped.as_deref()].into_iter().flatten() {
            if let Some(point) = self.mounts.point(&number, name) {
                return Err(format!("{name} is mounted on {point}"));
            }
        }
        let swap = [Some(name), mapped.as_deref()].into_iter().flatten().find_map(|name| self.mounts.swap(name));
        let node = swap.map(Into::into);
        self.found.extend(node.map(|node| Holder {
            device: name.to_owned(),
            kind: Kind::Swap { node },
            also_on: Vec::new(),
        }));
        Ok(())
    }

    /// The device `name` as a holder; bcache's are ended by what they are made of.
    fn holder(&self, name: &str, of: &str) -> Result<Option<Holder>, String> {
        let block = self.roots.sys.join("block").join(name);
        let kind = if let Some(mapped) = sysfs_text(&block.join("dm/name")) {
            let number = sysfs_text(&block.join("dev")).unwrap_or_default();
            let parsed =
                number.split_once(':').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
            let Some(number) = parsed else { return Err(format!("{name} has the number {number:?}")) };
            Kind::Mapped { name: mapped, uuid: sysfs_text(&block.join("dm/uuid")).unwrap_or_default(), number }
        } else if block.join("md").exists() {
            Kind::Array
        } else if name.starts_with("bcache") {
            return Ok(None);
        } else {
            return Err(format!("{of} is held by {name}, which is none of device mapper, md and bcache"));
        };
        let also_on = self.foreign(&entries(&block.join("slaves")));
        Ok(Some(Holder { device: name.to_owned(), kind, also_on }))
    }

    /// Those that are neither the disk's own nor made of it.
    fn foreign(&self, names: &[String]) -> Vec<String> {
        names.iter().filter(|name| !self.ours.contains(*name)).cloned().collect()
    }

    /// What bcache has of a device: a cache set as a whole if it is a cache, else the device alone.
    fn bcache(&self, directory: &Path, name: &str) -> Result<Option<Holder>, String> {
        if !is_of_bcache(directory, name) {
            return Ok(None);
        }
        let there = directory.join("bcache");
        let set = there.join("set");
        if set.exists() {
            let backing = entries(&set).into_iter().filter(|entry| entry.starts_with("bdev"));
            let backing: Vec<String> = backing.filter_map(|entry| device_of(&set.join(entry))).collect();
            if let Some(other) = self.foreign(&backing).first() {
                return Err(format!("{name} caches {other}, which may lack what is cached"));
            }
        }
        let stop = if set.exists() { set.join("stop") } else { there.join("stop") };
        Ok(Some(Holder { device: name.to_owned(), kind: Kind::Bcache { there, stop }, also_on: Vec::new() }))
    }
}

/// The name of the device whose directory `bcache` the link leads to.
fn device_of(link: &Path) -> Option<String> {
    let target = fs::canonicalize(link).ok()?;
    Some(target.parent()?.file_name()?.to_string_lossy().into_owned())
}

/// The names in a directory, sorted; none if it is not there.
fn entries(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
