//! Directories: the tree of names, and the clusters that hold it.

use anyhow::{Context as _, Result, bail};

use super::boot_sector::BootSector;
use super::name::{self, Alias, SLOT};
use super::{File, Write};

const ATTRIBUTE_VOLUME_LABEL: u8 = 0x08;
pub(super) const ATTRIBUTE_DIRECTORY: u8 = 0x10;
pub(super) const ATTRIBUTE_ARCHIVE: u8 = 0x20;
/// First byte of an entry that is free while others follow.
const FREE: u8 = 0xE5;
/// 1980-01-01, the earliest date FAT can say: the same files give the same bytes.
const DATE: u16 = 1 << 5 | 1;

/// Entries that fit a cluster.
const SLOTS_PER_CLUSTER: usize = 128;

/// What an entry stands for: an index into the tree's list of either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Directory(usize),
    File(usize),
}

#[derive(Debug)]
struct Entry {
    name: String,
    alias: Alias,
    /// First slot in its directory.
    slot: usize,
    target: Target,
}

#[derive(Debug)]
struct Directory {
    /// `None` for the root.
    parent: Option<usize>,
    entries: Vec<Entry>,
    /// Slots in use, free ones between entries included.
    slots: usize,
    cluster: u32,
}

/// All directories and files; the root is directory 0.
#[derive(Debug)]
pub(super) struct Tree {
    label: Alias,
    directories: Vec<Directory>,
    /// Size and first cluster.
    files: Vec<(u32, u32)>,
}

impl Tree {
    pub fn new(label: Alias) -> Self {
        let root = Directory { parent: None, entries: Vec::new(), slots: 1, cluster: 0 };
        Self { label, directories: vec![root], files: Vec::new() }
    }

    /// Adds a file and the directories it lies in.
    pub fn add(&mut self, file: &File, sector: u64) -> Result<()> {
        let what = || format!("laying out {:?}", file.path);
        let size = u32::try_from(file.size).ok().with_context(|| format!("{} bytes are more than 4 GiB", file.size));
        let size = size.with_context(what)?;
        let (parents, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        let mut directory = 0;
        for part in parents.split('/').filter(|_| !parents.is_empty()) {
            directory = self.enter(directory, part, sector).with_context(what)?;
        }
        let target = Target::File(self.files.len());
        self.files.push((size, 0));
        self.insert(directory, name, target, sector).with_context(what)
    }

    /// The directory `name` in `parent`, made if it is not there.
    fn enter(&mut self, parent: usize, name: &str, sector: u64) -> Result<usize> {
        match self.find(parent, name) {
            Some(Target::Directory(index)) => Ok(index),
            Some(Target::File(_)) => bail!("{name:?} is a file already"),
            None => {
                let index = self.directories.len();
                self.insert(parent, name, Target::Directory(index), sector)?;
                // `.` and `..`
                let made = Directory { parent: Some(parent), entries: Vec::new(), slots: 2, cluster: 0 };
                self.directories.push(made);
                Ok(index)
            }
        }
    }

    fn find(&self, directory: usize, name: &str) -> Option<Target> {
        let entries = &self.directories.get(directory)?.entries;
        entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(name)).map(|entry| entry.target)
    }

    /// Appends an entry. It never lies across two sectors if one can hold it, so that one write makes it appear.
    fn insert(&mut self, directory: usize, name: &str, target: Target, sector: u64) -> Result<()> {
        name::check(name)?;
        if self.find(directory, name).is_some() {
            bail!("there is a {name:?} already");
        }
        let Some(directory) = self.directories.get_mut(directory) else { bail!("no directory {directory}") };
        if directory.entries.iter().any(|entry| name::shown(&entry.alias).eq_ignore_ascii_case(name)) {
            bail!("{name:?} is the short name of another file");
        }
        let alias = name::alias(name, |alias| directory.entries.iter().any(|entry| entry.alias == *alias))
            .with_context(|| format!("no short name is left for {name:?}"))?;
        let per_sector = usize::try_from(sector)? / SLOT;
        let needed = name::long_entries(name, &alias).len() + 1;
        let crosses = directory.slots % per_sector + needed > per_sector;
        let slot = if crosses && needed <= per_sector {
            directory.slots.next_multiple_of(per_sector)
        } else {
            directory.slots
        };
        // fatgen: a directory has at most 65536 entries.
        if slot + needed > 65_536 {
            bail!("no room is left in its directory for {name:?}");
        }
        directory.slots = slot + needed;
        directory.entries.push(Entry { name: name.to_owned(), alias, slot, target });
        Ok(())
    }

    /// Gives each directory its clusters, the root first.
    pub fn place(&mut self, mut take: impl FnMut(u64) -> Result<u32>) -> Result<()> {
        for directory in &mut self.directories {
            directory.cluster = take(u64::try_from(directory.slots * SLOT)?)?;
        }
        Ok(())
    }

    /// Says where the data of file `index` starts; 0 for an empty one.
    pub fn set_cluster(&mut self, index: usize, cluster: u32) {
        if let Some((_, first)) = self.files.get_mut(index) {
            *first = cluster;
        }
    }

    /// The directories without the last file, and the sector that brings it; `None` if one sector cannot.
    pub fn render(&self, boot: &BootSector) -> (Vec<Write>, Option<Write>) {
        let last = self.files.len().checked_sub(1).map(Target::File);
        let mut publish = None;
        let mut writes = Vec::with_capacity(self.directories.len());
        for directory in &self.directories {
            let offset = boot.offset_of(directory.cluster);
            let before = self.render_one(directory, last);
            if directory.entries.iter().any(|entry| Some(entry.target) == last) {
                let after = self.render_one(directory, None);
                publish = changed_sector(&before, &after, boot.sector_size)
                    .map(|(at, bytes)| Write { offset: offset + at, bytes });
            }
            writes.push(Write { offset, bytes: before });
        }
        (writes, publish)
    }

    fn render_one(&self, directory: &Directory, without: Option<Target>) -> Vec<u8> {
        let mut bytes = match directory.parent {
            None => short_entry(&self.label, ATTRIBUTE_VOLUME_LABEL, 0, 0).to_vec(),
            Some(parent) => {
                // fatgen: `..` names cluster 0 if that is the root directory.
                let parent = if parent == 0 { 0 } else { self.cluster_of(parent) };
                [
                    short_entry(b".          ", ATTRIBUTE_DIRECTORY, directory.cluster, 0),
                    short_entry(b"..         ", ATTRIBUTE_DIRECTORY, parent, 0),
                ]
                .concat()
            }
        };
        for entry in &directory.entries {
            while bytes.len() < entry.slot * SLOT {
                bytes.push(FREE);
                bytes.resize(bytes.len().next_multiple_of(SLOT), 0);
            }
            if Some(entry.target) == without {
                break;
            }
            let (attribute, cluster, size) = match entry.target {
                Target::Directory(index) => (ATTRIBUTE_DIRECTORY, self.cluster_of(index), 0),
                Target::File(index) => {
                    let (size, cluster) = self.files.get(index).copied().unwrap_or_default();
                    (ATTRIBUTE_ARCHIVE, cluster, size)
                }
            };
            bytes.extend(name::long_entries(&entry.name, &entry.alias).concat());
            bytes.extend(short_entry(&entry.alias, attribute, cluster, size));
        }
        // As long as with all entries: the clusters are the directory's either way, and zero ends it.
        bytes.resize(directory.slots.next_multiple_of(SLOTS_PER_CLUSTER) * SLOT, 0);
        bytes
    }

    fn cluster_of(&self, directory: usize) -> u32 {
        self.directories.get(directory).map_or(0, |directory| directory.cluster)
    }
}

/// fatgen, "FAT 32 Byte Directory Entry Structure".
pub(super) fn short_entry(alias: &Alias, attribute: u8, cluster: u32, size: u32) -> [u8; SLOT] {
    let [low0, low1, high0, high1] = cluster.to_le_bytes();
    let date = DATE.to_le_bytes();
    let bytes = [
        alias.as_slice(),
        &[attribute, 0, 0, 0, 0], // no case flags; created at midnight
        &date,
        &date,
        &[high0, high1, 0, 0],
        &date,
        &[low0, low1],
        &size.to_le_bytes(),
    ]
    .concat();
    bytes.try_into().unwrap_or([0; SLOT])
}

/// The one sector in which two states of a directory differ, with its offset; `None` if there are several.
fn changed_sector(before: &[u8], after: &[u8], sector: u16) -> Option<(u64, Vec<u8>)> {
    let sectors = before.chunks(usize::from(sector)).zip(after.chunks(usize::from(sector)));
    let mut changed = sectors.enumerate().filter(|(_, (before, after))| before != after);
    let (index, (_, bytes)) = changed.next()?;
    let offset = u64::try_from(index).ok()? * u64::from(sector);
    changed.next().is_none().then(|| (offset, bytes.to_vec()))
}
