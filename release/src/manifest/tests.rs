use std::error::Error as _;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::digest::to_hex;
use crate::pcr::{Bank, Pcr};

const ROOT: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
const OTHER: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn payload(content_size: u64) -> Value {
    json!({
        "sha256": OTHER,
        "size": 2000,
        "content_size": content_size,
        "seek_table_size": 25,
        "seek_table_sha256": OTHER,
    })
}

fn artifact(size: u64) -> Value {
    json!({
        "size": size,
        "sha256": OTHER,
        "root_hash": OTHER,
        "salt": "00ff",
        "data": payload(8192),
        "hash_tree": payload(8192),
    })
}

fn manifest() -> Value {
    json!({
        "format": 1,
        "name": "debian",
        "version": "1.0~rc1",
        "architecture": "x86-64",
        "boot": {
            "uki": artifact(5000),
            "loader": artifact(8192),
            "cmdline": format!("console=ttyS0 gpt roothash={ROOT}"),
            "cmdline_limit": 2047,
        },
        "filesystems": [{
            "designator": "root",
            "root_hash": ROOT,
            "salt": "",
            "data": payload(129 * 4096),
            "hash_tree": payload(4 * 4096),
            "hash_tree_uuid": "6d657461-6c73-4472-8170-2d7575696421",
        }],
        "layout": {
            "esp_size": 512 << 20,
            "root_size": 256 << 20,
            "root_verity_size": 4 << 20,
            "slots": 2,
            "free_size": 0,
        },
    })
}

fn with(pointer: &str, value: Value) -> String {
    let mut manifest = manifest();
    *manifest.pointer_mut(pointer).expect(pointer) = value;
    manifest.to_string()
}

/// The error's text and that of its cause.
fn refusal(text: &str) -> String {
    let error = Manifest::parse(text.as_bytes()).unwrap_err();
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

#[test]
fn a_watchdog_is_left_to_the_os_only_where_the_manifest_says_so() {
    let with = |seconds: u32| {
        let mut manifest = manifest();
        manifest["boot"]["watchdog"] = json!(seconds);
        manifest.to_string()
    };
    assert_eq!(Manifest::parse(manifest().to_string().as_bytes()).unwrap().boot.watchdog, None);
    for seconds in [30, 600] {
        let parsed = Manifest::parse(with(seconds).as_bytes()).unwrap();
        assert_eq!(parsed.boot.watchdog, Some(seconds));
    }
    for seconds in [0, 29, 601] {
        let expected = format!("the manifest's boot.watchdog is {seconds}, not 30 to 600");
        assert_eq!(refusal(&with(seconds)), expected);
    }
}

#[test]
fn a_manifest_reads_back_and_names_its_parts() {
    let manifest = Manifest::parse(manifest().to_string().as_bytes()).unwrap();
    assert_eq!(Manifest::parse(&serde_json::to_vec(&manifest).unwrap()).unwrap(), manifest);
    assert_eq!(manifest.uki_name(), "debian_1.0~rc1+3.efi");
    assert_eq!(manifest.root_label(), "debian_1.0~rc1");
    assert_eq!(manifest.root_verity_label(), "debian_1.0~rc1_verity");
    assert_eq!(manifest.boot.uki.salt, Salt(vec![0, 0xff]));
    let root = manifest.root().unwrap();
    assert_eq!(data_uuid(&root.root_hash).to_string(), "ba7816bf-8f01-cfea-4141-40de5dae2223");
    assert_eq!(verity_uuid(&root.root_hash).to_string(), "b00361a3-9617-7a9c-b410-ff61f20015ad");
}

#[test]
fn a_release_may_say_by_whom_it_is_signed() {
    let with = |kernel: Value| {
        let certificate = json!({"sha256": OTHER, "key_id": "6ccece7e"});
        let mut manifest = manifest();
        manifest["boot"]["secure_boot"] = json!({"uki": [certificate], "kernel": kernel, "loader": [certificate]});
        manifest.to_string()
    };
    let found = Manifest::parse(with(json!([{"sha256": OTHER, "key_id": "6ccece7e"}])).as_bytes()).unwrap();
    let signed = found.boot.secure_boot.unwrap();
    assert_eq!((&signed.kernel, signed.kernel[0].key_id.as_str()), (&signed.uki, "6ccece7e"));
    let several = vec![json!({"sha256": OTHER, "key_id": "00"}); 17];
    for (wrong, problem) in [
        (json!([]), "0 certificates, not 1 to 16"),
        (json!(several), "17 certificates, not 1 to 16"),
        (json!([{"sha256": OTHER, "key_id": ""}]), "a key_id that is not 1 to 64 bytes of hexadecimal"),
        (json!([{"sha256": OTHER, "key_id": "AB"}]), "a key_id that is not 1 to 64 bytes of hexadecimal"),
    ] {
        assert_eq!(refusal(&with(wrong)), format!("the manifest's boot.secure_boot.kernel has {problem}"));
    }
}

/// What a manifest says of PCR 11.
fn pcr11() -> Value {
    let phase = |path: &str| {
        let value = |bytes: usize| "5a".repeat(bytes);
        json!({"phase": path, "sha1": value(20), "sha256": value(32), "sha384": value(48), "sha512": value(64)})
    };
    let words = ["enter-initrd", "leave-initrd", "sysinit", "ready"];
    let paths = (1..=words.len()).map(|count| words[..count].join(":"));
    let phases: Vec<_> = std::iter::once(":".to_owned()).chain(paths).map(|path| phase(&path)).collect();
    json!({"phases": phases, "signatures": OTHER})
}

#[test]
fn a_manifest_says_what_pcr_11_will_be() {
    let with = |pcr11: Value| {
        let mut manifest = manifest();
        manifest["boot"]["pcr11"] = pcr11;
        manifest.to_string()
    };
    let found = Manifest::parse(with(pcr11()).as_bytes()).unwrap();
    assert_eq!(serde_json::to_value(&found).unwrap()["boot"]["pcr11"], pcr11(), "as it was read");
    let found = found.boot.pcr11.unwrap();
    assert_eq!(found.signatures_path(), Some(format!("payloads/{OTHER}.json")));
    let predictions = found.phases.read().unwrap();
    assert_eq!(predictions[4].sha384.0, [0x5a; 48]);
    assert_eq!(Predictions::new(&predictions).unwrap(), found.phases);
    let mut unsigned = pcr11();
    unsigned.as_object_mut().unwrap().remove("signatures");
    let unsigned = Manifest::parse(with(unsigned).as_bytes()).unwrap().boot.pcr11.unwrap();
    assert_eq!((unsigned.signatures, unsigned.signatures_path()), (None, None));
    // Of releases from before there was this.
    assert_eq!(Manifest::parse(manifest().to_string().as_bytes()).unwrap().boot.pcr11, None);
    let mut short = pcr11();
    short["signatures"] = json!("5a");
    let text = refusal(&with(short));
    assert!(text.starts_with("the manifest is not valid: not a SHA-256 digest"), "{text}");
    for phases in [json!("none"), json!([[]]), json!([{"phase": 1}])] {
        let mut other = pcr11();
        other["phases"] = phases;
        let text = "the manifest's boot.pcr11.phases is no list of objects with texts";
        assert_eq!(refusal(&with(other)), text);
    }
}

/// From zero on, the value is that of systemd-measure for a UKI with this kernel alone.
#[test]
fn pcr_11_is_foretold_from_any_value() {
    let mut with = manifest();
    with["boot"]["pcr11"] = pcr11();
    with["boot"]["pcr11"]["sections"] = json!([{"name": ".linux", "sha256": Digest::of(b"KERNEL-BYTES").to_string()}]);
    let found = Manifest::parse(with.to_string().as_bytes()).unwrap();
    assert_eq!(serde_json::to_value(&found).unwrap()["boot"]["pcr11"], with["boot"]["pcr11"], "as it was read");
    let found = found.boot.pcr11.unwrap();
    let stub = found.after(&Pcr::zero(Bank::Sha256)).unwrap();
    assert_eq!(to_hex(stub.value()), "6a36592a05658257b4e531672b11330fb266cdd5ca8f14ce963cba19a6ec24ab");
    let expected = Digest::of(&[stub.value(), &Digest::of(b".linux\0").0].concat());
    let expected = Digest::of(&[expected.0, Digest::of(b"KERNEL-BYTES").0].concat());
    assert_eq!(found.after(&stub).unwrap().value(), expected.0);
    assert_eq!(found.after(&Pcr::zero(Bank::Sha1)), None, "the manifest has SHA-256 alone");
    let mut older = manifest();
    older["boot"]["pcr11"] = pcr11();
    let older = Manifest::parse(older.to_string().as_bytes()).unwrap().boot.pcr11.unwrap();
    assert_eq!(older.after(&Pcr::zero(Bank::Sha256)), None, "it does not say");
}

#[test]
fn predictions_that_cannot_hold_are_refused_where_they_are_read() {
    let refusal = |change: &dyn Fn(&mut Value)| {
        let mut manifest = manifest();
        manifest["boot"]["pcr11"] = pcr11();
        change(&mut manifest["boot"]["pcr11"]["phases"]);
        let manifest = Manifest::parse(manifest.to_string().as_bytes()).unwrap();
        let error = manifest.boot.pcr11.unwrap().phases.read().unwrap_err();
        error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
    };
    let order = "the manifest's boot.pcr11.phases are not these, in this order: :, enter-initrd, enter-initrd:leave-initrd, \
                 enter-initrd:leave-initrd:sysinit, enter-initrd:leave-initrd:sysinit:ready";
    assert_eq!(refusal(&|phases| phases.as_array_mut().unwrap().swap(1, 2)), order);
    assert_eq!(refusal(&|phases| drop(phases.as_array_mut().unwrap().pop())), order);
    let invalid = |problem: &str| format!("the manifest's boot.pcr11.phases is not valid: {problem}");
    assert_eq!(
        refusal(&|phases| phases[0]["sha1"] = json!("5a".repeat(32))),
        invalid("not 20 bytes of lower-case hexadecimal")
    );
    assert_eq!(
        refusal(&|phases| phases[1]["phase"] = json!("shutdown")),
        invalid(
            "unknown variant `shutdown`, expected one of `:`, `enter-initrd`, `enter-initrd:leave-initrd`, \
             `enter-initrd:leave-initrd:sysinit`, `enter-initrd:leave-initrd:sysinit:ready`"
        )
    );
}

#[test]
fn the_longest_labels_fit_a_gpt_name() {
    let mut longest = manifest();
    longest["name"] = json!("a".repeat(16));
    longest["version"] = json!("1".repeat(12));
    let manifest = Manifest::parse(longest.to_string().as_bytes()).unwrap();
    assert_eq!(manifest.root_verity_label().len(), 36);
}

#[test]
fn names_and_versions_are_narrow() {
    for name in ["", "Debian", "-a", "a_b", "a/b", "ä", "aaaaaaaaaaaaaaaaa"] {
        let expected = format!("the manifest's name {name:?} is not 1 to 16 of a-z, 0-9 and '-'");
        assert_eq!(refusal(&with("/name", json!(name))), expected);
    }
    for version in ["", "1_0", "1+0", "1 0", "../x", "1234567890123"] {
        let expected = format!("the manifest's version {version:?} is not 1 to 12 of a-z, A-Z, 0-9 and '.~^-'");
        assert_eq!(refusal(&with("/version", json!(version))), expected);
    }
}

#[test]
fn values_that_cannot_hold_are_refused_by_field() {
    let multiple = |least: u64| format!("not a multiple of 1 MiB from {least} to 17592186044416");
    let root = "/filesystems/0";
    for (pointer, value, expected) in [
        ("/format".to_owned(), json!(2), "format is 2, but this installer reads 1".to_owned()),
        (
            "/architecture".to_owned(),
            json!("arm64"),
            "architecture is \"arm64\", but this installer is for x86-64".to_owned(),
        ),
        ("/filesystems".to_owned(), json!([]), "filesystems has 0 entries, but one `root` is expected".to_owned()),
        (
            format!("{root}/root_hash"),
            json!(OTHER),
            format!("boot.cmdline does not hold roothash={OTHER} and no other"),
        ),
        (
            "/boot/cmdline".to_owned(),
            json!(format!("roothash={ROOT} roothash={OTHER}")),
            format!("boot.cmdline does not hold roothash={ROOT} and no other"),
        ),
        (
            "/boot/cmdline".to_owned(),
            json!(format!("a\n roothash={ROOT}")),
            "boot.cmdline holds other characters than printable ASCII".to_owned(),
        ),
        ("/boot/cmdline_limit".to_owned(), json!(90), "boot.cmdline has 91 bytes, but the kernel takes 90".to_owned()),
        ("/boot/uki/size".to_owned(), json!(0), "boot.uki has a size of 0, not 1 to 1073741824".to_owned()),
        (
            "/boot/uki/size".to_owned(),
            json!(u64::MAX),
            "boot.uki has a size of 18446744073709551615, not 1 to 1073741824".to_owned(),
        ),
        (
            "/boot/loader/size".to_owned(),
            json!(9000),
            "boot.loader has a size of 9000 and a content_size of 8192".to_owned(),
        ),
        (
            "/boot/uki/hash_tree/content_size".to_owned(),
            json!(4096),
            "boot.uki has a hash tree of 4096 bytes for 2 blocks".to_owned(),
        ),
        (
            format!("{root}/data/content_size"),
            json!(u64::MAX),
            "filesystems.root has a content_size of 18446744073709551615, not whole blocks up to 17592186044416"
                .to_owned(),
        ),
        (
            format!("{root}/data/content_size"),
            json!(4095),
            "filesystems.root has a content_size of 4095, not whole blocks up to 17592186044416".to_owned(),
        ),
        (
            format!("{root}/data/seek_table_size"),
            json!(u64::MAX),
            "filesystems.root has a seek table of 18446744073709551615 bytes, not 25 to 1049".to_owned(),
        ),
        (
            format!("{root}/hash_tree/size"),
            json!(u64::MAX),
            "filesystems.root has a payload of 18446744073709551615 bytes for 16384 of content".to_owned(),
        ),
        (
            format!("{root}/data/size"),
            json!(25),
            "filesystems.root has a payload of 25 bytes for 528384 of content".to_owned(),
        ),
        (
            "/layout/esp_size".to_owned(),
            json!(1 << 20),
            "layout.esp_size is 1048576, not a multiple of 1 MiB from 536870912 to 17179869184".to_owned(),
        ),
        (
            "/layout/esp_size".to_owned(),
            json!((16_u64 << 30) + (1 << 20)),
            "layout.esp_size is 17180917760, not a multiple of 1 MiB from 536870912 to 17179869184".to_owned(),
        ),
        ("/layout/root_size".to_owned(), json!(0), format!("layout.root_size is 0, {}", multiple(528384))),
        (
            "/layout/root_verity_size".to_owned(),
            json!((4 << 20) + 512),
            format!("layout.root_verity_size is 4194816, {}", multiple(16384)),
        ),
        (
            "/layout/free_size".to_owned(),
            json!(u64::MAX),
            format!("layout.free_size is 18446744073709551615, {}", multiple(0)),
        ),
        ("/layout/slots".to_owned(), json!(0), "layout.slots is 0, not 1 to 8".to_owned()),
        ("/layout/slots".to_owned(), json!(9), "layout.slots is 9, not 1 to 8".to_owned()),
    ] {
        assert_eq!(refusal(&with(&pointer, value)), format!("the manifest's {expected}"));
    }
}

#[test]
fn partitions_behind_the_slots_do_not_look_like_slots() {
    let with = |partition: Value| {
        let mut manifest = manifest();
        manifest["layout"]["partitions"] = json!([partition]);
        manifest.to_string()
    };
    let manifest = Manifest::parse(with(json!({"type": "var", "label": "var", "keep": true})).as_bytes()).unwrap();
    assert_eq!(Manifest::parse(&serde_json::to_vec(&manifest).unwrap()).unwrap(), manifest);
    assert!(manifest.layout.partitions[0].keep);
    for label in ["esp", "_empty", "debian_1.0~rc1", "debian_1.0~rc1_verity"] {
        assert_eq!(
            refusal(&with(json!({"type": "var", "label": label}))),
            format!("the manifest's layout.partitions has another partition with the label {label:?}")
        );
    }
    assert_eq!(
        refusal(&with(json!({"type": "var", "label": "var", "weight": 1_000_001}))),
        "the manifest's layout.partitions has a partition \"var\" whose weight is 1000001, not 0 to 1000000"
    );
}

#[test]
fn shapes_other_than_the_format_are_refused() {
    let cause = |text: &str| {
        let text = refusal(text);
        let cause = text.strip_prefix("the manifest is not valid: ").expect(&text).to_owned();
        cause.split(" at line").next().unwrap().to_owned()
    };
    let mut unknown = manifest();
    unknown["layout"]["swap_size"] = json!(0);
    assert_eq!(
        cause(&unknown.to_string()),
        "unknown field `swap_size`, expected one of `esp_size`, `root_size`, `root_verity_size`, `slots`, `free_size`, \
         `partitions`"
    );
    let doubled = manifest().to_string().replacen("\"version\":", "\"version\":\"0\",\"version\":", 1);
    assert_eq!(cause(&doubled), "duplicate field `version`");
    let doubled = manifest().to_string().replacen("\"esp_size\":", "\"esp_size\":1,\"esp_size\":", 1);
    assert_eq!(cause(&doubled), "duplicate field `esp_size`");
    assert_eq!(cause(&with("/layout/slots", json!("2"))), "invalid type: string \"2\", expected u32");
    assert_eq!(cause(&with("/layout/slots", json!(2.5))), "invalid type: floating point `2.5`, expected u32");
    assert_eq!(cause(&with("/layout/slots", json!(-2))), "invalid value: integer `-2`, expected u32");
    assert_eq!(cause(&with("/filesystems/0/designator", json!("usr"))), "unknown variant `usr`, expected `root`");
    let digest = "not a SHA-256 digest (64 lower-case hexadecimal characters)";
    assert_eq!(cause(&with("/boot/uki/sha256", json!("AB"))), format!("{digest}: \"AB\""));
    let salt = "a salt is at most 256 bytes of lower-case hexadecimal";
    assert_eq!(cause(&with("/boot/uki/salt", json!("00".repeat(257)))), salt);
    assert_eq!(cause(&with("/boot/uki/salt", json!("0"))), salt);
    assert_eq!(cause("{"), "EOF while parsing an object");
    let long = " ".repeat(MAX_BYTES + 1);
    assert_eq!(refusal(&long), "the manifest has 1048577 bytes, more than the 1048576 allowed");
}

proptest! {
    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512), at in 0_usize..2000) {
        prop_assert!(Manifest::parse(&bytes).is_err());
        let mut damaged = manifest().to_string().into_bytes();
        damaged.splice(at.min(damaged.len()).., bytes);
        let _: Result<Manifest, DocumentError> = Manifest::parse(&damaged);
    }

    #[test]
    fn any_number_anywhere_never_panics(number: u64, which in 0_usize..64) {
        fn numbers<'a>(value: &'a mut Value, found: &mut Vec<&'a mut Value>) {
            match value {
                Value::Object(map) => map.values_mut().for_each(|value| numbers(value, found)),
                Value::Array(list) => list.iter_mut().for_each(|value| numbers(value, found)),
                Value::Number(_) => found.push(value),
                _ => {}
            }
        }
        let mut manifest = manifest();
        let mut found = Vec::new();
        numbers(&mut manifest, &mut found);
        let count = found.len();
        *found[which % count] = json!(number);
        let _: Result<Manifest, DocumentError> = Manifest::parse(manifest.to_string().as_bytes());
    }
}
