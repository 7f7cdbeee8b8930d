//! The partitions behind the slots. On a disk that has the slots already, those that are there stay where they are, at the
//! size that the OS may have given them since; the others get places in what is free.

use std::iter;
use std::ops::Range;

use anyhow::{Context as _, Result};
use metalstrap_release::manifest::{DataPartition, Layout};
use uuid::Uuid;

use super::layout::derived_uuid;
use super::sizes::{self, Misfit, Place};
use super::{Area, Partition, PlanDisk, Role, reuse};
use crate::failure::{Code, coded};
use crate::gpt::{self, Entry};
use crate::inventory::Contents;

/// The partitions behind `slots` (which are the ESP and the slots), in the manifest's order, in the area `behind` them.
///
/// # Errors
/// [`Code::DiskTooSmall`] if one has no room between those that are there.
pub(super) fn partitions(
    disk: &PlanDisk,
    layout: &Layout,
    slots: &[Partition],
    behind: Area,
    stays: bool,
) -> Result<Vec<Partition>> {
    let there: Vec<&Entry> = if stays { there(disk, slots, behind.start) } else { Vec::new() };
    let found = found(disk, layout, &there);
    let free = free(&there, behind, layout.free_size);
    let missing = layout.partitions.iter().zip(&found).filter(|(_, found)| found.is_none());
    let missing: Vec<&DataPartition> = missing.map(|(wanted, _)| wanted).collect();
    let places = sizes::places(&missing, &free).map_err(|misfit| no_room(disk, &missing, misfit))?;
    let used: Vec<u32> =
        slots.iter().map(|slot| &slot.entry).chain(there.iter().copied()).map(|entry| entry.index).collect();
    let indices = (1..=gpt::ENTRIES).filter(|index| !used.contains(index));
    let mut new = places.into_iter().zip(indices);
    let mut partitions = Vec::new();
    for ((number, wanted), found) in (1..).zip(&layout.partitions).zip(&found) {
        let entry = match found {
            Some(found) => (*found).clone(),
            None => {
                let (place, index) = new.next().with_context(|| format!("placing the partition {:?}", wanted.label))?;
                entry(disk, wanted, index, place)
            }
        };
        partitions.push(Partition { role: Role::Data { number, kept: found.is_some() }, entry });
    }
    Ok(partitions)
}

/// What a disk that has the slots has behind them.
fn there<'a>(disk: &'a PlanDisk, slots: &[Partition], slots_end: u64) -> Vec<&'a Entry> {
    match &disk.contents {
        Contents::Gpt { table, .. } if reuse::has_slots(slots, table) => {
            table.partitions.iter().filter(|entry| entry.start >= slots_end).collect()
        }
        _ => Vec::new(),
    }
}

/// The entry of a new partition.
fn entry(disk: &PlanDisk, wanted: &DataPartition, index: u32, place: Place) -> Entry {
    Entry {
        index,
        type_guid: wanted.kind.guid(),
        uuid: made_uuid(disk, wanted),
        label: wanted.label.clone(),
        start: place.start,
        size: place.size,
        attributes: 0,
    }
}

/// The UUID of a partition that we make: by the label, not the number, since another layout may have had the partition at
/// another number.
fn made_uuid(disk: &PlanDisk, wanted: &DataPartition) -> Uuid {
    derived_uuid(&disk.identity, &format!("data {}", wanted.label))
}

/// For each of the layout's partitions the one that is there: the one that we have made, whatever the OS has called it since,
/// else one of the same type and label.
fn found<'a>(disk: &PlanDisk, layout: &Layout, there: &[&'a Entry]) -> Vec<Option<&'a Entry>> {
    let end = disk.identity.size.saturating_sub(gpt::backup_bytes(disk.sector_size));
    let usable = |entry: &&&Entry| entry.index <= gpt::ENTRIES && range(entry).end <= end && is_apart(entry, there);
    let mut found: Vec<Option<&'a Entry>> = vec![None; layout.partitions.len()];
    let is_made_for = |wanted: &DataPartition, entry: &Entry| entry.uuid == made_uuid(disk, wanted);
    let is_called = |wanted: &DataPartition, entry: &Entry| entry.label == wanted.label;
    for is_it in [&is_made_for as &dyn Fn(&DataPartition, &Entry) -> bool, &is_called] {
        for (place, wanted) in layout.partitions.iter().enumerate() {
            let taken = |entry: &Entry| found.iter().flatten().any(|other| other.index == entry.index);
            let mut free = there.iter().filter(usable).filter(|entry| !taken(entry));
            let it = free.find(|entry| entry.type_guid == wanted.kind.guid() && is_it(wanted, entry)).copied();
            if let Some(found) = found.get_mut(place) {
                *found = found.or(it);
            }
        }
    }
    found
}

/// Whether no other partition has bytes of this one.
fn is_apart(entry: &Entry, there: &[&Entry]) -> bool {
    let mut others = there.iter().filter(|other| other.index != entry.index);
    others.all(|other| !Area::of(entry).overlaps(&Area::of(other)))
}

fn range(entry: &Entry) -> Range<u64> {
    Area::of(entry).range()
}

/// What is free between the partitions that are there; the last `reserved` bytes of the area stay free in any case.
fn free(there: &[&Entry], behind: Area, reserved: u64) -> Vec<Area> {
    let mut taken: Vec<_> = there.iter().map(|entry| range(entry)).collect();
    taken.sort_by_key(|range| range.start);
    let end = behind.range().end.saturating_sub(reserved);
    let (mut areas, mut next) = (Vec::new(), behind.start);
    for range in taken.into_iter().chain(iter::once(end..end)) {
        let size = range.start.min(end).saturating_sub(next);
        if size > 0 {
            areas.push(Area { start: next, size });
        }
        next = next.max(range.end);
    }
    areas
}

fn no_room(disk: &PlanDisk, wanted: &[&DataPartition], misfit: Misfit) -> anyhow::Error {
    let Misfit { index, needed, largest } = misfit;
    let label = wanted.get(index).map_or("", |partition| partition.label.as_str());
    let text = format!(
        "disk {} has no room for the partition {label:?} of the layout: it needs {needed} bytes, and the largest free area \
         behind the slots has {largest}",
        disk.name
    );
    coded(Code::DiskTooSmall, text)
}

#[cfg(test)]
mod tests;
