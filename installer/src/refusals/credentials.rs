//! Credentials of the host config, from the repository to the disk.

use std::os::unix::fs::FileExt as _;

use metalstrap_release::host::{Host, Mode};
use serde_json::{Value, json};

use super::published::{ESP_BYTES, Published, good, host};
use super::trial::{Trial, refused};
use crate::credentials::{Sealed, seal_all};
use crate::disk::Recorded;
use crate::esp;
use crate::failure::Code;

/// Where the ESP of the layout begins.
const ESP: u64 = 1 << 20;

fn with(credentials: &Value) -> Value {
    let mut host = host();
    host["credentials"] = credentials.clone();
    host
}

fn published(credentials: &Value) -> Published {
    good().with_host(serde_json::to_vec(&with(credentials)).unwrap())
}

/// Where the file of a credential lies on a fresh disk.
fn place_of(credentials: &Value, name: &str) -> u64 {
    let host = Host::parse(&serde_json::to_vec(&with(credentials)).unwrap()).unwrap();
    let (sealed, release): (Vec<Sealed>, _) = (seal_all(&host).unwrap(), good());
    let order = esp::Order { credentials: &sealed, ..esp::Order::of(&release.manifest) };
    let layout = esp::layout(order, ESP_BYTES, 512).unwrap();
    let path = format!("loader/credentials/{name}.cred");
    ESP + layout.extents().iter().find(|extent| extent.path == path).unwrap().offset
}

#[tokio::test]
async fn they_are_installed_looked_at_and_mended_and_nobody_is_told_what_is_in_them() {
    let credentials = json!({
        "system.hostname": {"text": "web-1"},
        "passwd.hashed-password.root": {"text": "$$6$$hush"},
        "network.network.50-all": {"base64": "W01hdGNoXQpOYW1lPSoK"},
    });
    let (outcome, trial) = Trial::of(&published(&credentials)).run_and_keep().await;
    outcome.result.as_ref().unwrap();
    let told = outcome.told();
    assert!(!told.contains("hush") && !told.contains("W01hdGNo") && !told.contains("web-1"), "{told}");
    let plan = outcome.events().into_iter().find(|event| event["step"] == "plan" && event["state"] == "info").unwrap();
    let expected = json!([
        {"name": "network.network.50-all", "size": 15},
        {"name": "passwd.hashed-password.root", "size": 7},
        {"name": "system.hostname", "size": 5},
    ]);
    assert_eq!(plan["fields"]["plan"]["credentials"], expected);
    let found = trial.verify().await.unwrap();
    assert!(found.whole && found.credentials, "{found:?}");

    // Nothing is written again, until one of them is damaged.
    let (outcome, trial) = trial.run_and_keep().await;
    assert!(outcome.result.is_ok() && outcome.log.iter().all(|what| *what == Recorded::Flush), "{:?}", outcome.log);
    let disk = std::fs::File::options().write(true).open(trial.disk()).unwrap();
    disk.write_all_at(b"?", place_of(&credentials, "system.hostname") + 40).unwrap();
    let found = trial.verify().await.unwrap();
    assert_eq!((found.whole, found.credentials, found.boot_files_named), (false, false, true));
    let (outcome, trial) = trial.in_mode(Mode::Repair).run_and_keep().await;
    outcome.result.unwrap();
    let found = trial.verify().await.unwrap();
    assert!(found.whole && found.credentials, "{found:?}");
}

#[tokio::test]
async fn a_machine_that_does_not_say_what_is_asked_for_is_refused() {
    let outcome = refused(|_| published(&json!({"system.hostname": {"text": "web-${serial}"}}))).await;
    let text = "checking the host config: the host config's credentials hold \"system.hostname\", which has ${serial} in line 1, \
                but the machine says no serial number";
    outcome.before_the_plan(Code::Credentials, text);
}

#[tokio::test]
async fn a_variable_that_does_not_exist_is_no_host_config() {
    let outcome = refused(|_| published(&json!({"motd": {"text": "\n${rack}"}}))).await;
    let text = "checking the host config: reading host-default.json: the host config's credentials hold \"motd\", which has the \
                variable \"rack\" in line 2, which is none of serial, uuid, mac, vendor, product";
    outcome.before_the_plan(Code::HostConfig, text);
}
