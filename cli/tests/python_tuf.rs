//! A repository of ours, read by python-tuf, the reference implementation of The Update Framework.
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

use command::{ON, Operator, PUBLISH};
use readers::target;
use support::Inputs;

const NAMES: [&str; 4] = ["os_1.json", "host-default.json", "allowed-releases.json", "host-other.json"];

fn read(operator: &Operator, root: &str) -> Result<Value, String> {
    readers::python_tuf(operator, root, &NAMES)
}

#[test]
fn python_tuf_reads_what_we_publish_through_rotations_and_thresholds() {
    readers::fetch_python_tuf();
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
