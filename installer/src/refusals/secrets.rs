//! Secrets of the host config, from the repository to the disk, on a machine with a software TPM.

use std::sync::Arc;

use metalstrap_release::host::{Plaintext, Secret};
use metalstrap_release::tpm2::{Ek, KeyKind};
use serde_json::{Value, json};

use super::published::{Published, good, host};
use super::trial::Trial;
use crate::disk::Recorded;
use crate::failure::Code;
use crate::machine::Seams;
use crate::tpm::swtpm::Swtpm;

const CONTENT: &[u8] = b"hush, nobody may hear this";

fn ek(swtpm: &Swtpm, kind: KeyKind) -> Ek {
    swtpm.direct().with_ek(kind, |_, _, ek| Ok(ek.clone())).unwrap()
}

/// A secret for the machine with this TPM.
fn secret(swtpm: &Swtpm) -> Value {
    let ek = ek(swtpm, KeyKind::EccP256);
    serde_json::to_value(Secret::encrypt(&ek, "wifi.psk", &Plaintext::new(CONTENT.to_vec())).unwrap()).unwrap()
}

fn published(secrets: &Value) -> Published {
    let mut host = host();
    host["secrets"] = secrets.clone();
    good().with_host(serde_json::to_vec(&host).unwrap())
}

/// On a machine with this TPM.
fn trial(secrets: &Value, swtpm: Option<&Arc<Swtpm>>) -> Trial {
    let mut trial = Trial::of(&published(secrets));
    let swtpm = swtpm.cloned();
    trial.changes = Arc::new(move |seams: Seams| {
        let swtpm = swtpm.clone();
        Seams { tpm: Box::new(move || Ok(swtpm.as_ref().map(|swtpm| swtpm.direct()))), ..seams }
    });
    trial
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|found| found == part)
}

#[tokio::test]
async fn they_are_sealed_to_the_machine_once_and_nobody_is_told_what_is_in_them() {
    let swtpm = Arc::new(Swtpm::start());
    let secrets = json!({"wifi.psk": secret(&swtpm)});
    let (outcome, trial) = trial(&secrets, Some(&swtpm)).run_and_keep().await;
    outcome.result.as_ref().unwrap();
    assert!(!holds(outcome.told().as_bytes(), CONTENT), "{}", outcome.told());
    let plan = outcome.events().into_iter().find(|event| event["step"] == "plan" && event["state"] == "info").unwrap();
    assert_eq!(plan["fields"]["plan"]["credentials"], json!([{"name": "wifi.psk"}]));
    let written =
        outcome.log.iter().filter_map(|what| if let Recorded::Write { bytes, .. } = what { Some(bytes) } else { None });
    let written: Vec<_> = written.collect();
    // In base64, as services read it: the id of a key that is sealed to a TPM.
    assert!(written.iter().any(|bytes| holds(bytes, b"DHzAexF2RZGcSwvqCLwg/i")), "the file is on the disk");
    assert!(!written.iter().any(|bytes| holds(bytes, CONTENT)));

    let (outcome, _) = trial.run_and_keep().await;
    assert!(outcome.result.is_ok() && outcome.log.iter().all(|what| *what == Recorded::Flush), "{:?}", outcome.log);
}

#[tokio::test]
async fn a_secret_of_another_machine() {
    let [ours, other] = [Swtpm::start(), Swtpm::start()].map(Arc::new);
    let outcome = trial(&json!({"wifi.psk": secret(&other)}), Some(&ours)).run().await;
    let [wanted, ecc, rsa] = [(&other, KeyKind::EccP256), (&ours, KeyKind::EccP256), (&ours, KeyKind::Rsa2048)]
        .map(|(tpm, kind)| ek(tpm, kind).id());
    let text = format!(
        "opening the secrets: the secret \"wifi.psk\" is encrypted to the endorsement key {wanted}, but those of this machine's TPM \
         are {ecc} and {rsa}: it is another machine's, or the TPM was replaced"
    );
    outcome.before_the_plan(Code::Secrets, &text);
}

#[tokio::test]
async fn a_secret_under_another_name() {
    let swtpm = Arc::new(Swtpm::start());
    let outcome = trial(&json!({"motd": secret(&swtpm)}), Some(&swtpm)).run().await;
    let text = "opening the secrets: asking the TPM: the content of the secret \"motd\" was changed";
    outcome.before_the_plan(Code::Secrets, text);
}

#[tokio::test]
async fn a_secret_whose_content_was_changed() {
    let swtpm = Arc::new(Swtpm::start());
    let mut secret = secret(&swtpm);
    let content = secret["content"].as_str().unwrap().to_owned();
    let other = if content.starts_with('A') { "B" } else { "A" };
    secret["content"] = format!("{other}{}", &content[1..]).into();
    let outcome = trial(&json!({"wifi.psk": secret}), Some(&swtpm)).run().await;
    let text = "opening the secrets: asking the TPM: the content of the secret \"wifi.psk\" was changed";
    outcome.before_the_plan(Code::Secrets, text);
}

#[tokio::test]
async fn secrets_for_a_machine_that_has_no_tpm() {
    let outcome = trial(&json!({"wifi.psk": secret(&Swtpm::start())}), None).run().await;
    let text = "opening the secrets: the host config has secrets, but this machine has no TPM 2.0 that could open them";
    outcome.before_the_plan(Code::Secrets, text);
}
