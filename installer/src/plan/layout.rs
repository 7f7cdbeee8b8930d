//! Where the partitions lie and what they are called.

use anyhow::Result;
use metalstrap_release::digest::Digest;
pub use metalstrap_release::manifest::ESP_TYPE;
use metalstrap_release::manifest::{
    EMPTY_LABEL, ESP_LABEL, Manifest, ROOT_TYPE, ROOT_VERITY_TYPE, data_uuid, verity_uuid,
};
use uuid::Uuid;

use super::{Area, Partition, PlanDisk, Role, data, sizes};
use crate::disk::Identity;
use crate::failure::{Code, coded};
use crate::gpt::{self, Entry};

/// ESP and slots start and end at multiples of this, whatever the sector size.
pub(super) const ALIGNMENT: u64 = 1 << 20;

/// Attribute bit 60: read-only (Discoverable Partitions Specification).
const READ_ONLY: u64 = 1 << 60;
/// What systemd-sysupdate takes for a free slot.
pub(super) const EMPTY: &str = EMPTY_LABEL;

/// The partitions in their order on the disk, and what stays free behind them. If what is on the disk `stays`, those behind its
/// slots keep their places.
///
/// # Errors
/// [`Code::DiskTooSmall`].
pub(super) fn partitions(
    disk: &PlanDisk,
    manifest: &Manifest,
    target: char,
    stays: bool,
) -> Result<(Vec<Partition>, Area)> {
    let usable_end = usable_end(disk, manifest)?;
    let (layout, root_hash) = (&manifest.layout, &manifest.root()?.root_hash);
    let mut builder = Builder { disk, next: ALIGNMENT, partitions: Vec::new() };
    builder.add(Role::Esp, layout.esp_size, None);
    for slot in slots(layout.slots) {
        let filled = slot == target;
        let verity = filled.then(|| (manifest.root_verity_label(), verity_uuid(root_hash)));
        builder.add(Role::RootVerity { slot }, layout.root_verity_size, verity);
        let data = filled.then(|| (manifest.root_label(), data_uuid(root_hash)));
        builder.add(Role::Root { slot }, layout.root_size, data);
    }
    let Builder { next, mut partitions, .. } = builder;
    let up_to_end = |start: u64| Area { start, size: usable_end.saturating_sub(start) };
    let data = data::partitions(disk, layout, &partitions, up_to_end(next), stays)?;
    let end = data.iter().map(|Partition { entry, .. }| entry.start.saturating_add(entry.size)).fold(next, u64::max);
    partitions.extend(data);
    Ok((partitions, up_to_end(end)))
}

fn slots(number: u32) -> impl Iterator<Item = char> {
    ('a'..='z').zip(0..number).map(|(slot, _)| slot)
}

/// The last multiple of 1 MiB before the backup table, if everything fits before it.
fn usable_end(disk: &PlanDisk, manifest: &Manifest) -> Result<u64> {
    let layout = &manifest.layout;
    let slot = layout.root_size.saturating_add(layout.root_verity_size);
    let slots = slot.saturating_mul(u64::from(layout.slots));
    let further = layout.partitions.iter().map(sizes::needed).fold(0, u64::saturating_add);
    let wanted = [slots, further, layout.free_size].into_iter().fold(layout.esp_size, u64::saturating_add);
    let backup = gpt::backup_bytes(disk.sector_size);
    let size = disk.identity.size;
    let end = wanted.saturating_add(ALIGNMENT).checked_next_multiple_of(ALIGNMENT).unwrap_or(u64::MAX);
    let needed = end.saturating_add(backup);
    if size < needed {
        let more = match layout.partitions.len() {
            0 => String::new(),
            number => format!("{further} for {number} further partitions, "),
        };
        let text = format!(
            "disk {} has {size} bytes, but the layout needs {needed}: ESP {}, {} slots of {slot}, {more}{} free, {} for \
             partition tables and alignment",
            disk.name,
            layout.esp_size,
            layout.slots,
            layout.free_size,
            needed.saturating_sub(wanted),
        );
        return Err(coded(Code::DiskTooSmall, text));
    }
    let usable = size.saturating_sub(backup);
    Ok(usable - usable % ALIGNMENT)
}

struct Builder<'a> {
    disk: &'a PlanDisk,
    next: u64,
    partitions: Vec<Partition>,
}

impl Builder<'_> {
    /// Adds a partition behind the last one. `filled` has its label and UUID; without, the UUID comes from the disk.
    fn add(&mut self, role: Role, size: u64, filled: Option<(String, Uuid)>) {
        let (type_guid, attributes, empty) = match role {
            Role::Esp => (ESP_TYPE, 0, ESP_LABEL),
            Role::Root { .. } => (ROOT_TYPE, 0, EMPTY),
            Role::RootVerity { .. } => (ROOT_VERITY_TYPE, READ_ONLY, EMPTY),
            // Theirs are the manifest's matter: see `data`.
            Role::Data { .. } => return,
        };
        let (label, uuid) =
            filled.unwrap_or_else(|| (empty.to_owned(), derived_uuid(&self.disk.identity, &role.to_string())));
        let index = self.partitions.last().map_or(1, |last| last.entry.index + 1);
        let entry = Entry { index, type_guid, uuid, label, start: self.next, size, attributes };
        self.next = self.next.saturating_add(size);
        self.partitions.push(Partition { role, entry });
    }
}

/// What a machine remembers a disk by. None for a disk that says nothing of itself that another one of its kind would not.
#[must_use]
pub fn lasting_uuid(disk: &Identity) -> Option<Uuid> {
    (disk.wwid.is_some() || disk.serial.is_some()).then(|| derived_uuid(disk, "memory"))
}

/// A UUID for `role` that is the same on every run on this disk, and of the form that random ones have (RFC 9562,
/// version 4): the first 128 bits of a SHA-256 over what the disk is known by: its WWID, else its serial number and model;
/// its size, which may grow, only where it has neither. Every part has its length before it, so
/// that no two lists of parts give the same bytes.
pub(super) fn derived_uuid(disk: &Identity, role: &str) -> Uuid {
    let size = disk.size.to_string();
    let parts = match (&disk.wwid, &disk.serial) {
        (Some(wwid), _) => [wwid.as_str(), ""],
        (None, Some(serial)) => [serial.as_str(), disk.model.as_deref().unwrap_or_default()],
        (None, None) => [disk.model.as_deref().unwrap_or_default(), size.as_str()],
    };
    let mut bytes = b"metalstrap uuid 2".to_vec();
    for part in parts.into_iter().chain([role]) {
        bytes.extend_from_slice(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    let digest = Digest::of(&bytes);
    uuid::Builder::from_random_bytes(*digest.0.first_chunk().unwrap_or(&[0; 16])).into_uuid()
}
