use std::error::Error as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn host() -> Value {
    json!({"format": 1, "release": {"name": "debian", "version": "13.2"}})
}

/// The host config with the value at `pointer` set.
fn with(pointer: &str, value: Value) -> String {
    let mut host = host();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    host.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.to_owned(), value);
    host.to_string()
}

/// The error's text and that of its cause.
fn refusal(text: &str) -> String {
    let error = Host::parse(text.as_bytes()).unwrap_err();
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[test]
fn absent_fields_take_the_harmless_default() {
    let host = Host::parse(host().to_string().as_bytes()).unwrap();
    assert_eq!(host.disk, DiskSelector::default());
    assert_eq!((host.existing, host.intent, host.erase), (Existing::Keep, None, Erase::None));
    assert_eq!(host.tpm, TpmPolicy::IfPresent);
    assert_eq!(host.handoff, HandoffMode::Kexec);
    assert_eq!(host.pcr11, Pcr11Need::Any);
    assert_eq!(host.boot_order, BootOrder::NetworkFirst);
    assert_eq!(host.cmdline_extra, "");
    assert_eq!(host.release.target(), "debian_13.2.json");
}

#[test]
fn an_intent_is_a_short_plain_word() {
    let host = |intent: &str| {
        let mut host = host();
        host["existing"] = json!("wipe");
        host["intent"] = json!(intent);
        host.to_string()
    };
    assert_eq!(Host::parse(host("2026-11_a.b").as_bytes()).unwrap().intent.as_deref(), Some("2026-11_a.b"));
    for wrong in ["", "a b", &"x".repeat(65)] {
        let text = refusal(&host(wrong));
        assert!(text.ends_with(&format!("intent {wrong:?} is not 1 to 64 of a-z, A-Z, 0-9 and '._-'")), "{text}");
    }
}

#[test]
fn a_signed_policy_may_be_needed() {
    assert_eq!(Host::parse(with("/pcr11", json!("signed")).as_bytes()).unwrap().pcr11, Pcr11Need::Signed);
    let text = refusal(&with("/pcr11", json!("required")));
    assert!(text.contains("unknown variant `required`, expected `any` or `signed`"), "{text}");
}

#[test]
fn what_is_written_reads_back() {
    let text = with(
        "/disk",
        json!({"serial": "S1", "transport": "nvme", "size": ">= 1, < 2 TB", "rotational": false, "sector_size": 4096}),
    );
    let host = Host::parse(text.as_bytes()).unwrap();
    assert_eq!(Host::parse(&serde_json::to_vec(&host).unwrap()).unwrap(), host);
}

#[test]
fn values_that_cannot_hold_are_refused_by_field() {
    for (pointer, value, expected) in [
        ("/format", json!(2), "format is 2, but this installer reads 1"),
        ("/release/name", json!("../x"), "release.name \"../x\" is not 1 to 16 of a-z, 0-9 and '-'"),
        ("/release/version", json!("1/2"), "release.version \"1/2\" is not 1 to 12 of a-z, A-Z, 0-9 and '.~^-'"),
        ("/disk", json!({"size": ">= 3, <= 2"}), "disk.size is \">= 3, <= 2\", which no size fulfils"),
        ("/disk", json!({"size": "big"}), "disk.size holds \"big\", which is no condition as \">= 480 GB\""),
        ("/disk", json!({"sector_size": 520}), "disk.sector_size is 520, not 512 or 4096"),
        ("/disk", json!({"by_path": ""}), "disk.by_path is empty"),
        ("/existing", json!("wipe"), "intent is missing: `wipe` happens once for each intent"),
        ("/intent", json!("x"), "intent is there, but `existing` is not `wipe`"),
        ("/erase", json!("secure"), "erase is set, but existing is not \"wipe\""),
        (
            "/cmdline_extra",
            json!("a\nb"),
            "cmdline_extra holds other characters than letters, digits, spaces and _.,:/=+@%-",
        ),
        ("/disk", json!({"serial": " "}), "disk.serial is empty"),
        (
            "/disk",
            json!({"transport": "NVMe"}),
            "disk.transport is \"NVMe\", not one of nvme, virtio, sata, sas, scsi, mmc, usb",
        ),
        ("/cmdline_extra", json!("a".repeat(2049)), "cmdline_extra has 2049 bytes, more than 2048"),
    ] {
        assert_eq!(refusal(&with(pointer, value)), format!("the host config's {expected}"));
    }
}

#[test]
fn only_a_disk_that_may_be_wiped_is_erased() {
    for (word, erase) in
        [("none", Erase::None), ("discard", Erase::Discard), ("zeroes", Erase::Zeroes), ("secure", Erase::Secure)]
    {
        let mut host = host();
        host["erase"] = json!(word);
        assert_eq!(Host::parse(host.to_string().as_bytes()).is_ok(), erase == Erase::None, "{word}");
        host["existing"] = json!("wipe");
        host["intent"] = json!("new");
        assert_eq!(Host::parse(host.to_string().as_bytes()).unwrap().erase, erase);
    }
}

#[test]
fn the_command_line_added_cannot_change_what_is_started() {
    let what = "which a host config may not add: what is started is for the release to say";
    for word in [
        "roothash=1",
        "root=/dev/sda",
        "mount.usr=/dev/sda",
        "rd.systemd.verity=0",
        "systemd.run=/bin/sh",
        "systemd.unit=rescue.target",
        "systemd.mount-extra=/dev/sda:/usr",
        "init=/bin/sh",
        "rdinit=/a",
        "rd.break",
        "consoles=1",
    ] {
        let text = refusal(&with("/cmdline_extra", json!(format!("quiet  {word} nosmt"))));
        assert_eq!(text, format!("the host config's cmdline_extra holds \"{word}\", {what}"));
    }
    // systemd takes quotes and backslashes out, also in the middle of a word.
    for text in ["'roothash=1'", "\"init=/bin/sh\"", "rooth\"ash\"=1", "root\\=1", "a\tb", "é"] {
        let refused = refusal(&with("/cmdline_extra", json!(text)));
        assert!(refused.ends_with("holds other characters than letters, digits, spaces and _.,:/=+@%-"), "{refused}");
    }
    let harmless = "console=ttyS0,115200n8 quiet net.ifnames=0 initcall_debug panic=-1 nvme_core.io_timeout=60";
    assert_eq!(Host::parse(with("/cmdline_extra", json!(harmless)).as_bytes()).unwrap().cmdline_extra, harmless);
}

#[test]
fn shapes_other_than_the_format_are_refused() {
    let cause = |text: &str| {
        let text = refusal(text);
        let cause = text.strip_prefix("the host config is not valid: ").expect(&text).to_owned();
        cause.split(" at line").next().unwrap().to_owned()
    };
    let fields =
        "expected one of `serial`, `wwid`, `by_path`, `model`, `transport`, `size`, `rotational`, `sector_size`";
    assert_eq!(cause(&with("/disk", json!({"name": "sda"}))), format!("unknown field `name`, {fields}"));
    assert_eq!(
        cause(&with("/existing", json!("erase"))),
        "unknown variant `erase`, expected one of `keep`, `refuse`, `wipe`"
    );
    assert_eq!(cause(&with("/disk", json!({"sector_size": -1}))), "invalid value: integer `-1`, expected u32");
    assert_eq!(
        cause(&with("/disk", json!({"sector_size": 1e30}))),
        "invalid type: floating point `1e+30`, expected u32"
    );
    assert_eq!(cause(&with("/disk", json!({"size": 5}))), "invalid type: integer `5`, expected a string");
    let doubled = host().to_string().replacen('{', "{\"format\":1,", 1);
    assert_eq!(cause(&doubled), "duplicate field `format`");
    assert_eq!(cause("{}"), "missing field `format`");
    let long = " ".repeat(MAX_BYTES + 1);
    assert_eq!(refusal(&long), "the host config has 1048577 bytes, more than the 1048576 allowed");
}

#[test]
fn keys_come_from_the_most_particular_on_and_placeholders_name_no_machine() {
    let names = |identity: &Identity| identity.keys().iter().map(HostKey::target).collect::<Vec<_>>();
    let identity = Identity {
        uuid: Some("4C4C4544-0034-3510-8052-B4C04F4A3132\n".to_owned()),
        serial: Some(" 45/RJ12 \n".to_owned()),
        macs: vec!["52:54:00:12:34:56\n".to_owned(), "00:00:00:00:00:00".to_owned(), "x".to_owned()],
        ..Identity::default()
    };
    let expected = [
        "host-uuid-4c4c4544-0034-3510-8052-b4c04f4a3132.json",
        "host-serial-45~2fRJ12.json",
        "host-mac-525400123456.json",
        "host-default.json",
    ];
    assert_eq!(names(&identity), expected);
    for (uuid, serial) in [
        ("00000000-0000-0000-0000-000000000000", "To Be Filled By O.E.M."),
        ("ffffffff-ffff-ffff-ffff-ffffffffffff", "Default string"),
        ("03000200-0400-0500-0006-000700080009", ""),
        ("no uuid", " "),
    ] {
        let identity = Identity { uuid: Some(uuid.to_owned()), serial: Some(serial.to_owned()), ..Identity::default() };
        assert_eq!(names(&identity), ["host-default.json"]);
    }
}

#[test]
fn keys_are_read_as_people_write_them() {
    let target = |text: &str| text.parse::<HostKey>().map(|key| key.target());
    assert_eq!(target("default").as_deref(), Ok("host-default.json"));
    assert_eq!(target("mac-52:54:00:AB:cd:ef").as_deref(), Ok("host-mac-525400abcdef.json"));
    assert_eq!(target("mac-525400abcdef").as_deref(), Ok("host-mac-525400abcdef.json"));
    assert_eq!(target("serial-S5-1 2").as_deref(), Ok("host-serial-S5-1~202.json"));
    assert_eq!(target("serial-../x").as_deref(), Ok("host-serial-..~2fx.json"));
    let upper = "uuid-4C4C4544-0034-3510-8052-B4C04F4A3132";
    assert_eq!(target(upper), Ok(format!("host-{}.json", upper.to_lowercase())));
    let refused = |text: &str| target(text).unwrap_err().to_string();
    assert_eq!(refused("host1"), "\"host1\" is no host: not `default`, `uuid-…`, `serial-…` or `mac-…`");
    assert_eq!(refused("mac-5254"), "\"mac-5254\" is no host: not `default`, `uuid-…`, `serial-…` or `mac-…`");
    assert_eq!(
        refused("serial-Default string"),
        "the serial number \"Default string\" is what firmware says that knows none: it names no machine"
    );
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), at in 0_usize..80) {
        prop_assert!(Host::parse(&bytes).is_err());
        let mut damaged = host().to_string().into_bytes();
        damaged.splice(at.min(damaged.len()).., bytes);
        let _: Result<Host, DocumentError> = Host::parse(&damaged);
    }

    #[test]
    fn a_serial_number_stays_one_file_name(serial in "\\PC{1,40}") {
        if let Ok(key) = HostKey::serial(&serial) {
            let name = key.target();
            prop_assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_~".contains(&byte)), "{}", name);
        }
    }

    #[test]
    fn two_serial_numbers_never_share_a_name(one in "[ -~]{1,8}", other in "[ -~]{1,8}") {
        if let (Ok(one), Ok(other)) = (HostKey::serial(&one), HostKey::serial(&other)) {
            prop_assert_eq!(one == other, one.target() == other.target());
        }
    }
}
