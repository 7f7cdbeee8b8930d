use super::*;
use crate::boot_files::EspContents;
use crate::disk::Identity;
use crate::failure::code_of;
use crate::gpt::{Entry, Table};
use crate::inventory::{Contents, Copies};
use crate::plan::tests::{GIB, disk as plan_disk, holding, host, manifest, plan};

fn disk(name: &str, serial: &str, transport: &str, size: u64) -> DiskFacts {
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    DiskFacts {
        name: name.into(),
        path: format!("/dev/{name}").into(),
        identity: Identity {
            wwid: some(format!("eui.{name}")),
            serial: some(serial.into()),
            model: some("Model".into()),
            size,
        },
        by_path: Some(format!("pci-{name}")),
        firmware: None,
        nvme: None,
        sector_size: 512,
        physical_sector_size: 512,
        transport: transport.into(),
        rotational: false,
        removable: false,
        read_only: false,
        used_by: Vec::new(),
        contents: Contents::Blank,
    }
}

fn machine() -> Vec<DiskFacts> {
    vec![disk("nvme0n1", "A", "nvme", 2000), disk("sda", "B", "sata", 1000), disk("sdb", "", "usb", 500)]
}

fn refused(disks: &[DiskFacts], selector: &DiskSelector) -> (Code, String) {
    let error = choose(disks, selector, &[], Existing::Refuse).unwrap_err();
    (code_of(&error), format!("{error:#}"))
}

#[test]
fn exactly_one_disk_is_chosen_by_any_rule() {
    let some = |text: &str| Some(text.to_owned());
    let rules = [
        (DiskSelector { serial: some("B"), ..DiskSelector::default() }, "sda"),
        (DiskSelector { wwid: some("eui.nvme0n1"), ..DiskSelector::default() }, "nvme0n1"),
        (DiskSelector { transport: some("sata"), model: some("Model "), ..DiskSelector::default() }, "sda"),
        (DiskSelector { size: some("> 1 KB"), ..DiskSelector::default() }, "nvme0n1"),
        (DiskSelector { size: some(">= 501, <= 1 KB"), ..DiskSelector::default() }, "sda"),
        (DiskSelector { by_path: some("pci-sda"), ..DiskSelector::default() }, "sda"),
        (DiskSelector { by_path: some("pci-sdb"), ..DiskSelector::default() }, "sdb"),
        (DiskSelector { model: some("M?d*l"), size: some("= 1000 B"), ..DiskSelector::default() }, "sda"),
        (DiskSelector { transport: some("usb"), ..DiskSelector::default() }, "sdb"),
        (DiskSelector { wwid: some("eui.sdb"), ..DiskSelector::default() }, "sdb"),
    ];
    for (selector, name) in rules {
        assert_eq!(choose(&machine(), &selector, &[], Existing::Refuse).unwrap().name, name, "{selector:?}");
    }
}

#[test]
fn lesson_1_rules_that_fit_several_disks_take_none_and_list_them_all() {
    let text = "several disks match (no rules given): \
        nvme0n1 (serial A, WWID eui.nvme0n1, model Model, pci-nvme0n1, nvme, 2000 bytes) kept, since no rule drops it; \
        sda (serial B, WWID eui.sda, model Model, pci-sda, sata, 1000 bytes) kept, since no rule drops it; \
        sdb (serial none, WWID eui.sdb, model Model, pci-sdb, usb, 500 bytes) dropped, since it is on USB, and the rules \
        name neither that nor its serial, WWID or port";
    assert_eq!(refused(&machine(), &DiskSelector::default()), (Code::SeveralDisks, text.to_owned()));
    // The rule by which an NVMe disk with data was wiped.
    let ssd = DiskSelector { rotational: Some(false), ..DiskSelector::default() };
    assert_eq!(refused(&machine(), &ssd).0, Code::SeveralDisks);
}

#[test]
fn lesson_2_rules_that_fit_no_disk_take_no_other_one() {
    let selector = DiskSelector { serial: Some("C".into()), size: Some(">= 100".into()), ..DiskSelector::default() };
    let text = "no disk matches (serial C, size >= 100): \
        nvme0n1 (serial A, WWID eui.nvme0n1, model Model, pci-nvme0n1, nvme, 2000 bytes) dropped, since its serial is A; \
        sda (serial B, WWID eui.sda, model Model, pci-sda, sata, 1000 bytes) dropped, since its serial is B; \
        sdb (serial none, WWID eui.sdb, model Model, pci-sdb, usb, 500 bytes) dropped, since it has no serial";
    assert_eq!(refused(&machine(), &selector), (Code::NoDisk, text.to_owned()));
    assert_eq!(refused(&[], &selector), (Code::NoDisk, "the machine has no disk".to_owned()));
    let odd = [
        DiskFacts { removable: true, ..disk("sda", "A", "sata", 7) },
        DiskFacts { sector_size: 520, ..disk("sdb", "B", "sas", 8) },
    ];
    let selector = DiskSelector { size: Some("<= 9".into()), ..DiskSelector::default() };
    let text = "no disk matches (size <= 9): \
        sda (serial A, WWID eui.sda, model Model, pci-sda, sata, 7 bytes) dropped, since it is removable, and the rules do \
        not name its serial, WWID or port; \
        sdb (serial B, WWID eui.sdb, model Model, pci-sdb, sas, 8 bytes) dropped, since its sectors have 520 bytes, not 512 or 4096";
    assert_eq!(refused(&odd, &selector), (Code::NoDisk, text.to_owned()));
}

#[test]
fn lesson_2_no_rule_goes_by_a_kernel_name_or_is_passed_over() {
    for rule in ["name", "device", "hctl", "serail"] {
        let error = serde_json::from_value::<DiskSelector>(serde_json::json!({ rule: "sda" })).unwrap_err();
        assert!(error.to_string().starts_with(&format!("unknown field `{rule}`, expected one of ")), "{error}");
    }
}

#[test]
fn lesson_7_an_esp_on_another_disk_is_told() {
    let esp = Entry {
        index: 1,
        type_guid: crate::plan::ESP_TYPE,
        uuid: uuid::Uuid::from_u128(1),
        label: "EFI".to_owned(),
        start: 1 << 20,
        size: 1 << 20,
        attributes: 0,
    };
    let mut disks = machine();
    assert_eq!(foreign_esps(&disks, &disks[0]), Vec::<String>::new());
    let table = Table { disk_guid: uuid::Uuid::from_u128(2), partitions: vec![esp] };
    let (copies, holds, beside, esp) = (Copies::Both, vec![Vec::new()], Vec::new(), EspContents::Absent);
    disks[1].contents = Contents::Gpt { copies, table, holds, beside, others: Vec::new(), esp };
    let text = "disk sda (serial B) has an EFI system partition too: firmware may start what is there";
    assert_eq!(foreign_esps(&disks, &disks[0]), [text]);
    assert_eq!(foreign_esps(&disks, &disks[1]), Vec::<String>::new());
}

#[test]
fn what_kept_a_disk_is_said_beside_what_dropped_the_others() {
    let disks = [
        DiskFacts { rotational: true, ..disk("sda", "A", "sata", 7) },
        disk("sdb", "B", "sata", 8),
        DiskFacts { sector_size: 4096, ..disk("sdc", "C", "sata", 8) },
        disk("sdd", "D", "sata", 8),
    ];
    let selector = DiskSelector { rotational: Some(false), sector_size: Some(512), ..DiskSelector::default() };
    let text = "several disks match (rotational false, sector size 512): \
        sda (serial A, WWID eui.sda, model Model, pci-sda, sata, 7 bytes) dropped, since it spins; \
        sdb (serial B, WWID eui.sdb, model Model, pci-sdb, sata, 8 bytes) kept by rotational false, sector size 512; \
        sdc (serial C, WWID eui.sdc, model Model, pci-sdc, sata, 8 bytes) dropped, since its sectors have 4096 bytes; \
        sdd (serial D, WWID eui.sdd, model Model, pci-sdd, sata, 8 bytes) kept by rotational false, sector size 512";
    assert_eq!(refused(&disks, &selector), (Code::SeveralDisks, text.to_owned()));
}

#[test]
fn of_an_incomplete_list_only_a_disk_with_a_name_is_chosen() {
    let missing = [
        "device 1000:0097 (class 010700) at 0000:03:00.0 has no driver".to_owned(),
        "devices had not settled in 150 s".to_owned(),
    ];
    let some = |text: &str| Some(text.to_owned());
    let by_size = DiskSelector { size: some("> 1 KB"), ..DiskSelector::default() };
    let error = choose(&machine(), &by_size, &missing, Existing::Refuse).unwrap_err();
    let text = "the list of disks may not be complete (device 1000:0097 (class 010700) at 0000:03:00.0 has no driver; \
        devices had not settled in 150 s): name the disk by serial, wwid or by_path in the host config; ";
    let found = "found (size > 1 KB): \
        nvme0n1 (serial A, WWID eui.nvme0n1, model Model, pci-nvme0n1, nvme, 2000 bytes) kept by size > 1 KB; \
        sda (serial B, WWID eui.sda, model Model, pci-sda, sata, 1000 bytes) dropped, since it has 1000 bytes; \
        sdb (serial none, WWID eui.sdb, model Model, pci-sdb, usb, 500 bytes) dropped, since it has 500 bytes";
    assert_eq!((code_of(&error), format!("{error:#}")), (Code::NoDisk, format!("{text}{found}")));
    let error = choose(&[], &by_size, &missing, Existing::Refuse).unwrap_err();
    assert_eq!(format!("{error:#}"), format!("{text}no disk was found"));
    let by_serial = DiskSelector { serial: some("B"), ..DiskSelector::default() };
    let by_wwid = DiskSelector { wwid: some("eui.nvme0n1"), ..DiskSelector::default() };
    for (selector, name) in [(by_serial, "sda"), (by_wwid, "nvme0n1")] {
        assert_eq!(choose(&machine(), &selector, &missing, Existing::Refuse).unwrap().name, name);
    }
}

#[test]
fn a_disk_in_use_is_refused_and_not_passed_over() {
    let mut disks = machine();
    disks[0].used_by = vec!["nvme0n1p1 is mounted on /".into(), "nvme0n1p2 is held by dm-0".into()];
    let selector = DiskSelector { transport: Some("nvme".into()), ..DiskSelector::default() };
    let text = "disk nvme0n1 (serial A) is in use: nvme0n1p1 is mounted on /, nvme0n1p2 is held by dm-0";
    assert_eq!(refused(&disks, &selector), (Code::DiskInUse, text.to_owned()));
    assert_eq!(refused(&disks, &DiskSelector::default()).0, Code::SeveralDisks);
    // What holds it may go with the rest.
    assert_eq!(choose(&disks, &selector, &[], Existing::Wipe).unwrap().name, "nvme0n1");
    disks[0].used_by.clear();
    disks[0].read_only = true;
    assert_eq!(refused(&disks, &selector), (Code::DiskInUse, "disk nvme0n1 (serial A) is read-only".to_owned()));
}

#[test]
fn what_holds_a_disk_goes_only_where_the_plan_wipes_it() {
    let foreign = || Contents::Foreign { what: vec!["LVM"], areas: Vec::new() };
    let ours = holding(plan(GIB, 512, foreign()).table());
    let frees = |contents: Contents, host: &Host| {
        may_free(host, &Plan::new(&plan_disk(GIB, 512, contents), &manifest(), host).unwrap())
    };
    let wiping = host(Existing::Wipe);
    assert!(frees(foreign(), &wiping) && frees(Contents::Blank, &wiping));
    // Its intent has happened on this disk.
    assert!(!frees(ours.clone(), &wiping));
    assert!(frees(ours.clone(), &Host { intent: Some("next".to_owned()), ..wiping.clone() }));
    assert!(!frees(ours.clone(), &Host { mode: Mode::Repair, ..wiping }));
    for existing in [Existing::Keep, Existing::Refuse] {
        assert!(!frees(ours.clone(), &host(existing)) && !frees(Contents::Blank, &host(existing)));
    }
}
