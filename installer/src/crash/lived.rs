//! What an OS does to the disk that it was installed on: its UKI counts no attempts any more, it has data in the partition that
//! its layout marks `keep`, and there is a /var that it made itself.

use std::sync::Arc;

use metalstrap_release::manifest::Manifest;
use uuid::{Uuid, uuid};

use super::mtools;
use super::tables::{Part, linux};
use crate::converge::testing::bytes;
use crate::disk::{Disk, Region};
use crate::gpt::{self, Entry, Image};

const MIB: u64 = 1 << 20;
/// Variable data (Discoverable Partitions Specification).
const VAR_TYPE: Uuid = uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d");
const VAR: Uuid = uuid!("0a7f1f9e-2c55-4c5e-9a39-7b1c1f2f7a10");
const VAR_BYTES: usize = 2 << 20;
/// Label and size of the layout's partition that is marked `keep`.
pub const DATA: (&str, u64) = ("data", 2 << 20);

/// Partitions that are to stay as they are, whatever is done to the disk, with their bytes.
#[derive(Debug)]
pub struct Kept(Vec<(Part, Vec<u8>)>);

/// What a system does to its `disk` once it has come up.
pub fn live(disk: &Arc<dyn Disk>, manifest: &Manifest) -> Kept {
    bless(disk, manifest);
    Kept(vec![fill_data(disk.as_ref()), make_var(disk.as_ref())])
}

/// Fills the layout's partition that is marked `keep`.
fn fill_data(disk: &dyn Disk) -> (Part, Vec<u8>) {
    let table = gpt::read(disk).unwrap().unwrap();
    let entry = table.partitions.iter().find(|entry| entry.label == DATA.0).unwrap();
    let part = Part { uuid: entry.uuid, start: entry.start, size: entry.size };
    let bytes = bytes(72, usize::try_from(DATA.1).unwrap());
    assert_eq!(part.size, DATA.1);
    disk.write_at(part.start, &bytes).unwrap();
    (part, bytes)
}

/// Takes the attempts out of the UKI's name, as systemd-bless-boot does.
fn bless(disk: &Arc<dyn Disk>, manifest: &Manifest) {
    let esp = linux(disk.as_ref(), "").unwrap().remove(0);
    let region = Region { disk: Arc::clone(disk), start: esp.start, size: esp.size };
    let image = mtools::Image::of(&region);
    let (name, version) = (&manifest.name, &manifest.version);
    let renamed =
        image.run("mren", &[&format!("::/EFI/Linux/{name}_{version}+3.efi"), &format!("{name}_{version}.efi")]);
    assert!(renamed.status.success(), "{renamed:?}");
    image.back(&region);
}

/// Puts a partition with data behind the others, as systemd-repart does.
fn make_var(disk: &dyn Disk) -> (Part, Vec<u8>) {
    let mut table = gpt::read(disk).unwrap().unwrap();
    let last = table.partitions.last().unwrap();
    let part = Part { uuid: VAR, start: (last.start + last.size).next_multiple_of(MIB), size: VAR_BYTES as u64 };
    table.partitions.push(Entry {
        index: last.index + 1,
        type_guid: VAR_TYPE,
        uuid: part.uuid,
        label: "var".to_owned(),
        start: part.start,
        size: part.size,
        attributes: 0,
    });
    let bytes = bytes(71, VAR_BYTES);
    disk.write_at(part.start, &bytes).unwrap();
    Image::new(&table, disk.size(), disk.sector_size()).unwrap().write(disk).unwrap();
    (part, bytes)
}

impl Kept {
    /// Whether their bytes are as they were.
    pub fn is_whole(&self, disk: &dyn Disk) -> bool {
        self.0.iter().all(|(part, bytes)| {
            let mut found = vec![0; bytes.len()];
            disk.read_at(part.start, &mut found).unwrap();
            found == *bytes
        })
    }

    /// Whether a system that comes up finds them.
    pub fn is_found(&self, disk: &dyn Disk) -> bool {
        linux(disk, "gpt").is_some_and(|parts| self.0.iter().all(|(part, _)| parts.contains(part)))
    }
}
