//! What wiping leaves: nothing, and if something stays, it is found.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use metalstrap_release::host::Existing;
use uuid::Uuid;

use crate::disk::{Disk, Memory, Recorded, Recording};
use crate::failure::{Code, code_of};
use crate::gpt::{Entry, Image, Table, clear_leftovers, invalidate};
use crate::inventory::{self, Contents};
use crate::plan::tests::{GIB, MIB, disk as plan_disk, host, manifest, plan};
use crate::plan::{Becomes, Plan};

/// Signatures of an old disk: where, what, and its name.
const OLD: [(u64, &[u8], &str); 4] = [
    (600 * MIB + 512, b"LABELONE", "LVM2"),
    // The superblock of md 1.0 lies at the end of a partition.
    (800 * MIB - 8192, b"\xfc\x4e\x2b\xa9", "md RAID"),
    (800 * MIB + 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", "bcache"),
    // Behind the old table's partitions, from a table before it, where the new layout has slot B.
    (547 * MIB, b"XFSB", "XFS"),
];

/// A disk with a table of three partitions and those signatures.
fn old_disk() -> Memory {
    let entry = |index: u32, start: u64, end: u64| Entry {
        index,
        type_guid: Uuid::from_u128(1),
        uuid: Uuid::from_u128(index.into()),
        label: format!("old{index}"),
        start: start * MIB,
        size: (end - start) * MIB,
        attributes: 0,
    };
    let partitions = vec![entry(1, 600, 700), entry(2, 700, 800), entry(3, 800, 900)];
    let disk = Memory::new(GIB, 512);
    Image::new(&Table { disk_guid: Uuid::from_u128(9), partitions }, GIB, 512).unwrap().write(&disk).unwrap();
    for (position, magic, _) in OLD {
        let mut sector = vec![0; 512];
        let start = position / 512 * 512;
        let at = usize::try_from(position - start).unwrap();
        sector[at..at + magic.len()].copy_from_slice(magic);
        disk.write_at(start, &sector).unwrap();
    }
    disk
}

/// A disk that says that it wrote, and did not.
#[derive(Debug)]
struct Stubborn {
    inner: Memory,
    keeps: Range<u64>,
}

impl Disk for Stubborn {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut kept = vec![0; usize::try_from(self.keeps.end - self.keeps.start).unwrap()];
        self.inner.read_at(self.keeps.start, &mut kept)?;
        self.inner.write_at(offset, bytes)?;
        self.inner.write_at(self.keeps.start, &kept)
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn describe(&self) -> String {
        "stubborn".to_owned()
    }
}

fn left(keeps: Range<u64>) -> String {
    let inner = old_disk();
    let plan = plan(GIB, 512, inventory::inspect(&inner).unwrap());
    let error = invalidate(&Stubborn { inner, keeps }, &plan).unwrap_err();
    assert_eq!(code_of(&error), Code::NotClean);
    format!("{error:#}")
}

/// Lesson 21 of the field: old LVM, md and bcache were assembled by themselves and held the disk, and their superblocks came
/// back in new partitions at the same place. What is assembled already is taken down by [`crate::holders`].
#[test]
fn lesson_21_nothing_old_is_assembled_and_its_superblocks_go_before_the_table_and_are_looked_for_again() {
    let drivers = include_str!("../../../../initrd/drivers.conf");
    let taken: Vec<&str> = drivers.lines().filter(|line| !line.starts_with(['#', '!', '['])).collect();
    assert!(taken.contains(&"kernel/drivers/nvme/host/nvme"), "the list is what it is taken for");
    assert_eq!(
        taken.iter().find(|line| ["/md/", "dm-", "dm_", "bcache", "/md"].iter().any(|no| line.contains(no))),
        None
    );

    let old = old_disk();
    let contents = inventory::inspect(&old).unwrap();
    assert_eq!(contents.to_string(), "a GPT with 1 \"old1\" (LVM2), 2 \"old2\" (md RAID), 3 \"old3\" (bcache)");
    let plan = plan(GIB, 512, contents);
    let recording = Recording::new(Arc::new(old));
    invalidate(&recording, &plan).unwrap();
    let log = recording.take();
    let first = |position: u64| {
        let covers = |what: &Recorded| match what {
            Recorded::Write { offset, bytes } => (*offset..*offset + bytes.len() as u64).contains(&position),
            Recorded::Flush => false,
        };
        log.iter().position(covers).unwrap()
    };
    let table = [first(GIB - 512), first(512)];
    for (position, _, name) in &OLD[..3] {
        assert!(table.iter().all(|table| first(*position) < *table), "{name}");
    }
    for (start, size) in [(600, 100), (700, 100), (800, 100), (547, 32), (0, 1024)] {
        assert_eq!(inventory::signatures(&recording, start * MIB, size * MIB).unwrap(), Vec::<&str>::new());
    }

    // The drive that keeps one is found out, whichever it is.
    let ends = |position: u64| position / 512 * 512..position / 512 * 512 + 512;
    let texts = OLD.map(|(position, ..)| left(ends(position)));
    let expected = [
        "bytes 629145600 to 634388480 (signatures in the old partitions) still hold LVM2",
        "bytes 837812224 to 838860800 (signatures in the old partitions) still hold md RAID",
        "bytes 838860800 to 844103680 (signatures in the old partitions) still hold bcache",
        "bytes 573571072 to 578813952 (signatures in the new partitions) still hold XFS",
    ];
    assert_eq!(texts, expected.map(|text| format!("disk stubborn was wiped, but {text}")));
}

#[test]
fn what_no_signature_is_known_of_is_found_too() {
    let disk = old_disk();
    disk.write_at(601 * MIB, &[7; 512]).unwrap();
    let plan = plan(GIB, 512, inventory::inspect(&disk).unwrap());
    let error = invalidate(&Stubborn { inner: disk, keeps: 601 * MIB..601 * MIB + 512 }, &plan).unwrap_err();
    let text = "disk stubborn was wiped, but bytes 629145600 to 634388480 (signatures in the old partitions) still hold other \
                bytes than zeroes";
    assert_eq!(format!("{error:#}"), text);
}

#[test]
fn lesson_21_what_stays_until_the_release_is_in_its_slot_is_looked_for_again_too() {
    let disk = Memory::new(GIB, 512);
    let first = Plan::new(&plan_disk(GIB, 512, Contents::Blank), &manifest(), &host(Existing::Keep)).unwrap();
    Image::new(&first.table(), GIB, 512).unwrap().write(&disk).unwrap();
    // In the slot that the release comes from, in front of the partitions, and behind them.
    let slot = first.partitions.iter().find(|partition| partition.entry.label == "_empty").unwrap().entry.start;
    let plan = plan(GIB, 512, inventory::inspect(&disk).unwrap());
    assert!(matches!(plan.existing, Becomes::Replaced { .. }) && plan.target == 'a', "{:?}", plan.existing);
    let left = |keeps: u64| {
        let inner = disk.clone();
        inner.write_at(keeps, &[7; 512]).unwrap();
        clear_leftovers(&inner.clone(), &plan).unwrap();
        let error = clear_leftovers(&Stubborn { inner, keeps: keeps..keeps + 512 }, &plan).unwrap_err();
        assert_eq!(code_of(&error), Code::NotClean);
        format!("{error:#}")
    };
    let expected = [
        "bytes 572522496 to 573571072 (signatures in the old slots) still hold other bytes than zeroes",
        "bytes 17408 to 1048576 (what lies between the partition table and the partitions) still hold other bytes than \
         zeroes",
        "bytes 1072693248 to 1073724928 (what lies between the partition table and the partitions) still hold other bytes \
         than zeroes",
    ];
    let texts = [slot, MIB - 512, GIB - 65536].map(left);
    assert_eq!(texts, expected.map(|text| format!("disk stubborn was wiped, but {text}")));
}

#[test]
fn a_table_that_is_back_is_found() {
    // A plan that was made when the disk was blank wipes no table.
    let disk = old_disk();
    let blank = Plan::new(&plan_disk(GIB, 512, Contents::Blank), &manifest(), &host(Existing::Wipe)).unwrap();
    assert_eq!(blank.existing, Becomes::Blank);
    let error = invalidate(&disk, &blank).unwrap_err();
    assert_eq!(code_of(&error), Code::NotClean);
    assert!(
        format!("{error:#}").starts_with("disk memory was wiped, but still holds a GPT with 1 \"old1\""),
        "{error:#}"
    );
}
