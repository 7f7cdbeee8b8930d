//! The oracle is `systemd-repart --dry-run=yes` on a file of the disk's size.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use metalstrap_release::manifest::{MAX_PARTITION_BYTES, PartitionType};
use proptest::prelude::*;
use serde_json::Value;
use uuid::Uuid;

use super::*;
use crate::disk::FileDisk;
use crate::gpt::{Entry, Image, Table, backup_bytes, primary_bytes};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn partition(size: (Option<u64>, Option<u64>), weight: u32) -> DataPartition {
    DataPartition {
        kind: PartitionType::from_text("linux-generic").unwrap(),
        label: String::new(),
        size_min: size.0,
        size_max: size.1,
        weight,
        padding_min: 0,
        padding_max: None,
        padding_weight: 0,
        keep: false,
    }
}

/// The places in one area from 1 MiB on, as (start, size).
fn shown(size: u64, partitions: &[DataPartition]) -> Vec<(u64, u64)> {
    let partitions: Vec<&DataPartition> = partitions.iter().collect();
    let places = places(&partitions, &[Area { start: MIB, size }]).unwrap();
    places.iter().map(|place| (place.start, place.size)).collect()
}

#[test]
fn weights_share_out_what_least_and_largest_sizes_leave() {
    let any = || partition((None, None), 1000);
    assert_eq!(shown(GIB, &[any()]), [(MIB, GIB)]);
    assert_eq!(shown(GIB, &[any(), any()]), [(MIB, GIB / 2), (MIB + GIB / 2, GIB / 2)]);
    // 333 of 1333 of 1 GiB, rounded down to a block.
    let (small, rest) = (268_230_656, GIB - 268_230_656);
    assert_eq!(shown(GIB, &[partition((None, None), 333), any()]), [(MIB, small), (MIB + small, rest)]);
    // The first needs more than its half.
    let first = partition((Some(768 * MIB), None), 1000);
    assert_eq!(shown(GIB, &[first, any()]), [(MIB, 768 * MIB), (769 * MIB, 256 * MIB)]);
    // The first takes less than its half.
    let first = partition((None, Some(64 * MIB)), 1000);
    assert_eq!(shown(GIB, &[first, any()]), [(MIB, 64 * MIB), (65 * MIB, 960 * MIB)]);
    // Without weight, what it needs; what nobody takes stays free.
    let (none, most) = (partition((None, None), 0), partition((None, Some(20 * MIB)), 1000));
    assert_eq!(shown(GIB, &[none.clone(), any()]), [(MIB, 10 * MIB), (11 * MIB, 1014 * MIB)]);
    assert_eq!(shown(GIB, &[most.clone(), most]), [(MIB, 20 * MIB), (21 * MIB, 20 * MIB)]);
    // All alone it gets the rest too, whatever its weight.
    assert_eq!(shown(GIB, &[none]), [(MIB, GIB)]);
    // The default least size beats a smaller largest one.
    let tiny = partition((None, Some(4096)), 1000);
    assert_eq!(shown(GIB, &[tiny, any()]), [(MIB, 10 * MIB), (11 * MIB, 1014 * MIB)]);
}

#[test]
fn padding_is_shared_out_like_sizes() {
    let padded = DataPartition { padding_weight: 1000, ..partition((None, None), 1000) };
    let last = partition((None, None), 2000);
    assert_eq!(shown(GIB, &[padded.clone(), last.clone()]), [(MIB, GIB / 4), (MIB + GIB / 2, GIB / 2)]);
    let padded = DataPartition { padding_min: 512 * MIB, ..padded };
    let third = 178_954_240;
    let rest = 512 * MIB - third;
    assert_eq!(shown(GIB, &[padded.clone(), last.clone()]), [(MIB, third), (513 * MIB + third, rest)]);
    let padded = DataPartition { padding_min: 0, padding_max: Some(8192), ..padded };
    let size = 357_908_480;
    assert_eq!(shown(GIB, &[padded, last]), [(MIB, size), (MIB + size + 8192, GIB - 8192 - size)]);
}

#[test]
fn each_goes_into_the_smallest_area_that_has_room() {
    let wanted = [30, 10, 100, 25].map(|mib| partition((Some(mib * MIB), Some(mib * MIB)), 1000));
    let wanted: Vec<&DataPartition> = wanted.iter().collect();
    let areas = [(1000, 200), (100, 40), (500, 34)].map(|(start, size)| Area { start: start * MIB, size: size * MIB });
    let starts = |wanted: &[&DataPartition]| -> Result<Vec<u64>, Misfit> {
        Ok(places(wanted, &areas)?.iter().map(|place| place.start / MIB).collect())
    };
    assert_eq!(starts(&wanted), Ok(vec![500, 100, 1000, 110]));
    let five: Vec<&DataPartition> = wanted.iter().copied().chain([wanted[2]]).collect();
    assert_eq!(starts(&five), Ok(vec![500, 100, 1000, 110, 1100]));
    let six: Vec<&DataPartition> = five.iter().copied().chain([wanted[1]]).collect();
    assert_eq!(starts(&six), Err(Misfit { index: 5, needed: 10 * MIB, largest: 5 * MIB }));
    // Ends of areas that are no whole blocks are left out.
    let odd = [Area { start: 512, size: 3 * 4096 }];
    let block = partition((Some(4096), None), 1);
    assert_eq!(places(&[&block], &odd), Ok(vec![Place { start: 4096, size: 2 * 4096 }]));
    assert_eq!(places(&[&block], &[]), Err(Misfit { index: 0, needed: 4096, largest: 0 }));
}

#[test]
fn the_largest_values_do_not_overflow() {
    let most = Some(MAX_PARTITION_BYTES);
    let padded = DataPartition { padding_min: MAX_PARTITION_BYTES, ..partition((most, most), 1_000_000) };
    assert_eq!(needed(&padded), 2 * MAX_PARTITION_BYTES);
    let any = partition((None, None), 999_999);
    let all = [&padded, &any, &padded];
    let area = Area { start: MIB, size: u64::MAX };
    let places = places(&all, &[area]).unwrap();
    assert_eq!(places.iter().map(|place| place.size).min(), Some(MAX_PARTITION_BYTES));
    // 20 TiB * 999999 is beyond 64 bits: systemd-repart halves the weights (999999 to 499999, 1999999 to 1000000).
    assert_eq!(share(20 << 40, 999_999, 1_999_999), (20 << 40) * 499_999 / 1_000_000);
}

#[test]
fn systemd_repart_knows_the_types_by_the_same_names() {
    let directory = tempfile::tempdir().unwrap();
    let names = PartitionType::names();
    for (number, name) in names.iter().enumerate() {
        let guid = PartitionType::from_text(name).unwrap().guid();
        fs::write(directory.path().join(format!("{number}.conf")), format!("[Partition]\nType={guid}\n")).unwrap();
    }
    let rows = repart(directory.path(), GIB, 512).unwrap();
    let types: Vec<_> = rows.iter().map(|row| row["type"].as_str().unwrap()).collect();
    assert_eq!(types, names);
}

/// The rows of systemd-repart's table for the definitions in `directory` and the disk `disk` there, which is made if it is
/// not there; `None` if it finds no room.
fn repart(directory: &Path, size: u64, sector_size: u32) -> Option<Vec<Value>> {
    let disk = directory.join("disk");
    if !disk.exists() {
        File::create(&disk).unwrap().set_len(size).unwrap();
    }
    let mut command = Command::new("systemd-repart");
    command.args(["--dry-run=yes", "--empty=allow", "--json=short", "--seed=11111111111111111111111111111111"]);
    if takes_sector_sizes() {
        command.arg(format!("--sector-size={sector_size}"));
    }
    let output = command.arg("--definitions").arg(directory).arg(disk).output().expect(TOOL);
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("Can't fit requested partitions into available free space") {
        return None;
    }
    assert!(output.status.success(), "{text}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

const TOOL: &str = "systemd-repart, of Debian's package systemd-repart (systemd before Debian 13)";

/// Whether it can be told the sector size of a file (since systemd 254). Without that, a file has sectors of 512 bytes.
fn takes_sector_sizes() -> bool {
    let help = Command::new("systemd-repart").arg("--help").output().expect(TOOL);
    String::from_utf8_lossy(&help.stdout).contains("--sector-size")
}

/// A definition of systemd-repart that says the same.
fn definition(partition: &DataPartition, number: usize) -> String {
    let mut text = format!("[Partition]\nType={}\nLabel=new-{number}\n", partition.kind);
    let optional = |name: &str, size: Option<u64>| size.map_or(String::new(), |size| format!("{name}={size}\n"));
    text += &optional("SizeMinBytes", partition.size_min);
    text += &optional("SizeMaxBytes", partition.size_max);
    text += &optional("PaddingMinBytes", Some(partition.padding_min));
    text += &optional("PaddingMaxBytes", partition.padding_max);
    text + &format!("Weight={}\nPaddingWeight={}\n", partition.weight, partition.padding_weight)
}

/// A size in blocks, small ones as likely as large ones.
fn blocks() -> impl Strategy<Value = u64> {
    prop_oneof![1_u64..16, 1_u64..4096, 1_u64..65536, 1_u64..300_000].prop_map(|blocks| blocks * GRAIN)
}

fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(1), Just(1000), 0_u32..=5000, 0_u32..=1_000_000]
}

prop_compose! {
    fn any_partition()(
        sizes in (prop::option::of(blocks()), prop::option::of(blocks())),
        paddings in (prop_oneof![Just(0), blocks()], prop::option::of(blocks())),
        weight in weight(),
        padding_weight in prop_oneof![Just(0), weight()],
    ) -> DataPartition {
        let (size_min, size_max) = match sizes {
            (Some(one), Some(other)) => (Some(one.min(other)), Some(one.max(other))),
            other => other,
        };
        let padding_max = paddings.1.map(|most| most.max(paddings.0));
        DataPartition { padding_min: paddings.0, padding_max, padding_weight, ..partition((size_min, size_max), weight) }
    }
}

/// Partitions of a type that no definition has, with gaps between them, as far as they fit before `end`.
fn foreign(gaps: &[(u64, u64)], end: u64) -> Vec<Entry> {
    let (mut entries, mut next) = (Vec::new(), MIB);
    for (index, (gap, size)) in (1..).zip(gaps) {
        let start = next + gap;
        next = start + size;
        if next > end {
            break;
        }
        let uuid = Uuid::from_u128(u128::from(index));
        let (type_guid, label) = (Uuid::from_u128(7), format!("old-{index}"));
        entries.push(Entry { index, type_guid, uuid, label, start, size: *size, attributes: 0 });
    }
    entries
}

/// The areas between the entries, which lie in order, from `start` to `end`; each with the entry before it.
fn gaps(entries: &[Entry], start: u64, end: u64) -> Vec<(Area, Option<&Entry>)> {
    let before = std::iter::once(None).chain(entries.iter().map(Some));
    let starts = std::iter::once(start).chain(entries.iter().map(|entry| entry.start + entry.size));
    let ends = entries.iter().map(|entry| entry.start).chain([end / GRAIN * GRAIN]);
    let areas = starts.zip(ends).map(|(start, end)| Area { start, size: end - start });
    areas.zip(before).filter(|(area, _)| area.size > 0).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn sizes_and_places_are_those_of_systemd_repart(
        partitions in prop::collection::vec(any_partition(), 1..=8),
        old in prop::collection::vec((prop_oneof![Just(0), blocks()], blocks()), 0..4),
        disk in 4096_u64..2_000_000,
        sector_size in prop::sample::select(vec![512_u32, 4096]),
    ) {
        let sector_size = if takes_sector_sizes() { sector_size } else { 512 };
        let (size, directory) = (disk * GRAIN, tempfile::tempdir().unwrap());
        for (number, partition) in partitions.iter().enumerate() {
            fs::write(directory.path().join(format!("{number}.conf")), definition(partition, number)).unwrap();
        }
        let end = size - backup_bytes(sector_size);
        let old = foreign(&old, end);
        if !old.is_empty() {
            let path = directory.path().join("disk");
            File::create(&path).unwrap().set_len(size).unwrap();
            let table = Table { disk_guid: Uuid::from_u128(9), partitions: old.clone() };
            Image::new(&table, size, sector_size).unwrap().write(&FileDisk::open(&path, sector_size).unwrap()).unwrap();
        }
        // In a table that is there it takes the header's word for the first sector that may be used.
        let start = if old.is_empty() { MIB } else { up(primary_bytes(sector_size)) };
        let gaps = gaps(&old, start, end);
        let areas: Vec<Area> = gaps.iter().map(|(area, _)| *area).collect();
        let ours = places(&partitions.iter().collect::<Vec<_>>(), &areas);
        let theirs = repart(directory.path(), size, sector_size);
        prop_assert_eq!(ours.is_ok(), theirs.is_some(), "{:?}", ours);
        let (Ok(ours), Some(theirs)) = (ours, theirs) else { return Ok(()) };
        for (number, place) in ours.iter().enumerate() {
            let row = |label: &str| theirs.iter().find(|row| row["label"] == label).unwrap();
            let (_, before) = gaps.iter().find(|(area, _)| area.range().contains(&place.start)).unwrap();
            // What nobody takes it puts behind the partition that was there, and the new ones after that.
            let shift = before.map_or(0, |entry| row(&entry.label)["raw_padding"].as_u64().unwrap());
            let their = row(&format!("new-{number}"));
            let their = (their["offset"].as_u64().unwrap(), their["raw_size"].as_u64().unwrap());
            prop_assert_eq!((place.start + shift, place.size), their, "partition {}", number);
        }
    }
}
