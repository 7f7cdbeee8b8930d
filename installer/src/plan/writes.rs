//! Which bytes of the disk are written, and which never.

use std::sync::Arc;

use anyhow::Result;
use metalstrap_release::host::Erase;
use serde::Serialize;

use super::{Area, Partition, Plan, Role};
use crate::disk::{Disk, Guarded};
use crate::erase;
use crate::failure::{Code, coded};
use crate::gpt::{self, Entry, Table};

/// Purpose of the ranges of both copies of the table.
const TABLE: &str = "partition table";
/// Purpose of the range that an erasure goes over.
const ERASURE: &str = "erasure";

/// A range that is written or protected, and what for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Write {
    /// What for: a partition's role, `partition table`, `erasure` or `note of the erasure`.
    pub purpose: String,
    /// Where.
    #[serde(flatten)]
    pub area: Area,
}

impl Plan {
    /// Notes what stays of a table of ours: the other slots, and what the OS has made.
    pub(super) fn keep(&mut self, table: &Table) {
        let ours = |entry: &&Entry| self.partitions.iter().any(|ours| ours.entry.index == entry.index);
        self.kept = table.partitions.iter().filter(|entry| !ours(entry)).cloned().collect();
        let others = self.partitions.iter().filter(|partition| match partition.role {
            Role::Esp => false,
            Role::Root { slot } | Role::RootVerity { slot } => slot != self.target,
            Role::Data { kept, .. } => kept,
        });
        let protect = |purpose: String, entry: &Entry| Write { purpose, area: Area::of(entry) };
        let others = others.map(|partition| protect(partition.role.to_string(), &partition.entry));
        let kept = self.kept.iter().map(|entry| protect(format!("{} {:?}", entry.index, entry.label), entry));
        self.protects = others.chain(kept).collect();
    }

    /// Whether our table can name what stays on the disk called `name`: one with fewer entries leaves more of the disk to
    /// partitions, and one with more has numbers that ours has not.
    ///
    /// # Errors
    /// [`Code::DiskNotBlank`].
    pub(super) fn check_table(&self, name: &str) -> Result<()> {
        let is_in_place = |entry: &Entry| {
            let mut tables = self.writes.iter().filter(|write| write.purpose == TABLE);
            entry.index <= gpt::ENTRIES && !tables.any(|table| table.area.overlaps(&Area::of(entry)))
        };
        let Some(entry) = self.kept.iter().find(|entry| !is_in_place(entry)) else { return Ok(()) };
        let (Entry { index, label, .. }, range) = (entry, Area::of(entry).range());
        let text = format!(
            "disk {name} holds {index} {label:?} in bytes {} to {}, which stays, and for which a partition table of {} entries \
             has no place",
            range.start,
            range.end,
            gpt::ENTRIES
        );
        Err(coded(Code::DiskNotBlank, text))
    }

    /// Whether nothing that is protected is written to: the last look before the first write.
    ///
    /// # Errors
    /// [`Code::Internal`]: then this file is wrong.
    pub(super) fn check_protected(&self) -> Result<()> {
        let written = self.wipes.iter().chain(&self.leftovers).flat_map(|step| &step.ranges);
        for area in written.chain(self.writes.iter().map(|write| &write.area)) {
            if let Some(hit) = self.protects.iter().find(|protected| protected.area.overlaps(area)) {
                let (range, purpose) = (area.range(), &hit.purpose);
                let text = format!("the plan writes bytes {} to {}, which {purpose} has", range.start, range.end);
                return Err(coded(Code::Internal, text));
            }
        }
        Ok(())
    }

    /// What is written for a release whose root has `data` bytes, and `tree` bytes of hash tree.
    pub(super) fn list_writes(&self, data: u64, tree: u64) -> Vec<Write> {
        let (primary, backup) = (gpt::primary_bytes(self.sector_size), gpt::backup_bytes(self.sector_size));
        let mut writes: Vec<Write> = Vec::new();
        for Partition { role, entry } in &self.partitions {
            let size = match role {
                Role::Esp => entry.size,
                Role::Root { slot } if *slot == self.target => data,
                Role::RootVerity { slot } if *slot == self.target => tree,
                Role::Root { .. } | Role::RootVerity { .. } | Role::Data { .. } => continue,
            };
            writes.push(Write { purpose: role.to_string(), area: Area { start: entry.start, size } });
        }
        for (start, size) in [(0, primary), (self.disk.size.saturating_sub(backup), backup)] {
            writes.push(Write { purpose: TABLE.to_owned(), area: Area { start, size } });
        }
        if self.erase != Erase::None {
            let whole = Area { start: 0, size: self.disk.size };
            writes.push(Write { purpose: ERASURE.to_owned(), area: whole });
            writes.push(Write { purpose: "note of the erasure".to_owned(), area: erase::MARK });
        }
        writes
    }

    /// `disk`, but writes go only where the plan has a wipe or a write, and discards where it has one. An erasure goes past
    /// it, and permits nothing else to be written to the whole of the disk.
    #[must_use]
    pub fn guard(&self, disk: Arc<dyn Disk>) -> Guarded {
        let wipes = self.wipes.iter().chain(&self.leftovers).flat_map(|step| &step.ranges).map(Area::range);
        let writes = self.writes.iter().filter(|write| write.purpose != ERASURE).map(|write| write.area.range());
        Guarded::new(disk, wipes.chain(writes)).discarding(self.discards.iter().map(Area::range))
    }
}
