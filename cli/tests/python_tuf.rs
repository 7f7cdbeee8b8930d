//! A repository of ours, read by python-tuf, the reference implementation of The Update Framework.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy sees no test in the helpers of an integration test"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use metalstrap_release::digest::Digest;
use serde_json::{Value, json};

#[path = "support/operator.rs"]
mod command;
mod support;

use command::{ON, Operator, PUBLISH};
use support::{Inputs, files};

const NAMES: [&str; 4] = ["os_1.json", "host-default.json", "allowed-releases.json", "host-other.json"];

fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What python-tuf finds, or the last line of what it says.
fn read(operator: &Operator, root: &str) -> Result<Value, String> {
    let output = Command::new(tree().join("out/python-tuf/bin/python3"))
        .arg(tree().join("cli/tests/python_tuf/client.py"))
        .args([operator.0.path("repository"), operator.0.path(root)])
        .args(NAMES)
        .output()
        .unwrap();
    if output.status.success() {
        return Ok(serde_json::from_slice(&output.stdout).unwrap());
    }
    Err(String::from_utf8(output.stderr).unwrap().trim_end().lines().last().unwrap_or_default().to_owned())
}

/// SHA-256 of the target that the repository has under a name.
fn target(operator: &Operator, name: &str) -> Value {
    let directory = operator.0.path("repository/targets");
    let names = files(&directory);
    let file = names.iter().find(|file| file.ends_with(&format!(".{name}"))).unwrap();
    json!(Digest::of(&fs::read(directory.join(file)).unwrap()))
}

#[test]
fn python_tuf_reads_what_we_publish_through_rotations_and_thresholds() {
    let status = Command::new(tree().join("scripts/fetch-python-tuf")).status().unwrap();
    assert!(status.success(), "scripts/fetch-python-tuf: {status}");
    let operator = Operator(Inputs::new());
    operator.ok("keygen --keys D/keys --root-keys 3 --root-threshold 2");
    operator.ok(PUBLISH);
    operator.ok(&format!("host add default --release os 1 {ON}"));
    fs::copy(operator.0.path("keys/1.root.json"), operator.0.path("first.json")).unwrap();
    let found = read(&operator, "first.json").unwrap();
    let targets = json!({
        "os_1.json": target(&operator, "os_1.json"),
        "host-default.json": target(&operator, "host-default.json"),
        "allowed-releases.json": null,
        "host-other.json": null,
    });
    assert_eq!(found["targets"], targets);
    assert_eq!(found["versions"]["root"], 1);

    operator.ok("keygen --keys D/keys --rotate root --rotate targets --rotate timestamp --rotate hosts");
    operator.ok(&format!("refresh {ON}"));
    operator.ok(&format!("host allow os_1 {ON} --stage D/stage"));
    operator.ok("sign D/stage --keys D/keys --yes");
    operator.ok(&format!("finish D/stage {ON}"));
    operator.ok(&format!("timestamp {ON}"));
    let found = read(&operator, "first.json").unwrap();
    assert_eq!(found["targets"]["allowed-releases.json"], target(&operator, "allowed-releases.json"));
    assert_eq!(found["targets"]["os_1.json"], targets["os_1.json"]);
    let versions = json!({"root": 2, "timestamp": 5, "snapshot": 4, "targets": 3, "hosts": 2});
    assert_eq!(found["versions"], versions);
    assert_eq!(read(&operator, "keys/2.root.json").unwrap()["targets"], found["targets"]);

    // That it checks at all.
    operator.ok("keygen --keys D/other");
    let error = read(&operator, "other/1.root.json").unwrap_err();
    assert!(error.contains("was signed by 0/1 keys"), "{error}");
    let path = operator.0.path("repository/metadata/4.snapshot.json");
    let bytes = fs::read_to_string(&path).unwrap();
    fs::write(&path, bytes.replace("1.0.0", "1.0.1")).unwrap();
    let error = read(&operator, "first.json").unwrap_err();
    assert!(error.contains("does not match expected hash"), "{error}");
}
