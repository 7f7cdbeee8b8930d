//! A disk that has our slots already: which of them gets the release, and what the others are good for.

use std::cmp::Ordering;

use anyhow::Result;
use metalstrap_release::manifest::{Manifest, data_uuid};
use serde::Serialize;

use super::layout::{self, EMPTY};
use super::{Area, FIRST_SLOT, Partition, Plan, PlanDisk, Role};
use crate::boot_files::{self, EspContents, Uki};
use crate::esp;
use crate::gpt::{self, Entry, Table};
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

/// A disk that has our layout: who made it may be told by the UUID of its ESP, which comes from the disk's identity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ours<'a> {
    pub table: &'a Table,
    pub esp: &'a EspContents,
}

impl<'a> Ours<'a> {
    /// If the disk has our ESP and the slots of `partitions`, and all else lies behind them.
    pub fn new(disk: &'a PlanDisk, partitions: &[Partition]) -> Option<Self> {
        let Contents::Gpt { table, esp, .. } = &disk.contents else { return None };
        let end = fixed(partitions).map(|partition| partition.entry.start.saturating_add(partition.entry.size)).max();
        let is_slot = |entry: &Entry| fixed(partitions).any(|partition| lies_at(entry, &partition.entry));
        let behind = |entry: &Entry| {
            let apart = fixed(partitions).all(|partition| partition.entry.index != entry.index);
            apart && entry.index <= gpt::ENTRIES && end.is_some_and(|end| entry.start >= end)
        };
        let ours = is_made_by_us(disk)
            && has_slots(partitions, table)
            && table.partitions.iter().all(|entry| is_slot(entry) || behind(entry));
        ours.then_some(Self { table, esp })
    }

    /// A slot's data partition.
    fn slot(&self, partitions: &[Partition], slot: char) -> Option<&'a Entry> {
        data(self.table, partitions, slot)
    }

    /// The label of a slot: of its data partition.
    pub fn label(&self, partitions: &[Partition], slot: char) -> Option<&'a str> {
        self.slot(partitions, slot).map(|entry| entry.label.as_str())
    }

    /// The slot that gets the release: the one that has its root hash, else its version, else the one that is missed least: an
    /// empty one, one without a UKI, one whose UKI has used up its attempts, one that was ranked behind another release, one that has
    /// not said that it works, the oldest.
    pub fn target(&self, partitions: &[Partition], manifest: &Manifest) -> Result<char> {
        let label = manifest.root_label();
        let same = slots(partitions).find(|slot| self.label(partitions, *slot) == Some(label.as_str()));
        // No two slots have one label: who has it already is the one.
        if let Some(slot) = with_root_hash(self.table, partitions, manifest)?.or(same) {
            return Ok(slot);
        }
        let slots = slots(partitions).filter_map(|slot| Some((slot, self.slot(partitions, slot)?)));
        let least = slots.min_by(|(_, a), (_, b)| self.compare(a, b));
        Ok(least.map_or(FIRST_SLOT, |(slot, _)| slot))
    }

    /// Which of two slots would be missed more.
    fn compare(&self, one: &Entry, other: &Entry) -> Ordering {
        let by_worth = self.worth(one).cmp(&self.worth(other));
        by_worth.then_with(|| boot_files::compare_labels(&one.label, &other.label))
    }

    /// How much a slot would be missed.
    fn worth(&self, slot: &Entry) -> u8 {
        let uki = self.esp.files().and_then(|files| files.uki_of(slot));
        match uki {
            _ if slot.label == EMPTY => 0,
            None => 1,
            Some(uki) if uki.is_in_reserve() => STARTS,
            Some(uki) if !uki.may_start() => 2,
            // Nobody has said yet that it works, though it was started.
            Some(uki) if uki.was_tried() => 4,
            Some(_) => 5,
        }
    }

    /// The newest release in another slot than `target` that starts if it is chosen, once the UKIs at `removed` are gone.
    pub fn fallback(&self, partitions: &[Partition], target: char, removed: &[String]) -> Option<String> {
        let others = slots(partitions).filter(|slot| *slot != target);
        let gone = |slot: &Entry| {
            let uki = self.esp.files().and_then(|files| files.uki_of(slot));
            uki.is_some_and(|uki| removed.contains(&uki.path()))
        };
        let others = others.filter_map(|slot| self.slot(partitions, slot));
        let good = others.filter(|slot| self.worth(slot) >= STARTS && !gone(slot));
        good.max_by(|a, b| self.compare(a, b)).map(|slot| slot.label.clone())
    }

    /// Puts into `partitions` what the table has: all of it but the target slot, and that too if it is as planned.
    pub fn take_over(&self, partitions: &mut [Partition], target: char) {
        for Partition { role, entry } in partitions {
            let Some(old) = old(self.table, entry) else { continue };
            let is_target = matches!(role, Role::Root { slot } | Role::RootVerity { slot } if *slot == target);
            if !is_target || (old.uuid, &old.label) == (entry.uuid, &entry.label) {
                *entry = old.clone();
            }
        }
    }

    /// What becomes of the names of UKIs when the release of `manifest` goes into `target`; `holds` if its root hash is there
    /// already: then it is the target, and its UKI stays.
    pub fn names(&self, partitions: &[Partition], target: char, manifest: &Manifest, holds: bool) -> Names {
        let label = &manifest.root_label();
        let old = self.slot(partitions, target).filter(|old| old.label != EMPTY);
        let ukis = self.esp.files().map(|files| files.ukis.as_slice()).unwrap_or_default();
        let name = |label: &str| label.rsplit_once('_').map(|(name, _)| name.to_ascii_lowercase());
        let is_namesake = |uki: &Uki| name(uki.label()) == name(label);
        // Its root is not on the disk any more: it would be started before an older one that works.
        let dangles = |uki: &Uki| {
            let hash = uki.root_hash.filter(|_| is_namesake(uki) && !uki.is_called(label));
            hash.is_some_and(|hash| self.table.partitions.iter().all(|entry| entry.uuid != data_uuid(&hash)))
        };
        let in_the_way = |uki: &Uki| uki.is_called(label) || old.is_some_and(|old| uki.starts(old));
        let goes = |uki: &&Uki| dangles(uki) || (!holds && in_the_way(uki));
        // systemd-boot starts the newest one first, unless it has no attempts left.
        let older = |uki: &Uki| is_namesake(uki) && boot_files::compare_labels(uki.label(), label) == Ordering::Less;
        let before = |uki: &&Uki| !goes(uki) && !uki.is_called(label) && uki.may_start() && !older(uki);
        let mut taken: Vec<String> = ukis.iter().map(|uki| uki.name.to_ascii_lowercase()).collect();
        let mut renamed = Vec::new();
        // What was ranked behind by an earlier run is not any more.
        let again = ukis.iter().find(|uki| holds && uki.name.eq_ignore_ascii_case(&format!("{label}+0.efi")));
        renamed.extend(again.map(|uki| (uki.path(), manifest.uki_name())));
        for uki in ukis.iter().filter(before) {
            let Some(name) = uki.ranked_behind(&taken) else { continue };
            taken.push(name.to_ascii_lowercase());
            renamed.push((uki.path(), name));
        }
        let (going, staying): (Vec<&Uki>, Vec<&Uki>) = ukis.iter().partition(goes);
        let mut removed: Vec<String> = going.iter().map(|uki| uki.path()).collect();
        // A boot loader that has nothing to start would wait for a person; without one, firmware goes on to the network.
        if !removed.is_empty() && !staying.iter().any(|uki| uki.may_start() || uki.is_in_reserve()) {
            removed.splice(0..0, [esp::FALLBACK_LOADER, esp::LOADER].map(str::to_owned));
        }
        Names { removed, renamed }
    }
}

/// What a slot is worth at least that starts if it is chosen.
const STARTS: u8 = 3;

/// What becomes of the names of UKIs that are on an ESP that stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Names {
    /// Paths of UKIs of the slot that is about to be overwritten: they go first of all. Before them, where nothing else is left
    /// to be started, those of the boot loader.
    pub removed: Vec<String>,
    /// Paths of UKIs and their new names: those that systemd-boot would start before the release have no attempts left; the
    /// release's own has its attempts again if it had been one of them.
    pub renamed: Vec<(String, String)>,
}

/// Whether a disk's table has the ESP that we make on this disk.
pub(super) fn is_made_by_us(disk: &PlanDisk) -> bool {
    let uuid = layout::derived_uuid(&disk.identity, &Role::Esp.to_string());
    matches!(&disk.contents, Contents::Gpt { table, .. }
        if table.partitions.iter().any(|entry| entry.uuid == uuid && entry.type_guid == layout::ESP_TYPE))
}

/// The slot of a disk that is replaced: the one that has the root hash, else the first one that is empty, else the first.
pub(super) fn target(disk: &PlanDisk, partitions: &[Partition], manifest: &Manifest) -> Result<char> {
    let Contents::Gpt { table, .. } = &disk.contents else { return Ok(FIRST_SLOT) };
    if !has_slots(partitions, table) {
        return Ok(FIRST_SLOT);
    }
    let empty = slots(partitions).find(|slot| data(table, partitions, *slot).is_some_and(|old| old.label == EMPTY));
    Ok(with_root_hash(table, partitions, manifest)?.or(empty).unwrap_or(FIRST_SLOT))
}

/// The slot that has the release's root hash.
pub(super) fn with_root_hash(table: &Table, partitions: &[Partition], manifest: &Manifest) -> Result<Option<char>> {
    let uuid = data_uuid(&manifest.root()?.root_hash);
    Ok(slots(partitions).find(|slot| data(table, partitions, *slot).is_some_and(|old| old.uuid == uuid)))
}

fn slots(partitions: &[Partition]) -> impl Iterator<Item = char> {
    partitions.iter().filter_map(|partition| match partition.role {
        Role::Root { slot } => Some(slot),
        Role::Esp | Role::RootVerity { .. } | Role::Data { .. } => None,
    })
}

/// A slot's data partition as the table has it.
fn data<'a>(table: &'a Table, partitions: &[Partition], slot: char) -> Option<&'a Entry> {
    let planned = partitions.iter().find(|partition| partition.role == Role::Root { slot })?;
    old(table, &planned.entry)
}

/// Whether a table has a partition for the plan's ESP and each of its slots, of the same type and at the same place.
pub(super) fn has_slots(partitions: &[Partition], table: &Table) -> bool {
    fixed(partitions).all(|partition| old(table, &partition.entry).is_some())
}

/// The ESP and the slots.
fn fixed(partitions: &[Partition]) -> impl Iterator<Item = &Partition> {
    partitions.iter().filter(|partition| !matches!(partition.role, Role::Data { .. }))
}

/// The partition of the table that lies where one of the plan's does.
fn old<'a>(table: &'a Table, entry: &Entry) -> Option<&'a Entry> {
    table.partitions.iter().find(|old| lies_at(old, entry))
}

fn lies_at(old: &Entry, entry: &Entry) -> bool {
    (old.index, old.start, old.size, old.type_guid) == (entry.index, entry.start, entry.size, entry.type_guid)
}

/// The other slots and the ESP, as places where blocks of the release may be.
pub(super) fn seeds(plan: &Plan) -> Vec<SeedArea> {
    let tree = |slot: char| plan.partition(Role::RootVerity { slot }).ok().map(Area::of);
    let seed = |partition: &Partition| {
        let (holds, hash_tree) = match partition.role {
            Role::Root { slot } if slot != plan.target => (Holds::Root, tree(slot)),
            Role::Esp => (Holds::BootFiles, None),
            Role::Root { .. } | Role::RootVerity { .. } | Role::Data { .. } => return None,
        };
        Some(SeedArea { what: partition.role.to_string(), holds, area: Area::of(&partition.entry), hash_tree })
    };
    plan.partitions.iter().filter_map(seed).collect()
}

#[cfg(test)]
mod tests;
