//! A repository of ours, read by tough, the library of AWS's tuftool, and by tuftool itself.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy sees no test in the helpers of an integration test"
)]

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

#[path = "support/operator.rs"]
mod command;
#[path = "support/readers.rs"]
mod readers;
mod support;

use command::{ON, Operator};
use readers::{target, target_path};
use support::files;

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

/// What tuftool says of `arguments`, from this root on.
fn tuftool(operator: &Operator, arguments: &str, root: &str) -> Result<(), String> {
    let url = |part: &str| format!("file://{}", operator.0.path(part).display());
    let mut command = Command::new(readers::tree().join("out/tuftool/bin/tuftool"));
    command.args(arguments.split(' ')).arg("--root").arg(operator.0.path(root)).current_dir(operator.0.path(""));
    command.args(["--metadata-url", &url("repository/metadata"), "--targets-url", &url("repository/targets")]);
    let output = command.output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8(output.stderr).unwrap()) }
}

/// Names and contents below a directory of the repository and of a copy are equal.
fn assert_same(operator: &Operator, ours: &str, copy: &str) {
    let content = |directory: &str, name: &str| fs::read(operator.0.path(directory).join(name)).unwrap();
    let names = files(&operator.0.path(copy));
    assert!(!names.is_empty());
    for name in names {
        assert_eq!(content(copy, &name), content(ours, &name), "{name}");
    }
}

#[test]
#[ignore = "takes tuftool, which takes ten minutes to build: cargo install tuftool --locked --root out/tuftool"]
fn tuftool_clones_what_we_publish_through_rotations() {
    let operator = operator();
    tuftool(&operator, "clone --metadata-dir first/metadata --targets-dir first/targets", "first.json").unwrap();
    assert_same(&operator, "repository/metadata", "first/metadata");
    assert_same(&operator, "repository/targets", "first/targets");
    assert_eq!(files(&operator.0.path("first/targets")).len(), 2, "the release and the host config");
    operator.ok("keygen --keys D/keys --rotate root --rotate targets --rotate timestamp --rotate hosts");
    operator.ok(&format!("refresh {ON}"));
    tuftool(&operator, "download downloaded", "first.json").unwrap();
    let release = fs::read(operator.0.path("downloaded/os_1.json")).unwrap();
    assert_eq!(release, fs::read(target_path(&operator, "os_1.json")).unwrap());

    operator.ok("keygen --keys D/other");
    let error = tuftool(&operator, "download other-root", "other/1.root.json").unwrap_err();
    assert!(error.contains("Failed to verify"), "{error}");
    let path = target_path(&operator, "os_1.json");
    let mut changed = fs::read(&path).unwrap();
    changed[10] ^= 1;
    fs::write(&path, changed).unwrap();
    let error = tuftool(&operator, "download changed", "first.json").unwrap_err();
    assert!(error.contains("Hash mismatch"), "{error}");
}
