use std::sync::Arc;

use metalstrap_release::digest::Digest;
use metalstrap_release::host::Existing;
use metalstrap_release::manifest::Manifest;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::tests::{GIB, MIB, disk, holding, host, manifest};
use super::super::{Becomes, Plan};
use super::*;
use crate::disk::{Disk as _, Memory};
use crate::failure::code_of;

/// The manifest of the plan's tests, whose slots end at 579 MiB and which leaves 64 MiB free, with more partitions.
fn with(partitions: Value) -> Manifest {
    let mut manifest = manifest();
    manifest.layout.partitions = serde_json::from_value(partitions).unwrap();
    manifest
}

fn var_and_srv() -> Manifest {
    with(json!([
        {"type": "var", "label": "var", "size_min": 64 * MIB, "keep": true},
        {"type": "srv", "label": "data", "weight": 3000, "size_max": 128 * MIB, "padding_min": 8192},
    ]))
}

/// The next release of the same OS.
fn next(mut manifest: Manifest) -> Manifest {
    manifest.version = "13.2".to_owned();
    manifest.filesystems.iter_mut().for_each(|root| root.root_hash = Digest::of(b"next"));
    manifest
}

fn planned(contents: Contents, manifest: &Manifest, existing: Existing) -> Result<Plan> {
    Plan::new(&disk(GIB, 512, contents), manifest, &host(existing))
}

/// The partitions behind the slots: number in the table, role, label, first byte, bytes.
fn shown(plan: &Plan) -> Vec<(u32, String, &str, u64, u64)> {
    let data = plan.partitions.iter().filter(|partition| matches!(partition.role, Role::Data { .. }));
    data.map(|Partition { role, entry }| (entry.index, role.to_string(), entry.label.as_str(), entry.start, entry.size))
        .collect()
}

fn wiped(plan: &Plan) -> Vec<Range<u64>> {
    plan.wipes.iter().chain(&plan.leftovers).flat_map(|step| &step.ranges).map(Area::range).collect()
}

#[test]
fn a_blank_disk_gets_them_behind_the_slots() {
    let plan = planned(Contents::Blank, &var_and_srv(), Existing::Refuse).unwrap();
    // 1023 - 579 - 64 MiB are shared out; `data` takes only 128 MiB of its three quarters.
    let var = 252 * MIB - 8192;
    let expected =
        [(6, "data-1".to_owned(), "var", 579 * MIB, var), (7, "data-2".to_owned(), "data", 579 * MIB + var, 128 * MIB)];
    assert_eq!(shown(&plan), expected);
    let end = 959 * MIB - 8192;
    assert_eq!(plan.free, Area { start: end, size: 1023 * MIB - end });
    let entries: Vec<&Entry> = plan.partitions.iter().skip(5).map(|partition| &partition.entry).collect();
    assert_eq!(entries[0].type_guid.to_string(), "4d21b016-b534-45c2-a9fb-5c16e091fd2d");
    assert_eq!(entries[1].type_guid.to_string(), "3b8f8425-20e0-4f3b-907f-1a25a76f98e8");
    assert!(entries.iter().all(|entry| entry.uuid.get_version_num() == 4 && entry.attributes == 0));
    assert_ne!(entries[0].uuid, entries[1].uuid);
    // Heads and tails go, and nothing else is written there.
    let wiped = wiped(&plan);
    for entry in entries {
        let (start, end) = (entry.start, entry.start + entry.size);
        assert!(wiped.contains(&(start..start + 5 * MIB)) && wiped.contains(&(end - MIB..end)));
    }
    assert!(plan.writes.iter().all(|write| write.area.range().end <= 579 * MIB || write.purpose == "partition table"));
}

#[test]
fn a_disk_that_cannot_hold_them_is_refused_with_every_number() {
    let manifest = with(json!([
        {"type": "var", "label": "var", "size_min": 400 * MIB},
        {"type": "swap", "label": "swap", "padding_min": 4096},
    ]));
    let error = planned(Contents::Blank, &manifest, Existing::Refuse).unwrap_err();
    assert_eq!(code_of(&error), Code::DiskTooSmall);
    assert_eq!(
        format!("{error:#}"),
        "disk vda (serial X) has 1073741824 bytes, but the layout needs 1105216000: ESP 536870912, 2 slots of 34603008, \
         429920256 for 2 further partitions, 67108864 free, 2109952 for partition tables and alignment"
    );
    let needed = 1_105_216_000;
    for (size, fits) in [(needed - 512, false), (needed, true)] {
        assert_eq!(Plan::new(&disk(size, 512, Contents::Blank), &manifest, &host(Existing::Refuse)).is_ok(), fits);
    }
}

#[test]
fn what_the_os_has_grown_is_still_its_own() {
    let manifest = var_and_srv();
    let first = planned(Contents::Blank, &manifest, Existing::Refuse).unwrap();
    let mut table = first.table();
    let data = table.partitions.iter_mut().find(|entry| entry.label == "data").unwrap();
    data.size += 10 * MIB;
    let again = planned(holding(table.clone()), &manifest, Existing::Refuse).unwrap();
    assert_eq!((&again.existing, again.wipes.len(), again.table()), (&Becomes::Kept, 0, table.clone()));
    assert_eq!(again.free.start, first.free.start + 10 * MIB);
    // By whatever name.
    table.partitions.last_mut().unwrap().label = "mine".to_owned();
    let renamed = planned(holding(table.clone()), &manifest, Existing::Refuse).unwrap();
    assert_eq!((&renamed.existing, renamed.wipes.len(), renamed.table()), (&Becomes::Kept, 0, table.clone()));
    // With another UUID it is the OS's own, and stays all the same: there is no room for another one.
    table.partitions.last_mut().unwrap().uuid = Uuid::max();
    let error = planned(holding(table), &manifest, Existing::Keep).unwrap_err();
    assert_eq!(code_of(&error), Code::DiskTooSmall);
}

#[test]
fn lesson_4_what_is_protected_is_checked_at_every_write_and_only_a_wipe_protects_nothing() {
    let first = planned(Contents::Blank, &var_and_srv(), Existing::Keep).unwrap();
    let second = planned(holding(first.table()), &next(var_and_srv()), Existing::Keep).unwrap();
    assert!(matches!(second.existing, Becomes::Updated { .. }));
    assert_eq!(shown(&second), shown(&first));
    let (var, data) = (range(&first.partitions[5].entry), range(&first.partitions[6].entry));
    assert_eq!(wiped(&second), []);
    let protected: Vec<_> = second.protects.iter().map(|it| (it.purpose.as_str(), it.area.range())).collect();
    assert_eq!(protected[2..], [("data-1", var.clone()), ("data-2", data.clone())]);
    let guarded = second.guard(Arc::new(Memory::new(GIB, 512)));
    let error = anyhow::Error::new(guarded.write_at(var.start, &[1; 512]).unwrap_err());
    assert_eq!(format!("{error:#}"), "writing bytes 607125504 to 607126016 of memory: the plan does not write there");
    // Nothing to do when it is done.
    assert_eq!(planned(holding(second.table()), &next(var_and_srv()), Existing::Keep).unwrap().existing, Becomes::Kept);

    let wiping = planned(holding(first.table()), &next(var_and_srv()), Existing::Wipe).unwrap();
    assert!(matches!(wiping.existing, Becomes::Replaced { .. }));
    let touches =
        |range: &Range<u64>| wiped(&wiping).iter().any(|wiped| wiped.start < range.end && range.start < wiped.end);
    assert_eq!((touches(&var), touches(&data), wiping.protects.len()), (true, true, 0));
}

#[test]
fn a_layout_with_one_more_adds_it_and_wipes_nothing_else() {
    let first =
        planned(Contents::Blank, &with(json!([{"type": "var", "label": "var", "size_max": 64 * MIB}])), Existing::Keep);
    let first = first.unwrap();
    let layout = json!([{"type": "var", "label": "var"}, {"type": "srv", "label": "srv", "size_max": 32 * MIB}]);
    let again = planned(holding(first.table()), &with(layout), Existing::Keep).unwrap();
    // The release is there already, and its UKI stays.
    assert_eq!(again.existing, Becomes::Updated { from: "debian_13.1".to_owned() });
    assert_eq!((again.target, again.names.removed.len()), ('a', 0));
    let srv = range(&again.partitions[6].entry);
    assert_eq!(wiped(&again), [srv.start..srv.start + 5 * MIB, srv.end - MIB..srv.end]);
    assert_eq!(srv, 643 * MIB..675 * MIB);
}

#[test]
fn new_ones_go_between_those_that_are_there() {
    let first = planned(Contents::Blank, &var_and_srv(), Existing::Refuse).unwrap();
    let mut table = first.table();
    // The OS has moved things: its own partition at the place of ours, ours behind it.
    let old: Vec<Entry> = table.partitions.drain(5..).collect();
    let uuid = Uuid::from_u128(5);
    table.partitions.push(Entry {
        index: 6,
        label: "mine".into(),
        start: 579 * MIB,
        size: 40 * MIB,
        uuid,
        ..old[0].clone()
    });
    table.partitions.push(Entry { index: 7, start: 700 * MIB, size: 100 * MIB, ..old[0].clone() });
    let layout = json!([
        {"type": "tmp", "label": "tmp"},
        {"type": "var", "label": "var", "size_min": 200 * MIB, "keep": true},
        {"type": "swap", "label": "swap", "size_min": 150 * MIB},
    ]);
    let plan = planned(holding(table.clone()), &next(with(layout)), Existing::Keep).unwrap();
    let expected = [
        (8, "data-1".to_owned(), "tmp", 619 * MIB, 81 * MIB),
        (7, "data-2".to_owned(), "var", 700 * MIB, 100 * MIB),
        (9, "data-3".to_owned(), "swap", 800 * MIB, 159 * MIB),
    ];
    assert_eq!(shown(&plan), expected);
    assert_eq!(plan.free, Area { start: 959 * MIB, size: 64 * MIB });
    assert_eq!(plan.partitions[6].entry.uuid, old[0].uuid);

    let layout = json!([{"type": "var", "label": "var"}, {"type": "srv", "label": "srv", "size_min": 160 * MIB}]);
    let error = planned(holding(table), &next(with(layout)), Existing::Keep).unwrap_err();
    assert_eq!(code_of(&error), Code::DiskTooSmall);
    assert_eq!(
        format!("{error:#}"),
        "disk vda (serial X) has no room for the partition \"srv\" of the layout: it needs 167772160 bytes, and the largest \
         free area behind the slots has 166723584"
    );
}

#[test]
fn a_partition_that_another_one_lies_in_is_not_taken_over() {
    let first = planned(Contents::Blank, &var_and_srv(), Existing::Refuse).unwrap();
    let inside = |start: u64| {
        let mut table = first.table();
        let uuid = Uuid::from_u128(5);
        table.partitions.push(Entry {
            index: 9,
            label: "mine".into(),
            start,
            size: MIB,
            uuid,
            ..table.partitions[5].clone()
        });
        planned(holding(table), &next(var_and_srv()), Existing::Keep).map(|plan| plan.partitions[5].role)
    };
    let var = range(&first.partitions[5].entry);
    // There is no room for another one.
    assert_eq!(code_of(&inside(var.end - MIB).unwrap_err()), Code::DiskTooSmall);
    assert_eq!(inside(1000 * MIB).unwrap(), Role::Data { number: 1, kept: true });
}
