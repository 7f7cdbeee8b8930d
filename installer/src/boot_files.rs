//! What an ESP that is there has to say before anything is planned: which UKIs it names, and what has been done to the disk.

mod noted;
mod unmade;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io::Read as _;

use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::data_uuid;
use metalstrap_release::uki::{self, HEAD_BYTES, MAX_CMDLINE, Sections, read_section};
use metalstrap_release::version;
use serde::Serialize;

use crate::credentials;
use crate::fat::{Listed, ReadAt, Volume, VolumeError};
use crate::gpt::Entry;

pub use noted::{INTENTS, Noted, intents_file, with_intent};

/// Where systemd-boot looks for UKIs (Boot Loader Specification, type 2).
pub const UKI_DIRECTORY: &str = "EFI/Linux";
/// Credentials of more bytes together are not looked at: those of a host config are never as many.
const MOST_CREDENTIALS_BYTES: u64 = 4 << 20;

/// An EFI system partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum EspContents {
    /// There is no such partition, or no file system on it.
    Absent,
    /// There is none that was ever started from: a boot sector of zeroes, as a run leaves it that is cut before it has made one.
    Unmade,
    /// It has a file system that cannot be kept.
    Unusable {
        /// Why.
        problem: String,
    },
    /// It has one that can.
    Volume(BootFiles),
}

/// What is on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BootFiles {
    /// The UKIs that systemd-boot finds.
    pub ukis: Vec<Uki>,
    /// Intents that were carried out on the disk, the newest last.
    pub intents: Vec<String>,
    /// Lines of the file of them that are none: they do not count, and go when it is written next.
    pub dropped_intents: u64,
    /// What the directory of credentials has, as far as it can be read: by it the plan knows whether they need room. Digests of
    /// secrets may tell what they are, so it is shown to nobody.
    #[serde(skip)]
    pub credentials: BTreeMap<String, Digest>,
    /// Bytes that are free, in whole clusters.
    pub free: u64,
    /// Bytes of a cluster.
    pub cluster: u64,
}

/// A UKI that has a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Uki {
    /// Its file name.
    pub name: String,
    /// Its bytes.
    pub size: u64,
    /// The root hash on its command line, if that can be read.
    pub root_hash: Option<Digest>,
    /// Bytes of its clusters, which are free when it goes; none where they are no chain.
    #[serde(skip)]
    pub taken: u64,
}

impl Uki {
    /// Whether it starts the slot of this data partition: by the root hash on its command line, which is all that its kernel
    /// goes by; where that cannot be read, by its name.
    #[must_use]
    pub fn starts(&self, slot: &Entry) -> bool {
        self.root_hash.map_or_else(|| self.is_called(&slot.label), |hash| data_uuid(&hash) == slot.uuid)
    }

    /// Whether it has the name of the UKI of this label's release, whatever attempts are left.
    #[must_use]
    pub fn is_called(&self, label: &str) -> bool {
        self.label().eq_ignore_ascii_case(label)
    }

    /// The path from the root of the ESP.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{UKI_DIRECTORY}/{}", self.name)
    }

    /// What is before the counters and `.efi`: the label of its slot.
    #[must_use]
    pub fn label(&self) -> &str {
        parts(&self.name).0
    }

    /// Starts that are left to it; `None` where they are not counted, because it has started well.
    #[must_use]
    pub fn tries_left(&self) -> Option<u32> {
        parts(&self.name).1
    }

    /// Whether systemd-boot starts it before those without attempts left. It passes over an empty one, which a power cut leaves
    /// behind systemd-sysupdate: Linux writes the new name of a file on FAT before its size.
    #[must_use]
    pub fn may_start(&self) -> bool {
        self.size > 0 && self.tries_left() != Some(0)
    }

    /// Whether systemd-boot starts it as soon as none has attempts left, and it is not known to fail: it is called as
    /// [`Uki::ranked_behind`] says.
    #[must_use]
    pub fn is_in_reserve(&self) -> bool {
        self.size > 0 && self.tries_left() == Some(0) && !self.was_tried()
    }

    /// Whether it was started without having said that it works.
    #[must_use]
    pub fn was_tried(&self) -> bool {
        let done = self.name.rsplit_once('+').and_then(|(_, counters)| counters.split_once('-'));
        self.tries_left().is_some() && done.is_some_and(|(_, done)| !done.starts_with('0'))
    }

    /// A name with no attempt left that is not among those that are `taken` (in lower case).
    #[must_use]
    pub fn ranked_behind(&self, taken: &[String]) -> Option<String> {
        let label = self.label();
        let names =
            (0..100).map(|done| if done == 0 { format!("{label}+0.efi") } else { format!("{label}+0-{done}.efi") });
        names.into_iter().find(|name| !taken.contains(&name.to_ascii_lowercase()))
    }
}

/// Label and attempts left of a UKI's file name (Boot Loader Specification, "Boot counting": `NAME+LEFT-DONE.efi`).
fn parts(name: &str) -> (&str, Option<u32>) {
    let stem = name.len().checked_sub(4).and_then(|end| name.split_at_checked(end));
    let stem = stem.filter(|(_, end)| end.eq_ignore_ascii_case(".efi")).map_or(name, |(stem, _)| stem);
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let counted = stem.rsplit_once('+').and_then(|(label, counters)| {
        let (left, done) = counters.split_once('-').unwrap_or((counters, "0"));
        number(done)?;
        Some((label, Some(number(left)?)))
    });
    counted.unwrap_or((stem, None))
}

/// Whether a file name is that of the UKI of the slot with this label, whatever attempts it has left.
#[must_use]
pub fn is_uki_of(name: &str, label: &str) -> bool {
    name.to_ascii_lowercase().ends_with(".efi") && parts(name).0.eq_ignore_ascii_case(label)
}

/// Which of two slots' labels (`NAME_VERSION`) is the newer one; labels of different names have no such order and are
/// compared as a whole, so that there is one.
#[must_use]
pub fn compare_labels(one: &str, other: &str) -> Ordering {
    match (one.rsplit_once('_'), other.rsplit_once('_')) {
        (Some((name, a)), Some((same, b))) if name.eq_ignore_ascii_case(same) => version::compare(a, b),
        _ => version::compare(one, other),
    }
}

impl EspContents {
    /// Looks at the file system on a partition of `size` bytes.
    #[must_use]
    pub fn read(size: u64, sector: u32, read: ReadAt<'_>) -> Self {
        match BootFiles::read(size, sector, read) {
            Ok(files) => Self::Volume(files),
            Err(VolumeError::Absent) if unmade::is_unmade(size, sector, read) => Self::Unmade,
            Err(VolumeError::Absent) => Self::Absent,
            // A part of a disk that cannot be read is a fault of that part.
            Err(error) => Self::Unusable { problem: format!("{:#}", anyhow::Error::new(error)) },
        }
    }

    /// What is on it, if that can be read.
    #[must_use]
    pub fn files(&self) -> Option<&BootFiles> {
        match self {
            Self::Volume(files) => Some(files),
            Self::Absent | Self::Unmade | Self::Unusable { .. } => None,
        }
    }
}

impl BootFiles {
    fn read(size: u64, sector: u32, read: ReadAt<'_>) -> Result<Self, VolumeError> {
        let mut volume = Volume::open(size, sector, read)?;
        volume.find_lost(read)?;
        let directory = volume.directory(UKI_DIRECTORY, read)?;
        let entries = directory.map(|directory| directory.entries).unwrap_or_default();
        let is_uki = |name: &str| name.to_ascii_lowercase().ends_with(".efi");
        let mut ukis: Vec<Uki> = entries
            .into_iter()
            .filter(|entry| !entry.is_directory && is_uki(&entry.name))
            .map(|entry| Uki {
                root_hash: root_hash(&volume, &entry, read),
                taken: volume.taken_from(entry.cluster),
                size: entry.size.into(),
                name: entry.name,
            })
            .collect();
        ukis.sort_by(|a, b| a.name.cmp(&b.name));
        let Noted { intents, dropped: dropped_intents } = Noted::on(&volume, read)?;
        let credentials = credentials(&volume, read);
        let (free, cluster) = (volume.free_bytes(), volume.cluster_bytes());
        Ok(Self { ukis, intents, dropped_intents, credentials, free, cluster })
    }

    /// The UKI of the slot of this data partition that is most likely to start.
    #[must_use]
    pub fn uki_of(&self, slot: &Entry) -> Option<&Uki> {
        let mut of_slot = self.ukis.iter().filter(|uki| uki.starts(slot));
        let first = of_slot.clone().next();
        of_slot.find(|uki| uki.may_start()).or(first)
    }
}

/// The root hash on the command line of a UKI. `None` also where it cannot be read: whoever starts it will see.
fn root_hash(volume: &Volume, file: &Listed, read: ReadAt<'_>) -> Option<Digest> {
    let mut reader = volume.reader(file, read).ok()?;
    let mut head = Vec::new();
    reader.by_ref().take(u64::try_from(HEAD_BYTES).ok()?).read_to_end(&mut head).ok()?;
    let sections = Sections::parse(&head).ok()?;
    let cmdline = read_section(&mut reader, sections.get(".cmdline")?, MAX_CMDLINE).ok()?;
    uki::root_hash(std::str::from_utf8(&cmdline).ok()?).ok()
}

/// The files in the directory of credentials. What cannot be read is not there: it is written anew.
fn credentials(volume: &Volume, read: ReadAt<'_>) -> BTreeMap<String, Digest> {
    let directory = volume.directory(credentials::DIRECTORY, read).ok().flatten();
    let files = directory.into_iter().flat_map(|directory| directory.entries).filter(|file| !file.is_directory);
    let (mut found, mut left) = (BTreeMap::new(), MOST_CREDENTIALS_BYTES);
    for file in files {
        let Some(rest) = left.checked_sub(file.size.into()) else { break };
        left = rest;
        let mut bytes = Vec::new();
        let content = volume.reader(&file, read).ok().and_then(|mut reader| reader.read_to_end(&mut bytes).ok());
        if content.is_some() {
            found.insert(file.name, Digest::of(&bytes));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Disk as _, Memory};
    use crate::fat::{File, Layout, RESERVED_SECTORS, Stage};

    #[test]
    fn counters_are_no_part_of_a_label() {
        let shown = |name: &str| {
            let uki = Uki { name: name.to_owned(), size: 1, root_hash: None, taken: 0 };
            (uki.label().to_owned(), uki.tries_left(), uki.may_start())
        };
        assert_eq!(shown("debian_13.2.efi"), ("debian_13.2".to_owned(), None, true));
        assert_eq!(shown("debian_13.2+3.efi"), ("debian_13.2".to_owned(), Some(3), true));
        assert_eq!(shown("debian_13.2+2-1.EFI"), ("debian_13.2".to_owned(), Some(2), true));
        assert_eq!(shown("debian_13.2+0-3.efi"), ("debian_13.2".to_owned(), Some(0), false));
        for odd in ["a+b.efi", "a+.efi", "a+1-.efi", "a+1-x.efi", "a+-1.efi", ".efi", "é.efi", "a"] {
            assert_eq!(shown(odd).1, None, "{odd}");
        }
        let empty = Uki { name: "a_1+3-0.efi".into(), size: 0, root_hash: None, taken: 0 };
        assert!(!empty.may_start() && empty.tries_left() == Some(3));
        let uki = Uki { name: "a_1+2-1.efi".into(), size: 0, root_hash: None, taken: 0 };
        assert_eq!(uki.ranked_behind(&[]).unwrap(), "a_1+0.efi");
        assert_eq!(uki.ranked_behind(&["a_1+0.efi".to_owned()]).unwrap(), "a_1+0-1.efi");
        let tried = |name: &str| Uki { name: name.to_owned(), size: 0, root_hash: None, taken: 0 }.was_tried();
        let names = ["a_1.efi", "a_1+3.efi", "a_1+3-0.efi", "a_1+2-1.efi", "a-1.efi", "a_1+0-3.efi"];
        assert_eq!(names.map(tried), [false, false, false, true, false, true]);
        let reserve = |name: &str| Uki { name: name.to_owned(), size: 1, root_hash: None, taken: 0 }.is_in_reserve();
        assert_eq!(["a_1+0.efi", "a_1+0-3.efi", "a_1+1.efi", "a_1.efi"].map(reserve), [true, false, false, false]);
        assert!(is_uki_of("DEBIAN_1+3.EFI", "debian_1") && !is_uki_of("debian_1.1.efi", "debian_1"));
        assert!(!is_uki_of("debian_1", "debian_1"));
    }

    #[test]
    fn a_uki_whose_clusters_are_no_chain_has_none_to_give_back() {
        let file = |path: &str| File { path: path.to_owned(), size: 9000 };
        let (size, files) = (512 << 20, [file("EFI/Linux/a_1.efi"), file("EFI/Linux/a_2.efi")]);
        let layout = Layout::new(size, 512, 7, "ESP", &files).unwrap();
        let memory = Memory::new(size, 512);
        for stage in [Stage::Tables, Stage::Publish, Stage::Reserved, Stage::BootSector] {
            layout.writes(stage).for_each(|write| memory.write_at(write.offset, &write.bytes).unwrap());
        }
        let taken = || {
            let esp = EspContents::read(size, 512, &|offset, buffer: &mut [u8]| memory.read_at(offset, buffer));
            esp.files().unwrap().ukis.iter().map(|uki| uki.taken).collect::<Vec<_>>()
        };
        assert_eq!(taken(), [3 * 4096, 3 * 4096]);
        // The last of its clusters is the last that any file has: the chain leads to one that is free.
        let (fat, mut sector) = (u64::from(RESERVED_SECTORS) * 512, [0; 512]);
        memory.read_at(fat, &mut sector).unwrap();
        let last = sector.chunks(4).rposition(|entry| entry != [0; 4]).unwrap();
        sector[last * 4..last * 4 + 4].fill(0);
        memory.write_at(fat, &sector).unwrap();
        assert_eq!(taken(), [3 * 4096, 0]);
    }

    #[test]
    fn labels_are_compared_by_version() {
        assert_eq!(compare_labels("debian_13.10", "debian_13.9"), Ordering::Greater);
        assert_eq!(compare_labels("debian_13.2~rc1", "Debian_13.2"), Ordering::Less);
        assert_eq!(compare_labels("b_1", "a_2"), Ordering::Greater);
    }
}
