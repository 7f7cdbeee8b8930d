//! Manifests that are properly signed and must be refused all the same: only the parser stands in the way.

use serde_json::Value;

use super::published::{RELEASE, good, target_path};
use super::trial::refused;
use crate::failure::Code;

/// Changes a manifest as a value.
type Change = fn(&mut Value);

async fn refused_text(text: String) -> super::trial::Outcome {
    refused(|published| published.with_manifest(text.into_bytes())).await
}

/// The refusal of a manifest that is not even of the right shape.
fn invalid(problem: &str) -> String {
    format!("checking the manifest: reading tiny_1.json: the manifest is not valid: {problem}")
}

fn text() -> String {
    serde_json::to_string(&good().manifest).unwrap()
}

async fn each(changes: &[(Change, &str)]) {
    for (change, problem) in changes {
        let mut manifest = serde_json::to_value(good().manifest).unwrap();
        change(&mut manifest);
        let outcome = refused_text(manifest.to_string()).await;
        outcome.before_the_plan(Code::Manifest, &format!("checking the manifest: reading tiny_1.json: {problem}"));
    }
}

#[tokio::test]
async fn unknown_fields_are_refused_at_every_depth() {
    each(&[
        (
            |m| m["script"] = "rm".into(),
            "the manifest is not valid: unknown field `script`, expected one of `format`, `name`, \
             `version`, `architecture`, `boot`, `filesystems`, `layout` at line 1 column 2417",
        ),
        (
            |m| m["boot"]["script"] = "rm".into(),
            "the manifest is not valid: unknown field `script`, expected one of `uki`, `loader`, \
             `cmdline`, `cmdline_limit`, `pcr11`, `secure_boot`, `watchdog`, `unconfirmed` at line 1 column 861",
        ),
        (
            |m| m["boot"]["uki"]["data"]["url"] = "https://elsewhere".into(),
            "the manifest is not valid: unknown field `url`, expected one of `sha256`, `size`, \
             `content_size`, `seek_table_size`, `seek_table_sha256` at line 1 column 1093",
        ),
        (
            |m| m["filesystems"][0]["mount"] = "/".into(),
            "the manifest is not valid: unknown field `mount`, expected one of `designator`, \
             `root_hash`, `salt`, `data`, `fine`, `hash_tree`, `hash_tree_uuid` at line 1 column 2127",
        ),
        (
            |m| m["layout"]["swap"] = 1.into(),
            "the manifest is not valid: unknown field `swap`, expected one of `esp_size`, \
             `root_size`, `root_verity_size`, `slots`, `free_size`, `partitions` at line 1 column 2400",
        ),
    ])
    .await;
}

#[tokio::test]
async fn duplicate_keys_are_refused() {
    for (once, twice, problem) in [
        (r#""format":1"#, r#""format":1,"format":1"#, "duplicate field `format` at line 1 column 20"),
        (r#""slots":2"#, r#""slots":2,"slots":1"#, "duplicate field `slots` at line 1 column 2409"),
        (
            r#""designator":"root""#,
            r#""designator":"root","designator":"root""#,
            "duplicate field `designator` at line 1 column 1651",
        ),
    ] {
        assert!(text().contains(once));
        refused_text(text().replacen(once, twice, 1)).await.before_the_plan(Code::Manifest, &invalid(problem));
    }
}

#[tokio::test]
async fn wrong_types_are_refused() {
    each(&[
        (
            |m| m["format"] = "1".into(),
            "the manifest is not valid: invalid type: string \"1\", expected u32 at line 1 column \
             2287",
        ),
        (
            |m| m["name"] = Value::Null,
            "the manifest is not valid: invalid type: null, expected a string at line 1 column 2406",
        ),
        (
            |m| m["boot"]["uki"]["size"] = 4096.5.into(),
            "the manifest is not valid: invalid type: floating point `4096.5`, expected u64 at line \
             1 column 1561",
        ),
        (
            |m| m["boot"]["uki"]["size"] = (-1).into(),
            "the manifest is not valid: invalid value: integer `-1`, expected u64 at line 1 column \
             1557",
        ),
        (
            |m| m["boot"]["uki"]["sha256"] = "ABCD".into(),
            "the manifest is not valid: not a SHA-256 digest (64 lower-case hexadecimal characters): \
             \"ABCD\" at line 1 column 1487",
        ),
        (
            |m| m["boot"]["loader"]["salt"] = "0g".into(),
            "the manifest is not valid: a salt is at most 256 bytes of lower-case hexadecimal at \
             line 1 column 699",
        ),
        (
            |m| m["filesystems"] = serde_json::json!({}),
            "the manifest is not valid: invalid type: map, expected a sequence at line 1 column \
             1578",
        ),
        (
            |m| m["filesystems"][0]["designator"] = "usr".into(),
            "the manifest is not valid: unknown variant `usr`, expected `root` at line 1 column \
             1830",
        ),
        (
            |m| m["layout"] = serde_json::json!([]),
            "the manifest is not valid: invalid length 0, expected struct Layout with 6 elements at \
             line 1 column 2297",
        ),
        (
            |m| drop(m.as_object_mut().unwrap().remove("boot")),
            "the manifest is not valid: missing field `boot` at line 1 column 884",
        ),
    ])
    .await;
    for (bytes, problem) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("[]", "invalid length 0, expected struct Manifest with 7 elements at line 1 column 2"),
        ("null", "invalid type: null, expected struct Manifest at line 1 column 4"),
        ("{\"format\":1}}", "missing field `name` at line 1 column 12"),
        ("\u{feff}{}", "expected value at line 1 column 1"),
        (&"[".repeat(100_000), "invalid type: sequence, expected u32 at line 1 column 1"),
    ] {
        refused_text(bytes.to_owned()).await.before_the_plan(Code::Manifest, &invalid(problem));
    }
}

#[tokio::test]
async fn absurd_sizes_are_refused() {
    each(&[
        (
            |m| m["boot"]["uki"]["size"] = u64::MAX.into(),
            "the manifest's boot.uki has a size of 18446744073709551615, not 1 to 1073741824",
        ),
        (|m| m["boot"]["uki"]["size"] = 0.into(), "the manifest's boot.uki has a size of 0, not 1 to 1073741824"),
        (
            |m| m["boot"]["uki"]["size"] = 4096.into(),
            "the manifest's boot.uki has a size of 4096 and a content_size of 303104",
        ),
        (
            |m| m["boot"]["uki"]["data"]["content_size"] = u64::MAX.into(),
            "the manifest's boot.uki has a size of 300001 and a content_size of \
             18446744073709551615",
        ),
        (
            |m| m["boot"]["loader"]["hash_tree"]["content_size"] = (1_u64 << 40).into(),
            "the manifest's boot.loader has a hash tree of 1099511627776 bytes for 32 blocks",
        ),
        (
            |m| m["filesystems"][0]["data"]["content_size"] = u64::MAX.into(),
            "the manifest's filesystems.root has a content_size of 18446744073709551615, not whole \
             blocks up to 17592186044416",
        ),
        (
            |m| m["filesystems"][0]["data"]["content_size"] = ((1_u64 << 44) + 4096).into(),
            "the manifest's filesystems.root has a content_size of 17592186048512, not whole blocks \
             up to 17592186044416",
        ),
        (
            |m| m["filesystems"][0]["data"]["content_size"] = 0.into(),
            "the manifest's filesystems.root has a content_size of 0, not whole blocks up to \
             17592186044416",
        ),
        (
            |m| m["filesystems"][0]["data"]["content_size"] = 4097.into(),
            "the manifest's filesystems.root has a content_size of 4097, not whole blocks up to \
             17592186044416",
        ),
        (
            |m| m["filesystems"][0]["data"]["size"] = u64::MAX.into(),
            "the manifest's filesystems.root has a payload of 18446744073709551615 bytes for 2109440 \
             of content",
        ),
        (
            |m| m["filesystems"][0]["data"]["size"] = 0.into(),
            "the manifest's filesystems.root has a payload of 0 bytes for 2109440 of content",
        ),
        (
            |m| m["filesystems"][0]["data"]["seek_table_size"] = u64::MAX.into(),
            "the manifest's filesystems.root has a seek table of 18446744073709551615 bytes, not 25 \
             to 4137",
        ),
        (
            |m| m["filesystems"][0]["data"]["seek_table_size"] = 24.into(),
            "the manifest's filesystems.root has a seek table of 24 bytes, not 25 to 4137",
        ),
        (
            |m| m["filesystems"][0]["hash_tree"]["content_size"] = 4096.into(),
            "the manifest's filesystems.root has a hash tree of 4096 bytes for 515 blocks",
        ),
        (
            |m| m["layout"]["esp_size"] = u64::MAX.into(),
            "the manifest's layout.esp_size is 18446744073709551615, not a multiple of 1 MiB from \
             536870912 to 17179869184",
        ),
        (
            |m| m["layout"]["esp_size"] = (1 << 20).into(),
            "the manifest's layout.esp_size is 1048576, not a multiple of 1 MiB from 536870912 to \
             17179869184",
        ),
        (
            |m| m["layout"]["root_size"] = ((4 << 20) + 1).into(),
            "the manifest's layout.root_size is 4194305, not a multiple of 1 MiB from 2109440 to \
             17592186044416",
        ),
        (
            |m| m["layout"]["root_size"] = (1 << 20).into(),
            "the manifest's layout.root_size is 1048576, not a multiple of 1 MiB from 2109440 to \
             17592186044416",
        ),
        (
            |m| m["layout"]["root_verity_size"] = 0.into(),
            "the manifest's layout.root_verity_size is 0, not a multiple of 1 MiB from 28672 to \
             17592186044416",
        ),
        (
            |m| m["layout"]["free_size"] = (1_u64 << 63).into(),
            "the manifest's layout.free_size is 9223372036854775808, not a multiple of 1 MiB from 0 \
             to 17592186044416",
        ),
        (|m| m["layout"]["slots"] = 0.into(), "the manifest's layout.slots is 0, not 1 to 8"),
        (|m| m["layout"]["slots"] = 4_000_000_000_u32.into(), "the manifest's layout.slots is 4000000000, not 1 to 8"),
    ])
    .await;
    let path = target_path(RELEASE, text().as_bytes());
    let outcome = refused(|mut published| {
        published.edit("targets", |signed| signed["targets"][RELEASE]["length"] = u64::MAX.into());
        published
    });
    outcome.await.before_the_plan(
        Code::Manifest,
        &format!(
            "fetching the manifest: {path} of REPOSITORY has 18446744073709551615 bytes, more than the 1048576 allowed"
        ),
    );
    // Large, but nothing that the format forbids: the disk has no room.
    let outcome = refused(|published| published.with_changed_manifest(|manifest| manifest.layout.root_size = 1 << 44));
    outcome.await.before_the_plan(
        Code::DiskTooSmall,
        "planning the disk: disk PLACE/disk has 671088640 bytes, but the layout needs \
             35184913170944: ESP 536870912, 2 slots of 17592187092992, 1048576 free, 1065472 for \
             partition tables and alignment",
    );
}

#[tokio::test]
async fn values_that_would_start_something_else_are_refused() {
    each(&[
        (|m| m["format"] = 2.into(), "the manifest's format is 2, but this installer reads 1"),
        (
            |m| m["architecture"] = "arm64".into(),
            "the manifest's architecture is \"arm64\", but this installer is for x86-64",
        ),
        (
            |m| m["boot"]["cmdline"] = "quiet".into(),
            "the manifest's boot.cmdline does not hold \
             roothash=df81dce85f33dc45a15b5648df76b28bd5fdeb6b8b354b27b6dfe3c183703caf and no other",
        ),
        (
            |m| m["boot"]["cmdline"] = format!("roothash={} x", "0".repeat(64)).into(),
            "the manifest's boot.cmdline does not hold \
             roothash=df81dce85f33dc45a15b5648df76b28bd5fdeb6b8b354b27b6dfe3c183703caf and no other",
        ),
        (
            |m| {
                let line = m["boot"]["cmdline"].as_str().unwrap();
                m["boot"]["cmdline"] = format!("{line} {line}").into();
            },
            "the manifest's boot.cmdline does not hold \
             roothash=df81dce85f33dc45a15b5648df76b28bd5fdeb6b8b354b27b6dfe3c183703caf and no other",
        ),
        (
            |m| m["boot"]["cmdline"] = format!("{}\n", m["boot"]["cmdline"].as_str().unwrap()).into(),
            "the manifest's boot.cmdline holds other characters than printable ASCII",
        ),
        (|m| m["boot"]["cmdline_limit"] = 3.into(), "the manifest's boot.cmdline has 73 bytes, but the kernel takes 3"),
        (
            |m| m["filesystems"] = serde_json::json!([]),
            "the manifest's filesystems has 0 entries, but one `root` is expected",
        ),
    ])
    .await;
}
