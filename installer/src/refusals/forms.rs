//! Documents of a form that is meant to lead a parser astray: keys that come twice, values inside of values without end, numbers
//! beyond what 64 bits hold.

use super::published::{HOST, good};
use super::trial::{Trial, refused};
use crate::failure::Code;

/// The largest number of 64 bits, and the one behind it, which JSON can say and JSON's readers make a floating point number of.
const LARGEST: &str = "18446744073709551615";
const BEYOND: &str = "18446744073709551616";

#[tokio::test]
async fn metadata_with_a_key_that_comes_twice_is_refused() {
    for role in ["timestamp", "snapshot", "targets"] {
        let mut published = good();
        let path = published.role_path(role);
        let text = String::from_utf8(published.files[&path].clone()).unwrap();
        let twice = text.replacen("\"spec_version\"", "\"spec_version\":\"1.0.0\",\"spec_version\"", 1);
        assert_ne!(twice, text);
        published.replace_metadata(role, twice.into_bytes());
        let outcome = Trial::of(&published).run().await;
        let happened = outcome.failure().happened;
        // The column depends on the ids of keys.
        assert_eq!(
            happened.split(" at line").next().unwrap(),
            format!(
                "checking the repository's metadata: REPOSITORY: {path} is not valid: duplicate field `spec_version`"
            )
        );
        outcome.before_the_plan(Code::Metadata, &happened);
    }
}

async fn host_is_refused(text: String, problem: &str) {
    let outcome = refused(|published| published.with_host(text.into_bytes())).await;
    let text = format!("checking the host config: reading {HOST}: the host config is not valid: {problem}");
    outcome.before_the_plan(Code::HostConfig, &text);
}

#[tokio::test]
async fn a_host_config_that_is_nested_without_end_is_refused() {
    let deep = "[".repeat(100_000);
    let release = r#""release":{"name":"tiny","version":"1"}"#;
    for (text, problem) in [
        (format!(r#"{{"format":1,"release":{deep}"#), "invalid type: sequence, expected a string at line 1 column 23"),
        (format!(r#"{{"format":1,{release},"existing":{deep}"#), "expected value at line 1 column 64"),
    ] {
        host_is_refused(text, problem).await;
    }
}

#[tokio::test]
async fn numbers_at_the_edge_of_64_bits_are_refused_in_a_host_config() {
    let release = r#""release":{"name":"tiny","version":"1"}"#;
    for (number, problem) in [
        (LARGEST, format!("invalid value: integer `{LARGEST}`, expected u32 at line 1 column 94")),
        (BEYOND, "invalid type: floating point `1.8446744073709552e+19`, expected u32 at line 1 column 94".to_owned()),
    ] {
        let text = format!(r#"{{"format":1,{release},"disk":{{"sector_size":{number}}}}}"#);
        host_is_refused(text, &problem).await;
    }
}

#[tokio::test]
async fn numbers_beyond_64_bits_are_refused_in_a_manifest() {
    let mut manifest = serde_json::to_value(good().manifest).unwrap();
    manifest["boot"]["uki"]["size"] = u64::MAX.into();
    let text = manifest.to_string().replace(LARGEST, BEYOND);
    let outcome = refused(|published| published.with_manifest(text.into_bytes())).await;
    let text = "checking the manifest: reading tiny_1.json: the manifest is not valid: invalid type: floating point \
                `1.8446744073709552e+19`, expected u64 at line 1 column 1575";
    outcome.before_the_plan(Code::Manifest, text);
}
