//! `metalstrap attest report`, of events whose quotes tpm2-tools have swtpm make.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metalstrap_release::digest::Digest;
use serde_json::{Value, json};

use crate::tpm::Machine;
use crate::{attest, finding, write};

/// What `attest report` makes of an event of a machine whose endorsement key is known: the verdict, and the exit code.
fn report(machine: &Machine, event: &Value, words: &[&str]) -> (Value, i32) {
    let at = machine.directory.path();
    let started =
        json!({"metalstrap": 1, "run": "r", "sequence": 0, "at": 0, "step": "gpt", "state": "started", "fields": {}});
    fs::write(at.join("events.ndjson"), format!("{started}\n{event}\n{event}\n")).unwrap();
    let output = attest(at, &[&["report", "events.ndjson", "--format", "json"][..], words].concat());
    let verdict = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    (verdict, output.status.code().unwrap())
}

#[test]
fn what_a_run_reports_is_judged_without_an_exchange() {
    let machine = Machine::new();
    machine.make_ak("ak", "rsa");
    let at = machine.directory.path();
    let host = |name: &str, version: &str| {
        let host = json!({"format": 1, "release": {"name": "tiny", "version": version}});
        write(at, name, &host);
        host.to_string()
    };
    let (bytes, _) = (host("host.json", "1"), host("other.json", "2"));
    let log = machine.measure("host-config", bytes.as_bytes());
    let event = machine.event("r", "ak", &log);
    let known = ["--ek", "ek.pub", "--host-config", "host.json"];

    let (verdict, code) = report(&machine, &event, &known);
    assert_eq!((&verdict["accepted"], &verdict["id"], code), (&json!(false), &json!("r"), 1), "{verdict}");
    let nobody = "nobody has challenged the machine: that the TPM with that endorsement key has this attestation key is only what \
                  it says";
    assert_eq!(finding(&verdict, "ak"), ("unknown", nobody));
    let vouches = "the TPM vouches for PCRs 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 of the banks sha256; it is of this \
                   run, whose id the machine has chosen";
    assert_eq!(finding(&verdict, "quote"), ("proved", vouches));
    assert_eq!(finding(&verdict, "firmware-log"), ("unknown", "there is none"));
    let accounts = "its 1 records account for PCR 13, and both logs for all above 7 but 10, which is IMA's";
    assert_eq!(finding(&verdict, "userspace-log"), ("proved", accounts));
    let measured = "it was measured; that nothing else was in its place is only what the log says";
    assert_eq!(finding(&verdict, "host-config"), ("proved", measured));
    let nonce = |run: &str| Digest::of(run.as_bytes()).to_string();
    assert!(machine.check_quote("report", "ak", &nonce("r"), "report"));
    assert!(!machine.check_quote("report", "ak", &nonce("another"), "report"));

    // Where an exchange has proved that the keys are of one TPM, it is accepted.
    write(at, "introduction.json", &machine.introduction("ak"));
    let (verdict, code) = report(&machine, &event, &[&known[..], &["--introduction", "introduction.json"]].concat());
    assert_eq!((&verdict["accepted"], code), (&json!(true), 0), "{verdict}");

    // The certificate counts without the steps between it and its root, which the event does not have.
    let mut certified = event.clone();
    certified["fields"]["attestation"]["introduction"]["ek_certificate"] =
        STANDARD.encode(machine.bytes("ek.der")).into();
    let (verdict, _) = report(&machine, &certified, &["--ek-roots", "issuer.pem"]);
    assert_eq!(finding(&verdict, "ek-certificate").0, "proved", "{verdict}");
    let (verdict, _) = report(&machine, &certified, &["--ek-roots", "root.pem"]);
    assert_eq!(finding(&verdict, "ek-certificate").0, "refuted", "{verdict}");

    let (verdict, code) = report(&machine, &event, &["--ek", "ek.pub", "--host-config", "other.json"]);
    assert_eq!((finding(&verdict, "host-config"), code), (("refuted", "another one was measured"), 1));
    let changed = |change: &dyn Fn(&mut Value), what: &str| {
        let mut event = event.clone();
        change(&mut event);
        let (verdict, code) = report(&machine, &event, &known);
        let (outcome, text) = finding(&verdict, what);
        assert_eq!((outcome, code), ("refuted", 1), "{verdict}");
        text.to_owned()
    };
    let value = |event: &mut Value| event["fields"]["attestation"]["quote"]["pcrs"]["13"] = "00".repeat(32).into();
    assert_eq!(changed(&value, "quote"), "that of sha256 is over other values of the PCRs than come with it");
    let run = |event: &mut Value| event["run"] = "another".into();
    let another = "that of sha256 has another nonce than the SHA-256 of this run's id: it is another run's";
    assert_eq!(changed(&run, "quote"), another);
    let twice = |event: &mut Value| event["fields"]["event_log"] = format!("{log}{log}").into();
    let text = changed(&twice, "userspace-log");
    let (start, middle) = ("PCR 13 of bank sha256 is ", ", but the logs, with 2 events for it, say ");
    assert!(text.starts_with(start) && text.contains(middle), "{text}");
}

#[test]
fn events_without_an_attestation_are_refused() {
    let at = tempfile::tempdir().unwrap();
    let refusal = |text: &str| {
        fs::write(at.path().join("events.ndjson"), text).unwrap();
        let output = attest(at.path(), &["report", "events.ndjson"]);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
        String::from_utf8(output.stderr).unwrap()
    };
    let checking = "metalstrap: checking events.ndjson: ";
    let none = format!("{checking}it has no event `run` `finished`: there is nothing that a TPM has signed\n");
    assert_eq!(refusal(""), none);
    let event = |state: &str| {
        let fields = json!({"event_log": ""});
        json!({"metalstrap": 1, "run": "r", "sequence": 1, "at": 1, "step": "run", "state": state, "fields": fields})
    };
    assert_eq!(refusal(&event("failed").to_string()), none);
    let text = "the event `run` `finished` of the run \"r\" has no attestation: nothing was measured, or the TPM gave no quote\n";
    assert_eq!(refusal(&event("finished").to_string()), format!("{checking}{text}"));
}
