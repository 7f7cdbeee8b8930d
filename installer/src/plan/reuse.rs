//! A disk that has our slots already: which of them gets the release, and what the others are good for.

use anyhow::Result;
use metalstrap_release::manifest::{Manifest, data_uuid};
use serde::Serialize;

use super::layout::{self, EMPTY};
use super::{Area, FIRST_SLOT, Partition, Plan, PlanDisk, Role};
use crate::gpt::{Entry, Table};
use crate::inventory::Contents;

/// A part of the disk that may hold blocks of the release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SeedArea {
    /// What it is, for people.
    pub what: String,
    /// What it may hold.
    pub holds: Holds,
    /// Where.
    #[serde(flatten)]
    pub area: Area,
    /// Where its hash tree may be.
    pub hash_tree: Option<Area>,
}

/// What a seed may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holds {
    /// Blocks of the root file system.
    Root,
    /// Blocks of boot loader and UKI.
    BootFiles,
}

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
            Role::Esp | Role::RootVerity { .. } | Role::Data { .. } => None,
        })
    };
    Ok(slots(&|old| old.uuid == uuid).or_else(|| slots(&|old| old.label == EMPTY)).unwrap_or(FIRST_SLOT))
}

/// Whether a table has a partition for the plan's ESP and each of its slots, of the same type and at the same place.
pub(super) fn has_slots(partitions: &[Partition], table: &Table) -> bool {
    let mut slots = partitions.iter().filter(|partition| !matches!(partition.role, Role::Data { .. }));
    slots.all(|partition| old(table, &partition.entry).is_some())
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
            Role::Root { .. } | Role::RootVerity { .. } | Role::Data { .. } => return None,
        };
        Some(SeedArea { what: partition.role.to_string(), holds, area: area(&partition.entry), hash_tree })
    };
    plan.partitions.iter().filter_map(seed).collect()
}

#[cfg(test)]
mod tests {
    use metalstrap_release::digest::Digest;
    use metalstrap_release::host::Existing;
    use uuid::Uuid;

    use super::super::tests::{disk, host, manifest, plan};
    use super::super::{Becomes, Wipe};
    use super::*;
    use crate::inventory::Copies;

    const GIB: u64 = 1 << 30;

    /// A disk with this table.
    fn holding(table: Table) -> PlanDisk {
        let holds = vec![vec![]; table.partitions.len()];
        disk(GIB, 512, Contents::Gpt { copies: Copies::Both, table, holds })
    }

    /// The next release.
    fn next() -> Manifest {
        let mut next = manifest();
        next.version = "13.2".to_owned();
        next.filesystems.iter_mut().for_each(|root| root.root_hash = Digest::of(b"next"));
        next
    }

    fn planned(on: &PlanDisk, manifest: &Manifest) -> Plan {
        Plan::new(on, manifest, &host(Existing::Wipe)).unwrap()
    }

    #[test]
    fn another_release_goes_into_the_empty_slot_and_comes_from_the_full_one() {
        let first = plan(GIB, 512, Contents::Blank);
        let second = planned(&holding(first.table()), &next());
        assert!(matches!(second.existing, Becomes::Replaced { .. }));
        assert_eq!(second.target, 'b');
        let label = |plan: &Plan, slot| plan.partition(Role::Root { slot }).unwrap().label.clone();
        assert_eq!((label(&second, 'a'), label(&second, 'b')), ("_empty".to_owned(), "debian_13.2".to_owned()));
        let old = first.partition(Role::Root { slot: 'a' }).unwrap();
        let seeds: Vec<_> = second.seeds.iter().map(|seed| (seed.what.as_str(), seed.holds, seed.area.start)).collect();
        assert_eq!(seeds, [("esp", Holds::BootFiles, 1 << 20), ("root-a", Holds::Root, old.start)]);
        // Neither the seeds nor the old table go before the release is in its slot.
        let kept = [old.start..old.start + old.size, 0..1 << 20, GIB - (1 << 20)..GIB];
        for area in second.wipes.iter().flat_map(|step: &Wipe| &step.ranges).map(Area::range) {
            assert!(kept.iter().all(|kept| area.end <= kept.start || kept.end <= area.start), "{area:?}");
        }
        assert!(second.wipes.iter().any(|step| step.what == "the old EFI system partition"));
        let after: Vec<u64> = second.leftovers.iter().flat_map(|step| &step.ranges).map(|area| area.start).collect();
        assert!(after.contains(&old.start));

        // The same again while it is interrupted, kept when it is done, and back again with the one before.
        assert_eq!(planned(&holding(first.table()), &next()), second);
        assert_eq!(planned(&holding(second.table()), &next()).existing, Becomes::Kept);
        let back = planned(&holding(second.table()), &manifest());
        assert_eq!((back.target, label(&back, 'b')), ('a', "_empty".to_owned()));
    }

    #[test]
    fn a_disk_with_other_partitions_is_wiped_as_a_whole() {
        let mut table = plan(GIB, 512, Contents::Blank).table();
        table.partitions.iter_mut().skip(2).take(1).for_each(|entry| entry.size -= 1 << 20);
        let plan = planned(&holding(table.clone()), &next());
        assert!(matches!(plan.existing, Becomes::Wiped { .. }));
        assert_eq!((plan.target, plan.seeds, plan.leftovers), ('a', vec![], vec![]));
        table.partitions.iter_mut().for_each(|entry| entry.type_guid = Uuid::from_u128(7));
        assert!(matches!(planned(&holding(table), &next()).existing, Becomes::Wiped { .. }));
    }
}
