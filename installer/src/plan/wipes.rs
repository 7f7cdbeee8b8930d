//! What is overwritten with zeroes, and in which order.
//!
//! The old system is made unbootable first (its ESP), so that a machine whose power fails in the middle does not start a
//! kernel without its root. Of the ESP its boot sector goes alone, before the rest: that is many writes, which a drive keeps in
//! any order, and a boot loader or kernel that is half gone must not be found. Then the signatures go, while the old table
//! still says where they are: an interrupted run finds them again. Then the table, from the end of the disk to its start (see
//! [`crate::gpt`]). Last the heads and tails of the new partitions, where something older than the old table may lie.
//!
//! Where the old table stays until the new one is written, what lies beside it goes as late: it may be part of a table that is
//! longer than ours.

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

/// The steps for what becomes of `contents`. `data` and `tree` are the bytes that the target slot's partitions get.
pub(super) fn steps(plan: &Plan, contents: &Contents, data: u64, tree: u64) -> Vec<Wipe> {
    let mut steps = match plan.existing {
        Becomes::Kept | Becomes::Updated { .. } => return added(plan),
        Becomes::Blank => Vec::new(),
        Becomes::Replaced { .. } => others_steps(plan, &old_areas(contents)),
        Becomes::Wiped { .. } => old_steps(plan, &old_areas(contents)),
    };
    steps.push(Wipe { what: "signatures in the new partitions".to_owned(), ranges: new_ranges(plan, data, tree) });
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

/// What goes when the release is in its slot: signatures in the slots that it came from, and of the disk as a whole.
pub(super) fn leftovers(plan: &Plan) -> Vec<Wipe> {
    let others = plan.partitions.iter().filter(|partition| match partition.role {
        Role::Esp | Role::Data { .. } => false,
        Role::Root { slot } | Role::RootVerity { slot } => slot != plan.target,
    });
    let slots = others.flat_map(|Partition { entry, .. }| ends(entry.start, entry.size, plan.disk.size)).collect();
    listed([
        ("signatures in the old slots", slots),
        ("what lies between the partition table and the partitions", beside_table(plan)),
    ])
}

/// What neither a copy of the table has nor a partition or the free space: superblocks of a disk that was used as a whole lie
/// there, those of md 0.90 and ZFS at its end.
fn beside_table(plan: &Plan) -> Vec<Area> {
    let (primary, backup) = (gpt::primary_bytes(plan.sector_size), gpt::backup_bytes(plan.sector_size));
    let first = plan.partitions.iter().map(|partition| partition.entry.start).fold(plan.free.start, u64::min);
    let gaps = [(primary, first), (plan.free.range().end, plan.disk.size.saturating_sub(backup))];
    let gaps = gaps.into_iter().filter(|(start, end)| start < end);
    gaps.map(|(start, end)| Area { start, size: end - start }).collect()
}

/// The old system is made unbootable, and what lies behind the slots goes; the slots and the table stay.
fn others_steps(plan: &Plan, old: &[OldArea]) -> Vec<Wipe> {
    // Of the slots nothing goes yet. A further partition that was at the same place may have been another size.
    let slot = |area: &&OldArea| {
        let is_it = |entry: &gpt::Entry| (entry.start, entry.size) == (area.start, area.size);
        plan.partitions.iter().any(|Partition { role, entry }| !matches!(role, Role::Data { .. }) && is_it(entry))
    };
    let both_ends = |boots: bool| -> Vec<Area> {
        let areas = old.iter().filter(|area| area.boots == boots && (boots || !slot(area)));
        areas.flat_map(|area| ends(area.start, area.size, plan.disk.size)).collect()
    };
    listed([
        ("the boot sector of the old EFI system partition", boot_sectors(old, plan.disk.size)),
        ("the old EFI system partition", both_ends(true)),
        ("signatures in the old partitions", both_ends(false)),
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
        Contents::Gpt { table, .. } => {
            let old = |entry: &gpt::Entry| OldArea {
                start: entry.start,
                size: entry.size,
                boots: entry.type_guid == ESP_TYPE,
            };
            table.partitions.iter().map(old).collect()
        }
    }
}

fn old_steps(plan: &Plan, old: &[OldArea]) -> Vec<Wipe> {
    let size = plan.disk.size;
    let both_ends = |areas: &mut dyn Iterator<Item = &OldArea>| -> Vec<Area> {
        areas.flat_map(|area| ends(area.start, area.size, size)).collect()
    };
    let boot = both_ends(&mut old.iter().filter(|area| area.boots));
    let rest = both_ends(&mut old.iter().filter(|area| !area.boots));
    let tail = size.saturating_sub(TAIL);
    listed([
        ("the boot sector of the old EFI system partition", boot_sectors(old, size)),
        ("the old EFI system partition", boot),
        ("signatures in the old partitions", rest),
        ("the old partition table at the end of the disk", vec![Area { start: tail, size: size - tail }]),
        ("the old partition table at the start of the disk", vec![Area { start: 0, size: HEAD.min(size) }]),
    ])
}

fn boot_sectors(old: &[OldArea], disk: u64) -> Vec<Area> {
    let boots = old.iter().filter(|area| area.boots);
    boots.flat_map(|area| ends(area.start, area.size.min(BOOT_SECTOR), disk)).collect()
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
