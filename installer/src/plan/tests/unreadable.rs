//! Disks of which some sectors cannot be read.

use super::*;

/// A disk of which nothing but this is known.
fn partly(known: Contents) -> PlanDisk {
    disk(GIB, 512, Contents::Unreadable { error: "I/O error".into(), otherwise: Some(Box::new(known)) })
}

fn error() -> (Code, String) {
    (Code::DiskIo, "disk vda (serial X) cannot be read: I/O error".to_owned())
}

#[test]
fn lesson_5_what_cannot_be_read_stops_what_keeps_and_a_wipe_goes_by_the_rest() {
    let foreign = partly(foreign_gpt());
    for existing in [Existing::Keep, Existing::Refuse] {
        assert_eq!(refused(&foreign, existing), error());
    }
    let wiping = |on: &PlanDisk| Plan::new(on, &manifest(), &host(Existing::Wipe)).unwrap();
    let plan = wiping(&foreign);
    let what = "a GPT with 1 \"data\" (LUKS), 2 \"EFI\" (FAT); some of its sectors cannot be read".to_owned();
    assert_eq!(plan.existing, Becomes::Wiped { what });
    // All else is as if it could be read.
    let readable = wiping(&disk(GIB, 512, foreign_gpt()));
    assert_eq!(plan, Plan { existing: plan.existing.clone(), ..readable });
    // It may look blank: then the ends of the disk go all the same.
    let wipes: Vec<_> = wiping(&partly(Contents::Blank)).wipes.into_iter().map(|step| step.what).collect();
    let expected = [
        "the old partition table at the end of the disk",
        "the old partition table at the start of the disk",
        "signatures in the new partitions",
    ];
    assert_eq!(wipes, expected);
}

#[test]
fn what_was_wiped_once_is_not_wiped_again_because_some_of_it_cannot_be_read() {
    let first = Plan::new(&disk(GIB, 512, Contents::Blank), &manifest(), &host(Existing::Wipe)).unwrap();
    let on = partly(holding(first.table()));
    assert_eq!(refused(&on, Existing::Wipe), error());
    let again = Host { intent: Some("again".to_owned()), ..host(Existing::Wipe) };
    let plan = Plan::new(&on, &manifest(), &again).unwrap();
    // What is in its slots is not relied on.
    assert!(matches!(plan.existing, Becomes::Wiped { .. }) && plan.seeds.is_empty(), "{:?}", plan.existing);
    let error = Plan::new(&on, &manifest(), &Host { mode: Mode::Repair, ..again }).unwrap_err();
    assert_eq!(code_of(&error), Code::DiskIo);
}
