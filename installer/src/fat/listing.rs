//! The directories of a file system that is there (fatgen, "FAT Directory Structure" and "Long Directory Entries").

use std::collections::BTreeSet;

use super::name::{self, Alias, SLOT};
use super::volume::{ReadAt, Volume, VolumeError, unusable};

const ATTRIBUTE_LONG_NAME: u8 = 0x0F;
const ATTRIBUTE_VOLUME_LABEL: u8 = 0x08;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
/// First byte of a free entry.
pub(super) const FREE: u8 = 0xE5;
/// First byte of the entry behind the last.
pub(super) const LAST: u8 = 0;
/// UTF-16 units of a long name in one entry.
const UNITS: usize = 13;
/// Directories in directories at most.
const DEEPEST: usize = 16;
/// fatgen: a directory has at most 65536 entries.
const MOST_SLOTS: usize = 65_536;

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The long name, or the short one where there is no other.
    pub name: String,
    /// The short name as it is stored.
    pub(super) alias: Alias,
    /// First cluster; 0 for an empty file.
    pub cluster: u32,
    /// Bytes.
    pub size: u32,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Its slots in the directory, from the first of its long name to its short one.
    pub(super) slots: std::ops::RangeInclusive<usize>,
}

/// A directory as it is on the disk.
#[derive(Debug, Clone)]
pub struct Directory {
    /// Its clusters, in order.
    pub(super) chain: Vec<u32>,
    /// Their bytes.
    pub(super) bytes: Vec<u8>,
    /// Its names, `.` and `..` apart.
    pub entries: Vec<Listed>,
}

impl Directory {
    /// The entry with this name; FAT does not tell cases apart.
    pub fn find(&self, name: &str) -> Option<&Listed> {
        self.entries.iter().find(|entry| entry.name.eq_ignore_ascii_case(name) || name::shown(&entry.alias) == name)
    }
}

impl Volume {
    /// The directory at `path`, parts separated by `/`; the root for nothing. `None` if it is not there.
    ///
    /// # Errors
    /// It cannot be read, or its clusters are no chain.
    pub fn directory(&self, path: &str, read: ReadAt<'_>) -> Result<Option<Directory>, VolumeError> {
        let mut directory = self.directory_at(self.root, read)?;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let found = directory.find(part).filter(|entry| entry.is_directory).map(|entry| entry.cluster);
            let Some(cluster) = found else { return Ok(None) };
            directory = self.directory_at(cluster, read)?;
        }
        Ok(Some(directory))
    }

    fn directory_at(&self, first: u32, read: ReadAt<'_>) -> Result<Directory, VolumeError> {
        let chain = self.chain(first)?;
        let cluster = usize::try_from(self.cluster).unwrap_or_default();
        if chain.len().saturating_mul(cluster) > MOST_SLOTS * SLOT {
            return unusable("has a directory that is too long");
        }
        let mut bytes = vec![0; chain.len() * cluster];
        for (number, piece) in chain.iter().zip(bytes.chunks_mut(cluster.max(1))) {
            read(self.offset_of(*number), piece)?;
        }
        let entries = entries(&bytes);
        Ok(Directory { chain, bytes, entries })
    }

    /// The bytes of the file at `path`, if it is there.
    ///
    /// # Errors
    /// It cannot be read, has more than `most` bytes, or its clusters are no chain.
    pub fn read_file(&self, path: &str, most: u32, read: ReadAt<'_>) -> Result<Option<Vec<u8>>, VolumeError> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(directory) = self.directory(parent, read)? else { return Ok(None) };
        let Some(file) = directory.find(name).filter(|file| !file.is_directory) else { return Ok(None) };
        if file.size > most {
            return unusable(format!("has {} bytes in {path:?}, not at most {most}", file.size));
        }
        let mut bytes = Vec::new();
        for run in self.runs(file.cluster, u64::from(file.size))? {
            let mut piece = vec![0; usize::try_from(run.end - run.start).unwrap_or_default()];
            read(run.start, &mut piece)?;
            bytes.extend(piece);
        }
        bytes.truncate(usize::try_from(file.size).unwrap_or_default());
        Ok(Some(bytes))
    }

    /// Frees the clusters that no name leads to; none where a file's clusters are no chain, as after a power cut: then nobody
    /// knows whose the others are, and the file stays as it is.
    ///
    /// # Errors
    /// A directory's chain is broken, or two names lead to one cluster: then nothing may be changed.
    pub fn find_lost(&mut self, read: ReadAt<'_>) -> Result<(), VolumeError> {
        let mut used = BTreeSet::new();
        let mut left = vec![(self.root, 0)];
        let mut broken = false;
        let mut claim = |chain: Vec<u32>| match chain.into_iter().find(|cluster| !used.insert(*cluster)) {
            Some(twice) => unusable(format!("has cluster {twice} in two files")),
            None => Ok(()),
        };
        while let Some((first, depth)) = left.pop() {
            if depth > DEEPEST {
                return unusable("has directories that are too deep");
            }
            let directory = self.directory_at(first, read)?;
            claim(directory.chain)?;
            for entry in directory.entries {
                if entry.is_directory {
                    left.push((entry.cluster, depth + 1));
                } else {
                    match self.chain(entry.cluster) {
                        Ok(chain) => claim(chain)?,
                        Err(_) => broken = true,
                    }
                }
            }
        }
        if !broken {
            self.free_all_but(&used);
        }
        Ok(())
    }
}

/// The names in a directory's bytes.
fn entries(bytes: &[u8]) -> Vec<Listed> {
    let mut listed = Vec::new();
    // The parts of a long name, the last one first, and the slot of that.
    let mut long: Option<LongName> = None;
    for (number, slot) in bytes.as_chunks::<SLOT>().0.iter().enumerate() {
        let [first, .., s0, s1, s2, s3] = *slot;
        let attribute = slot.get(11).copied().unwrap_or_default();
        match first {
            LAST => break,
            FREE => long = None,
            _ if attribute & 0x3F == ATTRIBUTE_LONG_NAME => long = LongName::with(long, slot, number),
            _ if attribute & ATTRIBUTE_VOLUME_LABEL != 0 => long = None,
            _ => {
                let alias: Alias = *slot.first_chunk().unwrap_or(&[b' '; 11]);
                let long = long.take().filter(|long| long.next == 1 && long.checksum == name::checksum(&alias));
                let start = long.as_ref().map_or(number, |long| long.slot);
                let shown = name::shown(&alias);
                if shown != "." && shown != ".." {
                    let half =
                        |at: usize| slot.get(at..at + 2).and_then(|two| two.first_chunk()).copied().unwrap_or([0; 2]);
                    let ([a, b], [c, d]) = (half(26), half(20));
                    listed.push(Listed {
                        name: long.and_then(LongName::text).unwrap_or(shown),
                        alias,
                        cluster: u32::from_le_bytes([a, b, c, d]),
                        size: u32::from_le_bytes([s0, s1, s2, s3]),
                        is_directory: attribute & ATTRIBUTE_DIRECTORY != 0,
                        slots: start..=number,
                    });
                }
            }
        }
    }
    listed
}

/// A long name that is being read.
struct LongName {
    /// Where it begins.
    slot: usize,
    checksum: u8,
    /// Number of the part that was read last.
    next: u8,
    /// Parts, the last one first.
    parts: Vec<[u16; UNITS]>,
}

impl LongName {
    /// With the part in `slot`; `None` if that belongs to no name.
    fn with(before: Option<Self>, slot: &[u8; SLOT], number: usize) -> Option<Self> {
        let [sequence, ..] = *slot;
        let checksum = *slot.get(13)?;
        let mut units = [0; UNITS];
        let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain([28, 30]);
        for (unit, at) in units.iter_mut().zip(places) {
            *unit = u16::from_le_bytes([*slot.get(at)?, *slot.get(at + 1)?]);
        }
        if sequence & 0x40 != 0 {
            return Some(Self { slot: number, checksum, next: sequence & 0x3F, parts: vec![units] });
        }
        let mut name = before?;
        (name.next == sequence.checked_add(1)? && name.checksum == checksum).then(|| {
            name.next = sequence;
            name.parts.push(units);
            name
        })
    }

    fn text(self) -> Option<String> {
        let units = self.parts.into_iter().rev().flatten().take_while(|unit| *unit != 0);
        String::from_utf16(&units.collect::<Vec<u16>>()).ok()
    }
}
