//! A repository of ours, read by tough, the library of AWS's tuftool.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy sees no test in the helpers of an integration test"
)]

use std::fs;

use serde_json::{Value, json};

#[path = "support/operator.rs"]
mod command;
#[path = "support/readers.rs"]
mod readers;
mod support;

use command::{ON, Operator};
use readers::{target, target_path};

const NAMES: [&str; 3] = ["os_1.json", "host-default.json", "host-other.json"];

/// With a release and a host config.
fn operator() -> Operator {
    let operator = Operator::new();
    operator.ok(&format!("host add default --release os 1 {ON}"));
    fs::copy(operator.0.path("keys/1.root.json"), operator.0.path("first.json")).unwrap();
    operator
}

/// What one finds who has never read it.
fn read(operator: &Operator, root: &str) -> Result<Value, String> {
    readers::tough(operator, root, tempfile::tempdir().unwrap().path(), &NAMES)
}

#[test]
fn tough_reads_what_we_publish_through_rotations() {
    let operator = operator();
    let targets = json!({
        "os_1.json": target(&operator, "os_1.json"),
        "host-default.json": target(&operator, "host-default.json"),
        "host-other.json": null,
    });
    let versions = json!({"root": 1, "timestamp": 2, "snapshot": 2, "targets": 1});
    assert_eq!(read(&operator, "first.json").unwrap(), json!({"targets": targets, "versions": versions}));
    operator.ok("keygen --keys D/keys --rotate root --rotate targets --rotate timestamp --rotate hosts");
    operator.ok(&format!("refresh {ON}"));
    for root in ["first.json", "keys/2.root.json"] {
        let found = read(&operator, root).unwrap();
        assert_eq!((&found["targets"], &found["versions"]["root"]), (&targets, &json!(2)));
    }
    operator.ok("keygen --keys D/other");
    let error = read(&operator, "other/1.root.json").unwrap_err();
    assert!(error.contains("Failed to verify"), "{error}");
}

#[test]
fn what_is_expired_older_or_changed_is_refused_by_tough_too() {
    let operator = operator();
    let memory = tempfile::tempdir().unwrap();
    let again = || readers::tough(&operator, "first.json", memory.path(), &NAMES);
    let timestamp = operator.0.path("repository/metadata/timestamp.json");
    let old = fs::read(&timestamp).unwrap();
    operator.ok(&format!("refresh {ON}"));
    let good = again().unwrap();
    let new = fs::read(&timestamp).unwrap();
    fs::write(&timestamp, old).unwrap();
    let error = again().unwrap_err();
    assert_eq!(error, "Found version 2 of timestamp metadata when we had previously fetched version 3");
    fs::write(&timestamp, new).unwrap();
    assert_eq!(again().unwrap(), good);

    let path = target_path(&operator, "os_1.json");
    let bytes = fs::read(&path).unwrap();
    let mut changed = bytes.clone();
    changed[10] ^= 1;
    fs::write(&path, changed).unwrap();
    let error = again().unwrap_err();
    assert!(error.starts_with("Failed to fetch ") && error.contains(": Hash mismatch for "), "{error}");
    fs::write(&path, bytes).unwrap();

    operator.ok(&format!("timestamp {ON} --days 1 --now 1700000000"));
    assert_eq!(again().unwrap_err(), "timestamp metadata is expired");
}
