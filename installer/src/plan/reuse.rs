//! A disk that has our slots already: which of them gets the release, and what the others are good for.

use anyhow::Result;
use metalstrap_release::manifest::{Manifest, data_uuid};

use super::layout::{self, EMPTY};
use super::{Area, FIRST_SLOT, Holds, Partition, Plan, PlanDisk, Role, SeedArea};
use crate::gpt::{Entry, Table};
use crate::inventory::Contents;

/// The slot that gets the release: the one that has its root hash, else the first one that is empty, else the first.
pub(super) fn target(disk: &PlanDisk, manifest: &Manifest) -> Result<char> {
    let Contents::Gpt { table, .. } = &disk.contents else { return Ok(FIRST_SLOT) };
    // Where the slots lie does not depend on which of them is filled.
    let (partitions, _) = layout::partitions(disk, manifest, FIRST_SLOT)?;
    if !has_slots(&partitions, table) {
        return Ok(FIRST_SLOT);
    }
    let uuid = data_uuid(&manifest.root()?.root_hash);
    let slots = |is: &dyn Fn(&Entry) -> bool| {
        partitions.iter().find_map(|Partition { role, entry }| match role {
            Role::Root { slot } => old(table, entry).filter(|old| is(old)).map(|_| *slot),
            Role::Esp | Role::RootVerity { .. } => None,
        })
    };
    Ok(slots(&|old| old.uuid == uuid).or_else(|| slots(&|old| old.label == EMPTY)).unwrap_or(FIRST_SLOT))
}

/// Whether a table has a partition for each of the plan's, of the same type and at the same place.
pub(super) fn has_slots(partitions: &[Partition], table: &Table) -> bool {
    partitions.iter().all(|partition| old(table, &partition.entry).is_some())
}

/// The partition of the table that lies where one of the plan's does.
fn old<'a>(table: &'a Table, entry: &Entry) -> Option<&'a Entry> {
    table.partitions.iter().find(|old| {
        (old.index, old.start, old.size, old.type_guid) == (entry.index, entry.start, entry.size, entry.type_guid)
    })
}

/// The other slots and the ESP, as places where blocks of the release may be.
pub(super) fn seeds(plan: &Plan) -> Vec<SeedArea> {
    let area = |entry: &Entry| Area { start: entry.start, size: entry.size };
    let tree = |slot: char| plan.partition(Role::RootVerity { slot }).ok().map(area);
    let seed = |partition: &Partition| {
        let (holds, hash_tree) = match partition.role {
            Role::Root { slot } if slot != plan.target => (Holds::Root, tree(slot)),
            Role::Esp => (Holds::BootFiles, None),
            Role::Root { .. } | Role::RootVerity { .. } => return None,
        };
        Some(SeedArea { what: partition.role.to_string(), holds, area: area(&partition.entry), hash_tree })
    };
    plan.partitions.iter().filter_map(seed).collect()
}
