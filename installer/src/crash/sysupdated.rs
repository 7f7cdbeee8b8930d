//! What systemd-sysupdate makes of a disk that has a free slot, by the transfer definitions that `metalstrap publish
//! --sysupdate` writes (`transfer_acquire_instance` and `transfer_install_instance` in its src/sysupdate/sysupdate-transfer.c):
//! first what the partitions hold, then UUID, label and flags of each, then the name of the UKI.

use std::fs;
use std::sync::Arc;

use metalstrap_release::manifest::{EMPTY_LABEL, Payload, ROOT_TYPE, ROOT_VERITY_TYPE, data_uuid, verity_uuid};
use uuid::Uuid;

use super::before::ESP_START;
use super::mtools;
use crate::disk::{Disk, Region};
use crate::gpt::{self, Image};
use crate::refusals::published::{ESP_BYTES, Published, payload_path};

/// Attribute bit 60, which `ReadOnly=` sets (Discoverable Partitions Specification).
const READ_ONLY: u64 = 1 << 60;

/// Puts `release` into the free slot of `disk`. `cut` by a power cut soon after, the UKI is empty: on a FAT that is not mounted
/// with `dirsync`, Linux writes the new name of a file before its size.
pub fn update(disk: &Arc<dyn Disk>, release: &Published, cut: bool) {
    let manifest = &release.manifest;
    let root = manifest.root().unwrap();
    let (root_hash, label) = (root.root_hash, format!("tiny_{}", manifest.version));
    fill(
        disk.as_ref(),
        ROOT_VERITY_TYPE,
        &content(release, &root.hash_tree),
        verity_uuid(&root_hash),
        &format!("{label}_verity"),
    );
    fill(disk.as_ref(), ROOT_TYPE, &content(release, &root.data), data_uuid(&root_hash), &label);
    let mut uki = content(release, &manifest.boot.uki.data);
    uki.truncate(if cut { 0 } else { usize::try_from(manifest.boot.uki.size).unwrap() });
    place_uki(disk, &uki, &format!("{label}+3-0.efi"));
}

/// The content of a payload.
fn content(release: &Published, payload: &Payload) -> Vec<u8> {
    zstd::decode_all(release.files[&payload_path(payload)].as_slice()).unwrap()
}

/// Fills the free partition of this type.
fn fill(disk: &dyn Disk, type_guid: Uuid, content: &[u8], uuid: Uuid, label: &str) {
    let mut table = gpt::read(disk).unwrap().unwrap();
    let is_free = |entry: &&mut gpt::Entry| entry.type_guid == type_guid && entry.label == EMPTY_LABEL;
    let entry = table.partitions.iter_mut().find(is_free).unwrap();
    assert!(content.len() as u64 <= entry.size);
    disk.write_at(entry.start, content).unwrap();
    (entry.uuid, entry.label) = (uuid, label.to_owned());
    entry.attributes |= READ_ONLY;
    Image::new(&table, disk.size(), disk.sector_size()).unwrap().write(disk).unwrap();
}

/// Writes the UKI under a name of its own and renames it.
fn place_uki(disk: &Arc<dyn Disk>, uki: &[u8], name: &str) {
    let region = Region { disk: Arc::clone(disk), start: ESP_START, size: ESP_BYTES };
    let (esp, file) = (mtools::Image::of(&region), tempfile::NamedTempFile::new().unwrap());
    fs::write(file.path(), uki).unwrap();
    let temporary = format!("::/EFI/Linux/.#sysupdate{name}0123456789abcdef");
    let steps: [(&str, &[&str]); 2] =
        [("mcopy", &[file.path().to_str().unwrap(), &temporary]), ("mren", &[&temporary, name])];
    for (tool, words) in steps {
        let output = esp.run(tool, words);
        assert!(output.status.success(), "{tool}: {output:?}");
    }
    esp.back(&region);
}
