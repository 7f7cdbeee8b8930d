//! Keys for the firmware's Secure Boot: refused before anything is written, or given to it when the release is complete.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::published::{Published, good, host};
use super::trial::{Outcome, Trial};
use crate::failure::Code;
use crate::machine::{Firmware, Seams};
use crate::secure_boot::tests::{Store, keys, list, signed_by};

/// The repository with keys in its host config, and a release that says to be signed by the one in `db`.
fn with_keys() -> Published {
    with_keys_in(host())
}

/// The same with this host config.
fn with_keys_in(mut host: Value) -> Published {
    host["secure_boot_keys"] = serde_json::to_value(keys()).unwrap();
    let signed = good().with_changed_manifest(|manifest| manifest.boot.secure_boot = Some(signed_by(b"db", b"db")));
    signed.with_host(serde_json::to_vec(&host).unwrap())
}

/// An installation on a machine with this firmware.
fn on(published: &Published, store: &Store) -> Trial {
    let (mut trial, store) = (Trial::of(published), store.clone());
    trial.changes = Arc::new(move |seams: Seams| {
        let [boot, loader, keys, database] = std::array::from_fn(|_| Box::new(store.clone()));
        Seams { firmware: Some(Firmware { boot, loader, keys, database }), ..seams }
    });
    trial
}

/// The same where sysfs is at `sys`.
fn seeing(sys: &Path, mut trial: Trial) -> Trial {
    let (sys, changes) = (sys.to_owned(), Arc::clone(&trial.changes));
    trial.changes = Arc::new(move |seams: Seams| Seams { sys: sys.clone(), ..changes(seams) });
    trial
}

/// What was told of it.
fn told(outcome: &Outcome) -> Vec<Value> {
    let events = outcome.events().into_iter();
    let own = events.filter(|event| event["step"] == "secure-boot" && event["state"] == "info");
    own.map(|event| event["fields"].clone()).collect()
}

#[tokio::test]
async fn the_firmware_gets_the_keys_of_the_host_config_once() {
    let store = Store::in_setup_mode();
    let (outcome, trial) = on(&with_keys(), &store).run_and_keep().await;
    outcome.installed();
    assert_eq!(store.written(), ["db", "KEK", "PK"]);
    assert_eq!(told(&outcome), [json!({"enrolled": ["db", "KEK", "PK"]})]);
    let again = trial.run().await;
    assert!(again.result.is_ok());
    assert_eq!((store.written().len(), told(&again)), (3, Vec::new()));
}

#[tokio::test]
async fn a_firmware_with_other_keys_is_refused_before_anything_is_written() {
    let store = Store::default().with("SetupMode", &[0]).with("PK", &list(b"theirs"));
    on(&with_keys(), &store).run().await.before_the_plan(
        Code::SecureBoot,
        "checking the firmware's keys: the firmware is not in setup mode, and does not have the keys of the host config: its db, \
         KEK, PK differs",
    );
}

#[tokio::test]
async fn credentials_that_the_os_would_refuse_once_the_keys_are_enrolled() {
    let mut host = host();
    host["credentials"] = json!({"system.hostname": {"text": "web-1"}});
    let (published, store) = (with_keys_in(host), Store::in_setup_mode());
    let sys = tempfile::tempdir().unwrap();
    let tpm = sys.path().join("class/tpm/tpm0");
    fs::create_dir_all(&tpm).unwrap();
    fs::write(tpm.join("tpm_version_major"), "2\n").unwrap();
    seeing(sys.path(), on(&published, &store)).run().await.before_the_plan(
        Code::Credentials,
        "checking the firmware's keys: this machine will have Secure Boot on once the host config's keys are enrolled, and it has a \
         TPM 2.0: there systemd takes no credentials that are not sealed to the TPM, as only `secrets` are",
    );
    assert_eq!(store.written(), Vec::<String>::new());

    // Keys alone.
    seeing(sys.path(), on(&with_keys(), &Store::in_setup_mode())).run().await.installed();
    // Without a TPM systemd takes the credentials.
    let no_tpm = tempfile::tempdir().unwrap();
    seeing(no_tpm.path(), on(&published, &store)).run().await.result.unwrap();
    assert_eq!(store.written(), ["db", "KEK", "PK"]);
    // The firmware has the keys, and Secure Boot is off.
    seeing(sys.path(), on(&published, &store)).run().await.result.unwrap();
}

#[tokio::test]
async fn a_key_that_the_firmware_does_not_take_leaves_a_release_that_boots() {
    let store = Store::in_setup_mode().refusing("db");
    let outcome = on(&with_keys(), &store).run().await;
    let failure = outcome.failure();
    assert_eq!(failure.code, Code::SecureBoot);
    assert_eq!(
        failure.happened,
        "enrolling Secure Boot's keys: giving the firmware db: writing the EFI variable db: the firmware or the kernel does not \
         permit it"
    );
    let untouched = "No disk but PLACE/disk was written to. The release on PLACE/disk is complete and boots.";
    assert_eq!((failure.untouched.as_str(), store.written()), (untouched, Vec::new()));
}
