//! A system that this installer has not made: a GPT with an ESP, a volume of LVM and a member of a RAID, as far as their
//! signatures go.

use std::sync::Arc;

use metalstrap_release::digest::Digest;
use uuid::{Uuid, uuid};

use super::ghosts::{Ghosts, MD};
use super::judge::{Boot, FALLBACK, Which};
use super::tables::{Part, linux};
use crate::converge::testing::bytes;
use crate::disk::Disk;
use crate::fat::{File, Layout, Stage};
use crate::gpt::{Entry, Image, Table};

const MIB: u64 = 1 << 20;
/// EFI system partition (UEFI specification 2.10, table 5.7), Linux LVM and Linux RAID (libfdisk's list).
const ESP_TYPE: Uuid = uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b");
const LVM_TYPE: Uuid = uuid!("e6d6d379-f507-44c2-a23c-238f2a3df928");
const RAID_TYPE: Uuid = uuid!("a19d880f-05fc-4d3b-a006-743f0f84911e");
/// The least that FAT32 takes at both sector sizes.
const ESP: (u64, u64) = (MIB, 258 * MIB);
const LVM: (u64, u64) = (260 * MIB, 100 * MIB);
const RAID: (u64, u64) = (400 * MIB, 64 * MIB);
/// Its boot loader is longer than what is wiped in one write.
const LOADER_BYTES: usize = 2_500_000;

#[derive(Debug)]
pub struct Foreign {
    pub loader: Digest,
    parts: Vec<Part>,
    /// What its root is made of: LVM's label and md's superblock.
    signatures: Vec<(u64, Vec<u8>)>,
    /// What of them others look for.
    ghosts: Ghosts,
}

impl Foreign {
    /// Writes the system to `disk`.
    pub fn new(disk: &dyn Disk) -> Self {
        Image::new(&table(), disk.size(), disk.sector_size()).unwrap().write(disk).unwrap();
        let loader = bytes(91, LOADER_BYTES);
        write_esp(disk, &loader);
        // LVM2 looks for its label in the first four sectors; md 1.0 has its superblock 8 KiB before the end.
        let (mut label, mut superblock) = (bytes(92, 4096), bytes(93, 4096));
        let raid = RAID.0 + RAID.1 - 8192;
        label[512..520].copy_from_slice(b"LABELONE");
        superblock[..4].copy_from_slice(MD);
        let signatures = vec![(LVM.0, label), (raid, superblock)];
        let ghosts = Ghosts(vec![(LVM.0 + 512, b"LABELONE".as_slice()), (raid, MD)]);
        for (offset, bytes) in &signatures {
            disk.write_at(*offset, bytes).unwrap();
        }
        Self { loader: Digest::of(&loader), parts: linux(disk, "").unwrap(), signatures, ghosts }
    }

    /// What becomes of a machine whose firmware has started its boot loader.
    pub fn boot(&self, disk: &Arc<dyn Disk>) -> Boot {
        if linux(disk.as_ref(), "").as_ref() != Some(&self.parts) {
            return Boot::Stuck("the foreign system finds no partition table".to_owned());
        }
        if self.signatures.iter().any(|signature| !is_there(disk.as_ref(), signature)) {
            return Boot::Stuck("the foreign system finds no root".to_owned());
        }
        Boot::Starts(Which::Old)
    }

    /// Whether something of it would come to light again.
    pub fn haunts(&self, disk: &dyn Disk) -> bool {
        self.ghosts.haunt(disk)
    }
}

fn is_there(disk: &dyn Disk, (offset, bytes): &(u64, Vec<u8>)) -> bool {
    let mut found = vec![0; bytes.len()];
    disk.read_at(*offset, &mut found).unwrap();
    found == *bytes
}

fn table() -> Table {
    let entry = |index: u32, type_guid, label: &str, (start, size)| Entry {
        index,
        type_guid,
        uuid: Uuid::from_u128(u128::from(index)),
        label: label.to_owned(),
        start,
        size,
        attributes: 0,
    };
    let partitions = vec![
        entry(1, ESP_TYPE, "EFI System Partition", ESP),
        entry(2, LVM_TYPE, "lvm", LVM),
        entry(3, RAID_TYPE, "raid", RAID),
    ];
    Table { disk_guid: Uuid::from_u128(0x0f0f), partitions }
}

/// An ESP with a boot loader and nothing else.
fn write_esp(disk: &dyn Disk, loader: &[u8]) {
    let file = File { path: FALLBACK.to_owned(), size: loader.len() as u64 };
    let layout = Layout::new(ESP.1, disk.sector_size(), 7, "EFI", &[file]).unwrap();
    let mut padded = loader.to_vec();
    padded.resize(loader.len().next_multiple_of(4096), 0);
    disk.write_at(ESP.0 + layout.extents()[0].offset, &padded).unwrap();
    for write in [Stage::Tables, Stage::Publish, Stage::Reserved, Stage::BootSector]
        .into_iter()
        .flat_map(|stage| layout.writes(stage))
    {
        disk.write_at(ESP.0 + write.offset, &write.bytes).unwrap();
    }
}
