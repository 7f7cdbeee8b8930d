//! Disks of which some sectors cannot be read.

use metalstrap_release::host::Mode;

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

/// Nothing is written, so whatever is on the ESP only needs to be told.
#[test]
fn who_only_looks_goes_by_what_can_be_read_whatever_the_esp_is() {
    let first = plan(GIB, 512, Contents::Blank);
    let repair = Host { mode: Mode::Repair, ..host(Existing::Keep) };
    let (problem, var) =
        ("is odd".to_owned(), Entry { index: 9, start: 600 * MIB, ..first.table().partitions.remove(4) });
    let mut table = first.table();
    table.partitions.push(Entry { uuid: Uuid::from_u128(9), ..var });
    // A release in the other slot, whose boot files would not be ours to make anew.
    table.partitions.iter_mut().skip(4).take(1).for_each(|entry| entry.label = "debian_13.0".to_owned());
    for there in [EspContents::Absent, EspContents::Unusable { problem }] {
        let mut known = holding(table.clone());
        let Contents::Gpt { esp, .. } = &mut known else { panic!("no table") };
        *esp = there;
        for on in [disk(GIB, 512, known.clone()), partly(known)] {
            let code = code_of(&Plan::new(&on, &manifest(), &repair).unwrap_err());
            assert!(matches!(code, Code::Esp | Code::DiskIo), "{code:?}");
            let found = Plan::to_look(&on, &manifest(), &repair).unwrap();
            assert_eq!((&found.existing, found.target), (&Becomes::Kept, 'a'));
            assert_eq!(found.table(), table);
        }
    }
    let on = disk(GIB, 512, Contents::Unreadable { error: "I/O error".into(), otherwise: None });
    let failed = Plan::to_look(&on, &manifest(), &repair).unwrap_err();
    assert_eq!((code_of(&failed), format!("{failed:#}")), error());
}
