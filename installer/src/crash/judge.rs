//! What a machine does with a disk, by the rules of firmware, systemd-boot and Linux. Nothing of it is the installer's code.
//!
//! - Firmware takes the table at the start of the disk, or the one at its end where the first is damaged, both behind a
//!   protective MBR. A boot entry of an earlier installation has it start `\EFI\systemd\systemd-bootx64.efi`; without one it
//!   starts `\EFI\BOOT\BOOTX64.EFI`. Where there is none it goes on to the network: that is how a machine comes back to the
//!   installer.
//! - systemd-boot starts the UKI that comes first by its order ([`super::entries`]), whatever is in it. One that does not come
//!   up gives way to the next only where its name counts attempts. Without any it offers firmware's setup and nothing else,
//!   which it starts after 10 s (`config_select_default_entry` in its src/boot/boot.c).
//! - Linux has rules of its own for the table ([`super::tables`]). The root file system comes up when all of it verifies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::Manifest;
use uuid::Uuid;

use super::entries::{Entry, in_order};
use super::files::Files;
use super::foreign::Foreign;
use super::tables::{self, Part};
use super::verity;
use crate::disk::{Disk, Region};

/// Where firmware looks without a boot entry (UEFI specification 2.10, section 3.5.1.1), where a boot entry of ours points,
/// and where systemd-boot looks (Boot Loader Specification, type 2).
pub const FALLBACK: &str = "EFI/BOOT/BOOTX64.EFI";
const LOADER: &str = "EFI/systemd/systemd-bootx64.efi";
const UKIS: &str = "EFI/Linux";

/// Which of the systems that a disk may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    Old,
    New,
    /// What a second run installs, where that is another.
    Next,
}

/// What a machine does with a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// This system comes up.
    Starts(Which),
    /// There is nothing to start: firmware goes on to the network.
    Nothing(&'static str),
    /// A boot loader without a UKI: firmware goes on to the network only if that comes before the disk in its order, and else
    /// into its setup.
    NoUki,
    /// Something is started that does not come up.
    Stuck(String),
}

/// Knows the systems that may be on the disk.
#[derive(Debug)]
pub struct Judge {
    pub releases: Vec<(Which, Manifest)>,
    pub foreign: Option<Foreign>,
}

impl Judge {
    /// What a machine does with `disk`.
    pub fn boot(&self, disk: &Arc<dyn Disk>) -> Boot {
        let Some(parts) = tables::firmware(disk.as_ref()) else { return Boot::Nothing("no partition table") };
        let Some(files) = parts.iter().find_map(|part| Files::open(region(disk, part))) else {
            return Boot::Nothing("no file system that firmware reads");
        };
        // Which of them firmware starts hangs on its boot entries, so all that are there must be good.
        let digest = |path: &str| files.find(path).map(|file| files.read(&file).map(|bytes| Digest::of(&bytes)));
        let (Some(fallback), loader) = (digest(FALLBACK), digest(LOADER)) else {
            return Boot::Nothing("no boot loader");
        };
        if let Some(foreign) = self.foreign.as_ref().filter(|foreign| fallback == Some(foreign.loader)) {
            return foreign.boot(disk);
        }
        let is_known = |digest: Option<Digest>| {
            self.releases.iter().any(|(_, manifest)| Some(manifest.boot.loader.sha256) == digest)
        };
        if !is_known(fallback) || !loader.is_none_or(is_known) {
            return Boot::Stuck("a boot loader is damaged".to_owned());
        }
        self.start(disk, &files)
    }

    /// What systemd-boot makes of the UKIs that it finds.
    fn start(&self, disk: &Arc<dyn Disk>, files: &Files) -> Boot {
        let named = files.find(UKIS).and_then(|directory| files.list(&directory));
        let mut first_failure = None;
        for entry in in_order(named.unwrap_or_default()) {
            match self.uki(disk, files, &entry) {
                Ok(which) => return Boot::Starts(which),
                Err(why) => {
                    let why = format!("{}: {why}", entry.file.name);
                    if !entry.gives_way() {
                        return Boot::Stuck(why);
                    }
                    first_failure.get_or_insert(why);
                }
            }
        }
        first_failure.map_or(Boot::NoUki, Boot::Stuck)
    }

    /// Whether every UKI that has a name is a whole one, or as it was `before` the run, and one of the `fallbacks`, where there
    /// are some, comes up too if it is chosen.
    pub fn check_named(
        &self,
        disk: &Arc<dyn Disk>,
        before: &BTreeSet<Digest>,
        fallbacks: &[Which],
    ) -> Result<(), String> {
        let mut comes_up = false;
        for (name, digest) in named(disk) {
            let digest = digest.ok_or_else(|| format!("{name} cannot be read"))?;
            match self.releases.iter().find(|(_, manifest)| manifest.boot.uki.sha256 == digest) {
                Some((which, manifest)) => comes_up |= fallbacks.contains(which) && root(disk, manifest).is_ok(),
                None if before.contains(&digest) => {}
                None => return Err(format!("{name} is named and damaged")),
            }
        }
        (comes_up || fallbacks.is_empty()).then_some(()).ok_or_else(|| "the fallback does not come up".to_owned())
    }

    fn uki(&self, disk: &Arc<dyn Disk>, files: &Files, entry: &Entry) -> Result<Which, String> {
        let digest = files.read(&entry.file).map(|bytes| Digest::of(&bytes));
        let known = self.releases.iter().find(|(_, manifest)| Some(manifest.boot.uki.sha256) == digest);
        let (which, manifest) = known.ok_or("the UKI is damaged")?;
        root(disk, manifest).map(|()| *which)
    }
}

/// The credentials that systemd-stub finds (`pack_cpio` in its src/boot/cpio.c), by the names of their files; `None` where one
/// cannot be read.
pub fn credentials(disk: &Arc<dyn Disk>) -> Option<BTreeMap<String, Vec<u8>>> {
    let parts = tables::firmware(disk.as_ref())?;
    let files = parts.iter().find_map(|part| Files::open(region(disk, part)))?;
    let Some(directory) = files.find("loader/credentials") else { return Some(BTreeMap::new()) };
    let named = files.list(&directory)?.into_iter().filter(|named| named.name.ends_with(".cred"));
    named.map(|named| Some((named.name.clone(), files.read(&named)?))).collect()
}

/// The UKIs that systemd-boot finds, by name, with their digests, where they can be read.
pub fn named(disk: &Arc<dyn Disk>) -> Vec<(String, Option<Digest>)> {
    let parts = tables::firmware(disk.as_ref()).unwrap_or_default();
    let Some(files) = parts.iter().find_map(|part| Files::open(region(disk, part))) else { return Vec::new() };
    let listed = files.find(UKIS).and_then(|directory| files.list(&directory)).unwrap_or_default();
    let ukis = listed.into_iter().filter(|file| Entry::new(file.clone()).is_some());
    ukis.map(|file| (file.name.clone(), files.read(&file).map(|bytes| Digest::of(&bytes)))).collect()
}

fn region(disk: &Arc<dyn Disk>, part: &Part) -> Region {
    Region { disk: Arc::clone(disk), start: part.start, size: part.size }
}

/// Whether Linux finds the root file system of `manifest` by its root hash, and all of it verifies.
fn root(disk: &Arc<dyn Disk>, manifest: &Manifest) -> Result<(), String> {
    let hash = manifest.root().unwrap().root_hash;
    let parts = tables::linux(disk.as_ref(), &manifest.boot.cmdline).ok_or("Linux reads no partition table")?;
    // The UUIDs are the first and the last 128 bits of the root hash (Discoverable Partitions Specification).
    let place = |half: &[u8]| {
        let uuid = Uuid::from_slice(half).unwrap();
        parts.iter().find(|part| part.uuid == uuid).map(|part| region(disk, part))
    };
    let data = place(&hash.0[..16]).ok_or("no partition has its root file system")?;
    let hashes = place(&hash.0[16..]).ok_or("no partition has its hash tree")?;
    verity::verify(&data, &hashes, &hash)
}
