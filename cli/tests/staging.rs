//! Signing by people who have their keys elsewhere: stage, sign, finish.
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
mod support;

use command::{ON, Operator, PUBLISH};
use support::{Inputs, contents, files};

/// Moves private keys to a directory of their own, beside what is public.
fn give(operator: &Operator, person: &str, names: &[&str]) {
    let (keys, theirs) = (operator.0.path("keys"), operator.0.path(person));
    fs::create_dir_all(&theirs).unwrap();
    names.iter().for_each(|name| fs::rename(keys.join(name), theirs.join(name)).unwrap());
    for name in files(&keys).into_iter().filter(|name| name.ends_with(".json")) {
        fs::copy(keys.join(&name), theirs.join(&name)).unwrap();
    }
}

/// What is shown of a stage.
fn shown(operator: &Operator, line: &str) -> (Value, Vec<String>) {
    let (result, text) = operator.told(line);
    (result, text.lines().map(|line| line.trim_end().to_owned()).collect())
}

#[test]
fn a_release_is_signed_where_the_key_of_targets_is() {
    let operator = Operator::new();
    let before = contents(&operator.0.path("repository"));
    give(&operator, "releaser", &["targets.pem"]);
    let publish = PUBLISH.replace("--version 1", "--version 2");
    let text = "metalstrap: D/keys/targets.pem is missing: without this key, targets metadata cannot be signed";
    assert_eq!(operator.refusal(&publish), text);
    let result = operator.ok(&format!("{publish} --stage D/stage"));
    assert_eq!(result["published"], false);
    assert_eq!(result["metadata"]["roles"], json!(["targets"]));
    assert!(contents(&operator.0.path("repository")) == before, "the repository stays as it is");
    let text = "metalstrap: D/stage is a stage already: finish it, or take another --stage";
    assert_eq!(operator.refusal(&format!("{publish} --stage D/stage")), text);

    let finish = format!("finish D/stage {ON}");
    let text = "metalstrap: finishing what was staged: the staged targets metadata has 0 valid signatures by keys of the root, \
                but needs 1";
    assert_eq!(operator.refusal(&finish), text);
    let (result, lines) = shown(&operator, "sign D/stage --keys D/releaser --show");
    assert_eq!((&result["complete"], &result["roles"][0]["signed"]), (&json!(false), &json!([])));
    assert!(lines[0].starts_with("targets metadata, version 2, holds until "), "{}", lines[0]);
    let root_hash = &operator.0.root_hash;
    assert!(lines[1].starts_with(&format!("  + os_2.json: os 2, root hash {root_hash}, UKI ")), "{}", lines[1]);
    assert_eq!(lines[2..], ["  1 of the keys of the root must sign; 0 have"]);
    assert_eq!(operator.refusal(&finish), text, "to show is not to sign");
    let text = "metalstrap: no key in D/keys is asked for that has not signed yet";
    assert_eq!(operator.refusal("sign D/stage --keys D/keys --yes"), text);
    let (result, _) = shown(&operator, "sign D/stage --keys D/releaser --yes");
    let signatures = json!([{"by": "the root", "needed": 1, "required": true, "valid": 1}]);
    assert_eq!((&result["complete"], &result["roles"][0]["signatures"]), (&json!(true), &signatures));

    // Snapshot and timestamp are signed meanwhile, as cron does.
    operator.ok(&format!("refresh {ON}"));
    let result = operator.ok(&finish);
    assert_eq!(result["signed"], json!(["targets", "snapshot", "timestamp"]));
    let versions = json!({"root": 1, "targets": 2, "snapshot": 3, "timestamp": 3, "hosts": 0});
    assert_eq!(result["metadata"]["versions"], versions);
    operator.ok(&format!("host add default --release os 2 {ON}"));
    let result = operator.ok(&format!("host explain {ON}"));
    assert_eq!(result["release"]["version"], "2");
    let text =
        "metalstrap: the repository's targets metadata has become version 2 since this was staged: stage it again";
    assert_eq!(operator.refusal(&finish), text);
}

#[test]
fn a_repository_begins_with_a_stage_where_the_keys_are_apart() {
    let operator = Operator(Inputs::new());
    operator.ok("keygen --keys D/keys");
    give(&operator, "releaser", &["targets.pem"]);
    operator.ok(&format!("{PUBLISH} --stage D/stage"));
    assert!(!operator.0.path("repository/metadata/timestamp.json").exists());
    assert!(files(&operator.0.path("repository/payloads")).is_empty());
    let (_, lines) = shown(&operator, "sign D/stage --keys D/releaser --yes");
    assert!(lines[2].starts_with("  host configs are signed by: "), "{lines:?}");
    operator.ok(&format!("finish D/stage {ON}"));
    operator.ok("keygen --tls repo.test --keys D/tls");
    let site = operator.ok("site --repository-url https://repo.test/os --keys D/keys --ca D/tls/ca.pem");
    fs::write(operator.0.path("site.json"), site.to_string()).unwrap();
    let found = operator.ok("verify --site D/site.json --repository D/repository --deep");
    assert_eq!((&found["problems"], &found["releases"]), (&json!([]), &json!(["os_1.json"])));
    let text = "metalstrap: there is a repository by now, and there was none when this was staged: stage it again";
    assert_eq!(operator.refusal(&format!("finish D/stage {ON}")), text);
}

#[test]
fn host_configs_and_lists_are_staged_too() {
    let operator = Operator::new();
    give(&operator, "admin", &["hosts.pem"]);
    operator.ok(&format!("host add default --release os 1 --existing wipe --intent new {ON} --stage D/stage"));
    let (_, lines) = shown(&operator, "sign D/stage --keys D/admin --yes");
    assert!(
        lines[1].starts_with("  + host-default.json: {\"format\":1,\"release\":{\"name\":\"os\",\"version\":\"1\"}"),
        "{lines:?}"
    );
    assert!(lines[1].contains("\"existing\":\"wipe\",\"intent\":\"new\""), "{lines:?}");
    assert_eq!(lines[2], "  1 of the keys of the delegation to hosts must sign; 0 have");
    // A file that is not the one that was signed.
    let added = operator.0.path("stage/add/targets");
    let path = added.join(files(&added).remove(0));
    let good = fs::read(&path).unwrap();
    fs::write(&path, [good.as_slice(), b" "].concat()).unwrap();
    let before = contents(&operator.0.path("repository"));
    let text = operator.refusal(&format!("finish D/stage {ON}"));
    assert!(
        text.starts_with("metalstrap: adding D/stage/add/targets/") && text.contains(": it has SHA-256 "),
        "{text}"
    );
    let text = operator.refusal("sign D/stage --keys D/admin --show");
    assert!(text.contains(" has SHA-256 "), "{text}");
    assert!(contents(&operator.0.path("repository")) == before, "nothing was written");
    fs::write(&path, good).unwrap();
    assert_eq!(operator.ok(&format!("finish D/stage {ON}"))["signed"], json!(["hosts", "snapshot", "timestamp"]));
    assert_eq!(operator.ok(&format!("host show default {ON}"))["config"]["intent"], "new");

    // Only one of two stages behind the same state can be finished.
    give(&operator, "releaser", &["targets.pem"]);
    operator.ok(&format!("host allow os_1 {ON} --stage D/one"));
    operator.ok(&format!("host allow os_* {ON} --stage D/two"));
    let (_, lines) = shown(&operator, "sign D/one --keys D/releaser --yes");
    assert_eq!(lines[1], "  + allowed-releases.json: host configs may name [\"os_1\"]");
    shown(&operator, "sign D/two --keys D/releaser --yes");
    operator.ok(&format!("finish D/one {ON}"));
    let text =
        "metalstrap: the repository's targets metadata has become version 2 since this was staged: stage it again";
    assert_eq!(operator.refusal(&format!("finish D/two {ON}")), text);
    assert_eq!(operator.ok(&format!("host allowed {ON}"))["allowed"], json!(["os_1"]));
    let text = "metalstrap: there is nothing to stage: snapshot and timestamp are signed by `refresh`";
    assert_eq!(operator.refusal(&format!("refresh {ON} --stage D/three")), text);
    operator.ok(&format!("refresh {ON} --within 400 --stage D/four"));
    let (_, lines) = shown(&operator, "sign D/four --keys D/releaser --yes");
    assert_eq!(lines[1], "  what it listed before: 2 files");
    shown(&operator, "sign D/four --keys D/admin --yes");
    let result = operator.ok(&format!("finish D/four {ON}"));
    assert_eq!(result["signed"], json!(["targets", "hosts", "snapshot", "timestamp"]));
}

#[test]
fn a_root_of_two_people_of_three_is_replaced() {
    let operator = Operator(Inputs::new());
    operator.ok("keygen --keys D/keys --root-keys 3 --root-threshold 2");
    operator.ok(PUBLISH);
    fs::copy(operator.0.path("keys/1.root.json"), operator.0.path("first.json")).unwrap();
    for (person, key) in [("alice", "root-1.pem"), ("bob", "root-2.pem"), ("carol", "root-3.pem")] {
        give(&operator, person, &[key]);
    }
    let text = "metalstrap: --stage is for the next root: say --renew, or --rotate with a role other than hosts";
    assert_eq!(operator.refusal("keygen --keys D/keys --rotate hosts --stage D/stage"), text);
    let result = operator.ok("keygen --keys D/keys --rotate root --rotate timestamp --stage D/stage");
    assert_eq!((&result["roles"], &result["root"]["version"]), (&json!(["root"]), &json!(1)));
    operator.ok(&format!("refresh {ON}"));
    let finish = "finish D/stage --keys D/keys";
    let refusal = |valid: u64, by: &str| {
        format!(
            "metalstrap: finishing what was staged: the staged root metadata has {valid} valid signatures by keys of the {by} \
             root, but needs 2"
        )
    };
    let (_, lines) = shown(&operator, "sign D/stage --keys D/carol --yes");
    assert!(lines[0].starts_with("root metadata, version 2, holds until "), "{lines:?}");
    assert_eq!(lines[1], "  root: 2 of 3, before 2 of 3");
    assert_eq!(lines.iter().filter(|line| line.starts_with("    - ")).count(), 4);
    assert_eq!(lines.iter().filter(|line| line.starts_with("    + ")).count(), 4);
    assert!(lines.contains(&"  targets: 1 of 1, as before".to_owned()), "{lines:?}");
    let last =
        ["  2 of the keys of the old root must sign; 0 have", "  2 of the keys of the new root must sign; 0 have"];
    assert!(lines.ends_with(&last.map(str::to_owned)), "{lines:?}");
    assert_eq!(operator.refusal(finish), refusal(1, "old"));
    let text = "metalstrap: no key in D/carol is asked for that has not signed yet";
    assert_eq!(operator.refusal("sign D/stage --keys D/carol --yes"), text, "a person counts once");
    shown(&operator, "sign D/stage --keys D/alice --yes");
    assert_eq!(operator.refusal(finish), refusal(0, "new"));
    // The new keys are where the stage was made.
    let (result, _) = shown(&operator, "sign D/stage --keys D/keys --yes");
    assert_eq!((result["roles"][0]["signed"].as_array().unwrap().len(), &result["complete"]), (3, &json!(true)));
    let text = "metalstrap: this stage is of a root, which joins the keys: say no --repository";
    assert_eq!(operator.refusal(&format!("finish D/stage {ON}")), text);
    let result = operator.ok(finish);
    assert_eq!((&result["root"]["version"], &result["files"]), (&json!(2), &json!(["2.root.json", "root.json"])));
    let text = "metalstrap: finishing what was staged: the root has version 2 since this was staged: stage it again";
    assert_eq!(operator.refusal(finish), text);

    let result = operator.ok(&format!("refresh {ON}"));
    assert_eq!(result["metadata"]["versions"]["root"], 2);
    let shown = operator.ok("host show --repository D/repository --root D/first.json");
    assert_eq!(shown["hosts"], json!([]));
}

#[test]
fn a_stage_of_another_repository_is_not_signed() {
    let operator = Operator::new();
    operator.ok("keygen --keys D/other");
    give(&operator, "releaser", &["targets.pem"]);
    operator.ok(&format!("host allow os_1 {ON} --stage D/stage"));
    let text = "metalstrap: D/stage/base/metadata/1.root.json is not the root that the keys here have: this stage is of another \
                repository";
    assert_eq!(operator.refusal("sign D/stage --keys D/other --yes"), text);
    // The stage's word for what was there before is not taken.
    let path = operator.0.path("stage/base/metadata/1.targets.json");
    let targets = fs::read_to_string(&path).unwrap();
    fs::write(&path, targets.replace("os_1.json", "os_0.json")).unwrap();
    let text = operator.refusal("sign D/stage --keys D/releaser --yes");
    let start = "metalstrap: checking the metadata of D/stage/base: metadata/1.targets.json has SHA-256 ";
    assert!(text.starts_with(start), "{text}");
    let text = operator.refusal("sign D/nowhere --keys D/releaser --yes");
    let start = "metalstrap: reading D/nowhere/stage.json: `--stage` of publish, host, refresh and keygen makes it: ";
    assert!(text.starts_with(start), "{text}");
    let text = operator.refusal(&format!("{} --stage D/new --sysupdate https://repo.test", PUBLISH));
    assert!(text.contains("For more information") || text.contains("--stage"), "{text}");
}

#[test]
fn people_bring_root_keys_of_their_own() {
    let operator = Operator(Inputs::new());
    operator.ok("keygen --keys D/keys");
    operator.ok(PUBLISH);
    give(&operator, "safe", &["root.pem"]);
    for person in ["ann", "bob", "eve"] {
        give(&operator, person, &[]);
        let key = operator.0.path(&format!("{person}/root.pem"));
        let openssl = |words: &[&str]| {
            assert!(std::process::Command::new("openssl").args(words).status().unwrap().success(), "{words:?}");
        };
        let (key, public) = (key.to_str().unwrap(), operator.0.path(&format!("{person}.pub")));
        openssl(&["genpkey", "-algorithm", "ed25519", "-out", key]);
        openssl(&["pkey", "-in", key, "-pubout", "-out", public.to_str().unwrap()]);
    }
    let people = "--root-public D/ann.pub --root-public D/bob.pub --root-public D/eve.pub";
    let text = "metalstrap: --root-public is for new root keys: say --rotate root too";
    assert_eq!(operator.refusal(&format!("keygen --keys D/keys --renew {people} --stage D/stage")), text);
    let text = "metalstrap: a root with 3 keys cannot be signed by 4 of them";
    let rotate = format!("keygen --keys D/keys --rotate root {people} --stage D/stage");
    assert_eq!(operator.refusal(&format!("{rotate} --root-threshold 4")), text);
    let result = operator.ok(&format!("{rotate} --root-threshold 2"));
    assert_eq!(result["files"], json!([]), "no key is made here");
    let (_, lines) = shown(&operator, "sign D/stage --keys D/safe --yes");
    assert_eq!(lines[1], "  root: 2 of 3, before 1 of 1");
    shown(&operator, "sign D/stage --keys D/bob --yes");
    let text = "metalstrap: finishing what was staged: the staged root metadata has 1 valid signatures by keys of the new root, but \
                needs 2";
    assert_eq!(operator.refusal("finish D/stage --keys D/keys"), text);
    let (result, _) = shown(&operator, "sign D/stage --keys D/ann --yes");
    assert_eq!(result["complete"], true);
    assert_eq!(operator.ok("finish D/stage --keys D/keys")["root"]["version"], 2);
    assert_eq!(operator.ok(&format!("refresh {ON}"))["metadata"]["versions"]["root"], 2);
}
