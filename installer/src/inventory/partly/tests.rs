use std::sync::Arc;

use uuid::Uuid;

use super::*;
use crate::boot_files::EspContents;
use crate::disk::{Faulty, Memory, Operation};
use crate::gpt::{Entry, Image, Table};
use crate::inventory::Copies;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
/// Where a table's only partition begins; it has LVM.
const START: u64 = 8 * MIB;

/// A disk with such a table, of which the sectors that begin at `bad` cannot be read.
fn disk(bad: &[u64]) -> Faulty {
    let memory = Memory::new(SIZE, 512);
    let entry = Entry {
        index: 1,
        type_guid: Uuid::from_u128(1),
        uuid: Uuid::from_u128(2),
        label: "old".to_owned(),
        start: START,
        size: START,
        attributes: 0,
    };
    let table = Table { disk_guid: Uuid::from_u128(9), partitions: vec![entry] };
    Image::new(&table, SIZE, 512).unwrap().write(&memory).unwrap();
    memory.write_at(START + 512, &[b"LABELONE".as_slice(), &[0; 504]].concat()).unwrap();
    failing(memory, bad)
}

/// The same of one that has LVM as a whole.
fn without_table(bad: &[u64]) -> Faulty {
    let memory = Memory::new(SIZE, 512);
    memory.write_at(512, &[b"LABELONE".as_slice(), &[0; 504]].concat()).unwrap();
    failing(memory, bad)
}

fn failing(memory: Memory, bad: &[u64]) -> Faulty {
    let bad = bad.to_vec();
    let judge = move |what: Operation| match what {
        Operation::Read(start, length) if bad.iter().any(|bad| start < bad + 512 && *bad < start + length) => {
            Some(io::Error::from_raw_os_error(5))
        }
        _ => None,
    };
    Faulty::new(Arc::new(memory), judge)
}

/// Where labels of ZFS would be in what begins at `start`.
fn bad_from(start: u64, number: u64) -> Vec<u64> {
    (0..number).map(|n| start + (128 << 10) + n * 512).collect()
}

/// The error of a disk that cannot be read, and what is known of it otherwise.
fn seen(disk: &Faulty) -> (String, Option<Contents>) {
    match look(disk) {
        Contents::Unreadable { error, otherwise } => (error, otherwise.map(|known| *known)),
        other => panic!("{other}"),
    }
}

#[test]
fn a_bad_sector_of_a_table_is_an_error_and_what_the_others_say_is_known() {
    let whole = look(&disk(&[]));
    assert_eq!(whole.to_string(), "a GPT with 1 \"old\" (LVM2)");
    // Either copy of the table tells what was there.
    let (error, other) = seen(&disk(&[512]));
    assert_eq!(error, "reading bytes 512 to 1024 of memory: Input/output error (os error 5)");
    assert_eq!(other.as_ref().map(Contents::to_string), Some(whole.to_string()));
    assert!(matches!(other, Some(Contents::Gpt { copies: Copies::Backup, .. })), "{other:?}");
    let (_, other) = seen(&disk(&[512, START + 4096]));
    let text = "a GPT with 1 \"old\" (LVM2, sectors that cannot be read)";
    assert_eq!(other.as_ref().map(Contents::to_string).as_deref(), Some(text));
}

#[test]
fn a_bad_sector_of_a_partition_is_told_and_nothing_else_is_other() {
    // Where md has its superblock.
    let found = look(&disk(&[START + 4096]));
    assert_eq!(found.to_string(), "a GPT with 1 \"old\" (LVM2, sectors that cannot be read)");
    let (Contents::Gpt { copies, table, esp, .. }, Contents::Gpt { table: whole, .. }) = (found, look(&disk(&[])))
    else {
        panic!("no table")
    };
    assert_eq!((copies, table, esp), (Copies::Both, whole, EspContents::Absent));
    // Nobody looks there.
    assert_eq!(look(&disk(&[START + MIB + 512])), look(&disk(&[])));
    // Of many no more is known than that.
    let text = |number| look(&disk(&bad_from(START, number))).to_string();
    assert_eq!(text(32), "a GPT with 1 \"old\" (LVM2, sectors that cannot be read)");
    assert_eq!(text(33), "a GPT with 1 \"old\" (sectors that cannot be read)");
}

#[test]
fn too_many_bad_sectors_or_no_copy_of_the_table_say_nothing() {
    assert_eq!(seen(&disk(&[512, SIZE - 512])).1, None);
    assert_eq!(seen(&without_table(&bad_from(0, 32))).1, Some(look(&without_table(&[]))));
    assert_eq!(seen(&without_table(&bad_from(0, 33))).1, None);
}

#[test]
fn a_disk_that_is_locked_later_holds_what_it_held_with_the_same_bad_sectors_or_it_has_changed() {
    for place in [512, START + 4096] {
        let (sound, bad) = (disk(&[]), disk(&[place]));
        let (held, partly) = (look(&sound), look(&bad));
        assert!(still_holds(&sound, &held).unwrap() && still_holds(&bad, &partly).unwrap());
        assert!(!still_holds(&bad, &held).unwrap_or_default());
        assert!(!still_holds(&sound, &partly).unwrap());
        let other = disk(&[place]);
        other.write_at(START + 512, &[0; 512]).unwrap();
        assert!(!still_holds(&other, &partly).unwrap());
    }
    still_holds(&disk(&[512]), &look(&disk(&[]))).unwrap_err();
}
