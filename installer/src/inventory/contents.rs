//! What is on a disk: nothing, a partition table, or something else.

use std::fmt;
use std::io;

use serde::Serialize;

use super::partly::Partly;
use super::{mbr, old_tables, probe};
use crate::boot_files::EspContents;
use crate::disk::Disk;
use crate::erase;
use crate::gpt::{self, Entry, Table};
use crate::plan::ESP_TYPE;

/// What is on a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Contents {
    /// No table, no signature that is known, and nothing but zeroes in the first 1 MiB, apart from the note of an erasure.
    Blank,
    /// A GUID partition table.
    Gpt {
        /// Which copies of it are valid.
        copies: Copies,
        /// The table; the one at the start where both are valid.
        #[serde(flatten)]
        table: Table,
        /// What each partition holds, in the table's order: names of signatures, and whether there are sectors that cannot be
        /// read where some are looked for. Nothing is decided by it.
        holds: Vec<Vec<&'static str>>,
        /// What the disk holds as a whole beside the partitions, of an earlier use: names of signatures. Nothing is decided
        /// by it.
        beside: Vec<&'static str>,
        /// Where further partitions lay by other tables: a copy that differs, a stale one, or one for another sector size. Nothing
        /// is decided by it, but a wipe goes for them as well.
        others: Vec<OldArea>,
        /// The first EFI system partition.
        esp: EspContents,
    },
    /// Something else.
    Foreign {
        /// What, by name; behind that what the parts hold.
        what: Vec<&'static str>,
        /// Where parts of it lie.
        areas: Vec<OldArea>,
    },
    /// The disk could not be read.
    Unreadable {
        /// Why.
        error: String,
        /// What the sectors say that can be read, if that is enough to wipe it by.
        otherwise: Option<Box<Contents>>,
    },
}

/// Which copies of a partition table are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Copies {
    /// Both, and they are the same.
    Both,
    /// The one at the start of the disk; Linux uses it.
    Primary,
    /// The one at the end: an update of the table was interrupted.
    Backup,
}

/// A partition of a table that is not kept, or such a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OldArea {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Whether firmware boots from it.
    pub boots: bool,
    /// Whether it is a table beside those at the ends of the disk: of what it names nothing else knows.
    pub is_table: bool,
}

/// Bytes at the start that are zero on a blank disk: where tables and boot code are, and before any partition of ours.
const BLANK_HEAD: usize = 1 << 20;

/// What a partition has among its signatures where some of it cannot be read.
const UNREADABLE: &str = "sectors that cannot be read";

/// Looks what is on `disk`. Nothing is written.
///
/// # Errors
/// The device's, but where it fails within the partitions of a GPT.
pub fn inspect(disk: &dyn Disk) -> io::Result<Contents> {
    inspect_with(disk, &Partly::new(disk))
}

/// [`inspect`], with what is read of `disk` within partitions read by way of `partly`.
pub(super) fn inspect_with(disk: &dyn Disk, partly: &Partly<'_>) -> io::Result<Contents> {
    let old = mbr::read(disk)?;
    if let Some((copies, table)) = read_table(disk, old.is_none())? {
        let holds = table.partitions.iter().map(|entry| held(partly, entry)).collect();
        let esp = read_esp(disk, &table);
        let partitions: Vec<_> = table.partitions.iter().map(|entry| (entry.start, entry.size)).collect();
        // No reason to refuse a disk that is kept: what cannot be read there belongs to nobody.
        let beside = probe::signatures_beside(disk, &partitions).unwrap_or_default();
        let mut others = old_tables::areas(disk, None).unwrap_or_default();
        others.retain(|area| !partitions.contains(&(area.start, area.size)));
        return Ok(Contents::Gpt { copies, table, holds, beside, others, esp });
    }
    let mut what = probe::signatures(disk, 0, disk.size())?;
    what.extend(old.as_ref().map(|_| "MBR partition table"));
    what.extend(probe::broken_tables(disk)?);
    if !what.is_empty() {
        let areas = old_tables::areas(disk, old)?;
        for area in areas.iter().filter(|area| !area.is_table) {
            // Nothing is decided by it: what cannot be read there is not named.
            let held = probe::signatures(disk, area.start, area.size).unwrap_or_default();
            let new: Vec<_> = held.into_iter().filter(|name| !what.contains(name)).collect();
            what.extend(new);
        }
        return Ok(Contents::Foreign { what, areas });
    }
    let mut head = vec![0; BLANK_HEAD.min(usize::try_from(disk.size()).unwrap_or(BLANK_HEAD))];
    disk.read_at(0, &mut head)?;
    erase::without_mark(&mut head);
    if head.iter().all(|byte| *byte == 0) {
        return Ok(Contents::Blank);
    }
    Ok(Contents::Foreign { what: vec!["unknown data in the first 1 MiB"], areas: Vec::new() })
}

/// What a partition holds, as far as it can be read: no reason to refuse a disk that is kept, and what a wipe clears does not hang
/// on it.
fn held(partly: &Partly<'_>, entry: &Entry) -> Vec<&'static str> {
    let found = probe::signatures(partly, entry.start, entry.size);
    let has_failed = found.is_err() || partly.has_bad_in(entry.start, entry.size);
    let mut names = found.unwrap_or_default();
    names.extend(has_failed.then_some(UNREADABLE));
    names
}

/// The EFI system partition with the lowest index.
fn read_esp(disk: &dyn Disk, table: &Table) -> EspContents {
    let Some(esp) = table.partitions.iter().find(|entry| entry.type_guid == ESP_TYPE) else {
        return EspContents::Absent;
    };
    let region = |offset: u64, buffer: &mut [u8]| match esp.start.checked_add(offset) {
        Some(at) if offset < esp.size => disk.read_at(at, buffer),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    };
    EspContents::read(esp.size, disk.sector_size(), &region)
}

/// The table and which copies are valid. A copy at the end counts on its own only where no other table was put over it.
fn read_table(disk: &dyn Disk, alone: bool) -> io::Result<Option<(Copies, Table)>> {
    let backup = gpt::read_backup(disk)?;
    Ok(match gpt::read(disk)? {
        Some(table) if backup.as_ref() == Some(&table) => Some((Copies::Both, table)),
        Some(table) => Some((Copies::Primary, table)),
        None => backup.filter(|_| alone).map(|table| (Copies::Backup, table)),
    })
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blank => write!(f, "nothing"),
            Self::Unreadable { error, .. } => write!(f, "what cannot be read ({error})"),
            Self::Foreign { what, .. } => write!(f, "{}", what.join(", ")),
            Self::Gpt { table, holds, beside, .. } => {
                if table.partitions.is_empty() {
                    write!(f, "an empty GPT")?;
                } else {
                    write!(f, "a GPT with {}", Partitions(table, holds))?;
                }
                if beside.is_empty() { Ok(()) } else { write!(f, ", and beside the partitions {}", beside.join(", ")) }
            }
        }
    }
}

/// The partitions in words: index, label, and what they hold.
struct Partitions<'a>(&'a Table, &'a [Vec<&'static str>]);

impl fmt::Display for Partitions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (entry, holds)) in self.0.partitions.iter().zip(self.1).enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{} {:?}", entry.index, entry.label)?;
            if !holds.is_empty() {
                write!(f, " ({})", holds.join(", "))?;
            }
        }
        Ok(())
    }
}
