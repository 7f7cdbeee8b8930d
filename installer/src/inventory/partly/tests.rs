use std::sync::Arc;

use uuid::Uuid;

use super::*;
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
    let bad = bad.to_vec();
    let judge = move |what: Operation| match what {
        Operation::Read(start, length) if bad.iter().any(|bad| start < bad + 512 && *bad < start + length) => {
            Some(io::Error::from_raw_os_error(5))
        }
        _ => None,
    };
    Faulty::new(Arc::new(memory), judge)
}

/// The error, and what is known otherwise.
fn seen(bad: &[u64]) -> (String, Option<Contents>) {
    match look(&disk(bad)) {
        Contents::Unreadable { error, otherwise } => (error, otherwise.map(|known| *known)),
        other => panic!("{other}"),
    }
}

#[test]
fn a_bad_sector_is_an_error_and_what_the_others_say_is_known() {
    let whole = look(&disk(&[]));
    assert_eq!(whole.to_string(), "a GPT with 1 \"old\" (LVM2)");
    let error = "reading bytes 8392704 to 8392708 of memory: Input/output error (os error 5)".to_owned();
    assert_eq!(seen(&[START + 4096]), (error, Some(whole.clone())));
    // Either copy of the table tells what was there.
    let (_, other) = seen(&[512]);
    assert_eq!(other.as_ref().map(Contents::to_string), Some(whole.to_string()));
    assert!(matches!(other, Some(Contents::Gpt { copies: Copies::Backup, .. })), "{other:?}");
}

#[test]
fn too_many_bad_sectors_or_no_copy_of_the_table_say_nothing() {
    assert_eq!(seen(&[512, SIZE - 512]).1, None);
    // Where labels of ZFS would be.
    let bad = |number: u64| (0..number).map(|n| START + (128 << 10) + n * 512).collect::<Vec<_>>();
    assert_eq!(seen(&bad(32)).1, Some(look(&disk(&[]))));
    assert_eq!(seen(&bad(33)).1, None);
}

#[test]
fn a_disk_that_is_locked_later_holds_what_it_held_with_the_same_bad_sectors_or_it_has_changed() {
    let (sound, bad) = (disk(&[]), disk(&[START + 4096]));
    let (held, partly) = (look(&sound), look(&bad));
    assert!(still_holds(&sound, &held).unwrap() && still_holds(&bad, &partly).unwrap());
    still_holds(&bad, &held).unwrap_err();
    assert!(!still_holds(&sound, &partly).unwrap());
    let other = disk(&[START + 4096]);
    other.write_at(START + 512, &[0; 512]).unwrap();
    assert!(!still_holds(&other, &partly).unwrap());
}
