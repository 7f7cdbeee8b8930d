//! What another table than the one that counts says of old partitions.

use metalstrap_release::host::{Existing, Host};
use uuid::Uuid;

use super::super::tests::{GIB, MIB, disk, holding, host, manifest, plan};
use super::super::{Area, Becomes, Plan, Wipe};
use crate::gpt::Table;
use crate::inventory::{Contents, OldArea};

/// The plan that wipes a disk with this table, beside which others name these areas, in MiB, and whether firmware boots from them.
fn wiping(table: Table, areas: &[(u64, u64, bool)]) -> Plan {
    let mut contents = holding(table);
    let Contents::Gpt { others, .. } = &mut contents else { panic!("no table") };
    let area = |(start, size, boots): &(u64, u64, bool)| partition(*start, *size, *boots);
    *others = areas.iter().map(area).collect();
    let host = Host { intent: Some("again".to_owned()), ..host(Existing::Wipe) };
    Plan::new(&disk(GIB, 512, contents), &manifest(), &host).unwrap()
}

/// A partition of another table, in MiB.
fn partition(start: u64, size: u64, boots: bool) -> OldArea {
    OldArea { start: start * MIB, size: size * MIB, boots, is_table: false }
}

/// A table of 512 bytes somewhere else than at the ends of the disk, at so many MiB.
fn table(start: u64) -> OldArea {
    OldArea { start: start * MIB, size: 512, boots: false, is_table: true }
}

fn listed(steps: &[Wipe]) -> Vec<(&str, Vec<Area>)> {
    steps.iter().map(|step| (step.what.as_str(), step.ranges.clone())).collect()
}

fn area(start: u64, size: u64) -> Area {
    Area { start: start * MIB, size: size * MIB }
}

#[test]
fn what_another_table_names_goes_and_the_tables_themselves_go_last() {
    let empty = Table { disk_guid: Uuid::nil(), partitions: Vec::new() };
    let plan = wiping(empty, &[(600, 100, false), (1, 8, true), (0, 2, false), (1000, 24, false)]);
    assert!(matches!(plan.existing, Becomes::Wiped { .. }), "{:?}", plan.existing);
    // Those of a table for larger sectors.
    let (primary, backup) = (6 * 4096, 5 * 4096);
    let expected = [
        ("the boot sector of the old EFI system partition", vec![Area { start: MIB, size: 4096 }]),
        ("the old EFI system partition", vec![area(1, 5), area(8, 1)]),
        (
            "signatures in the old partitions",
            vec![
                area(600, 5),
                area(699, 1),
                Area { start: primary, size: 2 * MIB - primary },
                area(1000, 5),
                Area { start: 1023 * MIB, size: MIB - backup },
            ],
        ),
        ("the old partition table at the end of the disk", vec![area(1023, 1)]),
        ("the old partition table at the start of the disk", vec![area(0, 5)]),
    ];
    assert_eq!(listed(&plan.wipes)[..5], expected);
}

#[test]
fn a_boot_sector_that_lies_where_a_gpt_would_be_goes_first() {
    let areas = vec![OldArea { start: 512, ..partition(0, 100, true) }, partition(0, 1, true)];
    let contents = Contents::Foreign { what: vec!["MBR partition table"], areas };
    let plan = plan(GIB, 512, contents);
    let sectors = vec![Area { start: 512, size: 4096 }, Area { start: 512, size: 4096 - 512 }];
    assert_eq!(listed(&plan.wipes)[0], ("the boot sector of the old EFI system partition", sectors));
}

#[test]
fn where_slots_stay_for_now_it_goes_around_them_and_in_them_when_the_release_is_there() {
    // Slot A, which has the release, is from 513 to 546, slot B to 579; the table stays as long.
    let first = plan(GIB, 512, Contents::Blank);
    let plan = wiping(first.table(), &[(600, 100, false), (560, 100, true), (520, 2, false), (0, 1024, false)]);
    assert!(matches!(plan.existing, Becomes::Replaced { .. }) && plan.target == 'a', "{:?}", plan.existing);
    let expected = [
        ("the boot sector of the old EFI system partition", vec![Area { start: MIB, size: 4096 }]),
        ("the old EFI system partition", vec![area(1, 5), area(512, 1), area(659, 1)]),
        ("signatures in the old partitions", vec![area(600, 5), area(699, 1), area(1, 4)]),
    ];
    assert_eq!(listed(&plan.wipes)[..3], expected);
    let slots = vec![area(546, 1), area(547, 5), area(578, 1), area(560, 5)];
    assert_eq!(listed(&plan.leftovers)[0], ("signatures in the old slots", slots));
}

#[test]
fn a_table_that_only_another_one_leads_to_goes_when_what_it_names_is_gone() {
    // As an MBR has two logical partitions, and firmware boots from the first.
    let areas =
        vec![table(10), partition(11, 50, true), table(61), partition(62, 40, false), partition(10, 100, false)];
    let plan = plan(GIB, 512, Contents::Foreign { what: vec!["MBR partition table"], areas });
    let behind = |start: u64| Area { start: start * MIB + 512, size: 5 * MIB - 512 };
    let record = |start: u64| Area { start: start * MIB, size: 512 };
    let expected = [
        ("the boot sector of the old EFI system partition", vec![Area { start: 11 * MIB, size: 4096 }]),
        ("the old EFI system partition", vec![area(11, 5), area(60, 1)]),
        ("signatures in the old partitions", vec![area(62, 5), area(101, 1), behind(10), area(109, 1)]),
        ("further tables of old partitions", vec![record(10), record(61)]),
        ("the old partition table at the end of the disk", vec![area(1023, 1)]),
    ];
    assert_eq!(listed(&plan.wipes)[..5], expected);
}

#[test]
fn where_slots_stay_for_now_so_do_tables_that_may_lead_into_them() {
    // The release has 24 of the 32 MiB of its slot, which begins at 514; slot B begins at 546.
    let first = plan(GIB, 512, Contents::Blank);
    let mut contents = holding(first.table());
    let Contents::Gpt { others, .. } = &mut contents else { panic!("no table") };
    *others = vec![table(540), partition(539, 20, false), table(548), table(580), table(516)];
    let host = Host { intent: Some("again".to_owned()), ..host(Existing::Wipe) };
    let plan = Plan::new(&disk(GIB, 512, contents), &manifest(), &host).unwrap();
    assert!(matches!(plan.existing, Becomes::Replaced { .. }), "{:?}", plan.existing);
    let tables = [540, 548, 580].map(|start| Area { start: start * MIB, size: 512 });
    for wiped in plan.wipes.iter().flat_map(|step| &step.ranges) {
        assert!(tables.iter().all(|table| !table.overlaps(wiped)), "{wiped:?}");
    }
    // What the release takes the place of, as at 516, needs nothing more.
    let behind = |start: u64, end: u64| Area { start: start * MIB + 512, size: (end - start) * MIB - 512 };
    let slots = vec![area(546, 1), area(547, 1), behind(548, 552), area(578, 1)];
    let in_them = vec![area(539, 1), behind(540, 544), area(558, 1)];
    let expected = [
        ("signatures in the old slots", [slots, in_them].concat()),
        ("further tables of old partitions", tables.to_vec()),
    ];
    assert_eq!(listed(&plan.leftovers)[..2], expected);
}
