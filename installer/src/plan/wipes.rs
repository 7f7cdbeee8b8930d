//! What is overwritten with zeroes, and in which order.
//!
//! The old system is made unbootable first (its ESP), so that a machine whose power fails in the middle does not start a
//! kernel without its root. Of the ESP its boot sector goes alone, before the rest: that is many writes, which a drive keeps in
//! any order, and a boot loader or kernel that is half gone must not be found. Then the signatures go, while the old table
//! still says where they are: an interrupted run finds them again. Then the tables that only another one leads to, as to the
//! records of logical partitions, and that one, from the end of the disk to its start (see [`crate::gpt`]). Last the heads and
//! tails of the new partitions, where something older than the old table may lie.
//!
//! Where the old table stays until the new one is written, further tables and what lies beside it go as late: they may lead to
//! something in the slots, and what lies there may be part of a table that is longer than ours.

use serde::Serialize;

use super::layout::ESP_TYPE;
use super::{Area, Becomes, Partition, Plan, Role};
use crate::gpt;
use crate::inventory::{Contents, OldArea};

/// A step of wiping: ranges that become zero, then a flush.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wipe {
    /// What goes, for people.
    pub what: String,
    /// Where.
    pub ranges: Vec<Area>,
}

/// Bytes wiped at the start of a partition: the farthest that a superblock is looked for is LUKS2's second header at
/// 4 MiB (libblkid, `secondary_offsets` in superblocks/luks.c).
const HEAD: u64 = 5 << 20;
/// Bytes wiped at the end: ZFS has two labels of 256 KiB there, md, DDF and backup tables lie in the last 128 KiB.
const TAIL: u64 = 1 << 20;
/// Bytes at the start of an ESP without which nobody finds its files: the boot sector, at any sector size.
const BOOT_SECTOR: u64 = 4096;
/// The largest sectors that a table counts in.
const LARGEST_SECTOR: u32 = 4096;
/// Such as the records of logical partitions.
const FURTHER_TABLES: &str = "further tables of old partitions";

/// The steps for what becomes of `contents`. `data` and `tree` are the bytes that the target slot's partitions get.
pub(super) fn steps(plan: &Plan, contents: &Contents, data: u64, tree: u64) -> Vec<Wipe> {
    let (old, new) = (old_areas(contents), new_ranges(plan, data, tree));
    let (mut steps, ranges) = match plan.existing {
        Becomes::Kept | Becomes::Updated { .. } => return added(plan),
        Becomes::Blank => (Vec::new(), new),
        Becomes::Replaced { .. } => (replaced_steps(plan, &old), without(new, &further_tables(&old))),
        Becomes::Wiped { .. } => (old_steps(plan, &old), new),
    };
    steps.push(Wipe { what: "signatures in the new partitions".to_owned(), ranges });
    steps
}

/// Signatures in the partitions that a layout has in addition to what is on a disk that stays.
fn added(plan: &Plan) -> Vec<Wipe> {
    let new = plan.partitions.iter().filter(|partition| matches!(partition.role, Role::Data { kept: false, .. }));
    let ranges: Vec<Area> =
        new.flat_map(|Partition { entry, .. }| ends(entry.start, entry.size, plan.disk.size)).collect();
    if ranges.is_empty() {
        Vec::new()
    } else {
        vec![Wipe { what: "signatures in the new partitions".to_owned(), ranges }]
    }
}

/// What goes when the release is in its slot: signatures in the slots that it came from, and of the disk as a whole. `data` and
/// `tree` are the bytes that the target slot's partitions have.
pub(super) fn leftovers(plan: &Plan, contents: &Contents, data: u64, tree: u64) -> Vec<Wipe> {
    let (mut slots, mut unused): (Vec<Area>, Vec<Area>) = (Vec::new(), Vec::new());
    let mut stays = tables(plan.disk.size, plan.sector_size).to_vec();
    for Partition { role, entry } in &plan.partitions {
        let used = match role {
            Role::Esp | Role::Data { .. } => continue,
            Role::Root { slot } if *slot == plan.target => data,
            Role::RootVerity { slot } if *slot == plan.target => tree,
            Role::Root { .. } | Role::RootVerity { .. } => {
                slots.extend(ends(entry.start, entry.size, plan.disk.size));
                0
            }
        };
        stays.push(Area { start: entry.start, size: used });
        unused.push(Area { start: entry.start.saturating_add(used), size: entry.size.saturating_sub(used) });
    }
    // What another table than that with the slots had there.
    let is_ours =
        |area: &OldArea| plan.partitions.iter().any(|it| (it.entry.start, it.entry.size) == (area.start, area.size));
    let old: Vec<OldArea> = old_areas(contents).into_iter().filter(|area| !is_ours(area)).collect();
    let named = old.iter().filter(|area| !area.is_table);
    let named = named.flat_map(|area| ends(area.start, area.size, plan.disk.size));
    for range in named.flat_map(|range| unused.iter().filter_map(move |part| part.common(&range))) {
        if !slots.contains(&range) {
            slots.push(range);
        }
    }
    let further = further_tables(&old);
    listed([
        ("signatures in the old slots", without(slots, &further)),
        (FURTHER_TABLES, without(further, &stays)),
        ("what lies between the partition table and the partitions", beside_table(plan)),
    ])
}

/// What neither a copy of the table has nor a partition or the free space: superblocks of a disk that was used as a whole lie
/// there, those of md 0.90 and ZFS at its end.
fn beside_table(plan: &Plan) -> Vec<Area> {
    let tables = tables(plan.disk.size, plan.sector_size);
    edges(plan).into_iter().flat_map(|edge| without(vec![edge], &tables)).collect()
}

/// What lies before all partitions and the free space, and behind them.
fn edges(plan: &Plan) -> [Area; 2] {
    let first = plan.partitions.iter().map(|partition| partition.entry.start).fold(plan.free.start, u64::min);
    let end = plan.free.range().end;
    [Area { start: 0, size: first }, Area { start: end, size: plan.disk.size.saturating_sub(end) }]
}

/// Where the copies of a table like ours are on a disk of `size` bytes.
fn tables(size: u64, sector_size: u32) -> [Area; 2] {
    let (primary, backup) = (gpt::primary_bytes(sector_size), gpt::backup_bytes(sector_size));
    [Area { start: 0, size: primary }, Area { start: size.saturating_sub(backup), size: backup }]
}

/// Tables that neither the start nor the end of the disk has.
fn further_tables(old: &[OldArea]) -> Vec<Area> {
    old.iter().filter(|area| area.is_table).map(|area| Area { start: area.start, size: area.size }).collect()
}

/// What is left of `ranges` without what is in `holes`.
fn without(ranges: Vec<Area>, holes: &[Area]) -> Vec<Area> {
    let holes = holes.iter().filter(|hole| hole.size > 0);
    holes.fold(ranges, |ranges, hole| ranges.iter().flat_map(|range| range.without(hole)).collect())
}

/// The old system is made unbootable, and what lies behind the slots goes; the slots and the table stay.
fn replaced_steps(plan: &Plan, old: &[OldArea]) -> Vec<Wipe> {
    // Of the slots and the table nothing goes yet, whatever else another table says that they are.
    let slots = plan.partitions.iter().filter(|it| matches!(it.role, Role::Root { .. } | Role::RootVerity { .. }));
    let stays: Vec<Area> = slots.map(|partition| Area::of(&partition.entry)).chain(edges(plan)).collect();
    let further = further_tables(old);
    let named = |boots: bool| without(without(both_ends(old, boots, plan.disk.size), &stays), &further);
    listed([
        ("the boot sector of the old EFI system partition", without(boot_sectors(old, plan.disk.size), &stays)),
        ("the old EFI system partition", named(true)),
        ("signatures in the old partitions", named(false)),
    ])
}

/// The steps that have something to do.
fn listed<const N: usize>(steps: [(&str, Vec<Area>); N]) -> Vec<Wipe> {
    let steps = steps.into_iter().filter(|(_, ranges)| !ranges.is_empty());
    steps.map(|(what, ranges)| Wipe { what: what.to_owned(), ranges }).collect()
}

fn old_areas(contents: &Contents) -> Vec<OldArea> {
    match contents {
        Contents::Blank => Vec::new(),
        Contents::Unreadable { otherwise, .. } => otherwise.as_deref().map(old_areas).unwrap_or_default(),
        Contents::Foreign { areas, .. } => areas.clone(),
        Contents::Gpt { table, others, .. } => {
            let old = |entry: &gpt::Entry| OldArea {
                start: entry.start,
                size: entry.size,
                boots: entry.type_guid == ESP_TYPE,
                is_table: false,
            };
            table.partitions.iter().map(old).chain(others.iter().cloned()).collect()
        }
    }
}

fn old_steps(plan: &Plan, old: &[OldArea]) -> Vec<Wipe> {
    let size = plan.disk.size;
    // Whatever another table says is there: while they stay, an interrupted run finds the partitions again. One that was made for
    // larger sectors is longer.
    let tables = tables(size, LARGEST_SECTOR);
    let further = without(further_tables(old), &tables);
    let named = |boots: bool| without(without(both_ends(old, boots, size), &tables), &further);
    let mbr = Area { start: 0, size: u64::from(plan.sector_size) };
    let tail = size.saturating_sub(TAIL);
    listed([
        // One of an MBR may begin where a GPT would be, and goes first all the same.
        ("the boot sector of the old EFI system partition", without(boot_sectors(old, size), &[mbr])),
        ("the old EFI system partition", named(true)),
        ("signatures in the old partitions", named(false)),
        (FURTHER_TABLES, further),
        ("the old partition table at the end of the disk", vec![Area { start: tail, size: size - tail }]),
        ("the old partition table at the start of the disk", vec![Area { start: 0, size: HEAD.min(size) }]),
    ])
}

fn boot_sectors(old: &[OldArea], disk: u64) -> Vec<Area> {
    let boots = old.iter().filter(|area| area.boots);
    boots.flat_map(|area| ends(area.start, area.size.min(BOOT_SECTOR), disk)).collect()
}

/// Heads and tails of the partitions from which firmware `boots`, or of the others.
fn both_ends(old: &[OldArea], boots: bool, disk: u64) -> Vec<Area> {
    let areas = old.iter().filter(|area| area.boots == boots && !area.is_table);
    areas.flat_map(|area| ends(area.start, area.size, disk)).collect()
}

/// Head and tail of an area, as far as they lie on the disk.
fn ends(start: u64, size: u64, disk: u64) -> Vec<Area> {
    let end = start.saturating_add(size).min(disk);
    let size = end.saturating_sub(start);
    if size <= HEAD + TAIL {
        return if size == 0 { Vec::new() } else { vec![Area { start, size }] };
    }
    vec![Area { start, size: HEAD }, Area { start: end - TAIL, size: TAIL }]
}

/// Heads and tails of what the plan makes. The target slot's content stays: on a disk that looks blank it may be what an
/// interrupted run has written, and every block of it is checked in any case. Only what lies behind it goes.
fn new_ranges(plan: &Plan, data: u64, tree: u64) -> Vec<Area> {
    let mut ranges = Vec::new();
    for Partition { role, entry } in &plan.partitions {
        let content = match role {
            Role::Root { slot } if *slot == plan.target => data,
            Role::RootVerity { slot } if *slot == plan.target => tree,
            // They are seeds, and go later.
            Role::Root { .. } | Role::RootVerity { .. } if matches!(plan.existing, Becomes::Replaced { .. }) => {
                continue;
            }
            Role::Data { kept: true, .. } => continue,
            _ => {
                ranges.extend(ends(entry.start, entry.size, plan.disk.size));
                continue;
            }
        };
        // Content is whole blocks of 4096 bytes, so whole sectors.
        let start = entry.start + content.max(entry.size.saturating_sub(TAIL)).min(entry.size);
        let end = entry.start + entry.size;
        if start < end {
            ranges.push(Area { start, size: end - start });
        }
    }
    ranges.extend(ends(plan.free.start, plan.free.size, plan.disk.size));
    ranges
}

#[cfg(test)]
mod tests;
