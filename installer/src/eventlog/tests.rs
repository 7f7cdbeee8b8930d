//! With a software TPM: what the log says is what the PCR holds.

use std::collections::BTreeMap;

use metalstrap_release::digest::{from_hex, to_hex};
use metalstrap_release::eventlog::replay::Replay;
use metalstrap_release::eventlog::userspace::{self, Record};

use super::*;
use crate::failure::code_of;
use crate::tpm::nv::Content;
use crate::tpm::swtpm::Swtpm;
use crate::tpm::{Bank, extended};

/// A TPM that does not take measurements.
#[derive(Debug)]
struct Broken;

impl Tpm for Broken {
    fn banks(&self) -> &[Bank] {
        &[Bank::Sha256]
    }

    fn extend(&mut self, _: &[BankDigest]) -> Result<()> {
        bail!("the TPM is in lockout")
    }

    fn read(&mut self) -> Result<Vec<BankDigest>> {
        bail!("the TPM is in lockout")
    }

    fn nv_read(&mut self, _: u32, _: u16) -> Result<Content> {
        bail!("the TPM is in lockout")
    }

    fn nv_write(&mut self, _: u32, _: &[u8]) -> Result<()> {
        bail!("the TPM is in lockout")
    }
}

/// (`content.string`, digests) of every record.
fn records(text: &str) -> Vec<(String, Vec<BankDigest>)> {
    let mut records = Vec::new();
    for record in text.split_inclusive('\n') {
        let record: Value = serde_json::from_str(record.strip_prefix('\u{1e}').unwrap()).unwrap();
        assert_eq!(record["pcr"], 13);
        assert_eq!(record["content_type"], "systemd");
        assert_eq!(record["content"]["eventType"], "metalstrap");
        let digest = |value: &Value| {
            let banks = [Bank::Sha1, Bank::Sha256, Bank::Sha384, Bank::Sha512];
            let bank = banks.into_iter().find(|bank| value["hashAlg"] == bank.to_string()).unwrap();
            BankDigest { bank, digest: from_hex(value["digest"].as_str().unwrap()).unwrap() }
        };
        let digests = record["digests"].as_array().unwrap().iter().map(digest).collect();
        records.push((record["content"]["string"].as_str().unwrap().to_owned(), digests));
    }
    records
}

/// What the PCR must hold after the records of `text`.
fn replay(text: &str) -> Vec<BankDigest> {
    let mut values: BTreeMap<Bank, BankDigest> = BTreeMap::new();
    for digest in records(text).into_iter().flat_map(|(_, digests)| digests) {
        let zero = BankDigest { bank: digest.bank, digest: vec![0; digest.digest.len()] };
        let value = values.entry(digest.bank).or_insert(zero);
        *value = extended(value, &digest);
    }
    values.into_values().collect()
}

fn log_in(directory: &tempfile::TempDir) -> std::path::PathBuf {
    directory.path().join("metalstrap/tpm2-measure.log")
}

#[test]
fn the_log_replays_to_the_pcr() {
    let swtpm = Swtpm::start();
    let directory = tempfile::tempdir().unwrap();
    let path = log_in(&directory);
    let mut measurer = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &path);

    let measurement = measurer.measure("site-config", b"{\"format\": 1}").unwrap();
    assert_eq!(
        measurement.fields()["digests"][1],
        json!({"hashAlg": "sha256", "digest": to_hex(&Bank::Sha256.digest(b"{\"format\": 1}").digest)})
    );
    let decision = measurer.decide(TpmPolicy::Required).unwrap();
    assert_eq!(decision.text, "measuring into PCR 13 of the banks sha1, sha256, sha384, sha512");
    for (what, bytes) in [("manifest", &b"{}"[..]), ("plan", b"[1]"), ("kernel-cmdline", b"quiet"), ("empty", b"")] {
        measurer.measure(what, bytes).unwrap();
    }

    let pcr = measurer.read().unwrap();
    assert_eq!(pcr.len(), 4);
    assert_eq!(replay(measurer.log()), pcr);
    assert_eq!(fs::read_to_string(&path).unwrap(), measurer.log());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let names: Vec<_> = records(measurer.log()).into_iter().map(|(name, _)| name).collect();
    let expected = ["site-config", "manifest", "plan", "kernel-cmdline", "empty"];
    assert_eq!(names, expected.map(|name| format!("metalstrap:{name}")));

    let read = userspace::parse(measurer.log()).unwrap();
    assert_eq!(read.iter().filter_map(Record::input).collect::<Vec<_>>(), expected);
    assert_eq!([read[1].is_of(b"{}"), read[1].is_of(b"manifest")], [true, false]);
    let replay = Replay::new(None, &read);
    for value in &pcr {
        assert_eq!(replay.check(tpm::PCR, value.bank, &value.digest), Ok(()));
    }
}

#[test]
fn a_second_run_of_the_same_boot_continues_the_log() {
    let swtpm = Swtpm::start();
    let directory = tempfile::tempdir().unwrap();
    let path = log_in(&directory);
    let mut first = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &path);
    first.measure("site-config", b"1").unwrap();
    drop(first);

    let mut second = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &path);
    second.measure("site-config", b"1").unwrap();

    assert_eq!(records(second.log()).len(), 2);
    assert_eq!(replay(second.log()), second.read().unwrap());
}

#[test]
fn a_run_stopped_between_tpm_and_log_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = log_in(&directory);
    drop(EventLog::open(&path).unwrap());
    fs::set_permissions(&path, Permissions::from_mode(0o600 | STICKY)).unwrap();

    let mut measurer = Measurer::with(Ok(Some(Box::new(Broken))), &path);

    let error = measurer.decide(TpmPolicy::Required).unwrap_err();
    assert_eq!(code_of(&error), Code::Tpm);
    assert_eq!(
        format!("{error:#}"),
        format!(
            "the host config requires a TPM, but nothing more is measured: opening the event log {}: an earlier run \
             was stopped while measuring, so a record may be missing; only a restart of the machine clears that",
            path.display()
        )
    );
}

#[test]
fn a_required_tpm_that_fails_ends_the_run() {
    let directory = tempfile::tempdir().unwrap();
    let mut measurer = Measurer::with(Ok(Some(Box::new(Broken))), &log_in(&directory));
    measurer.decide(TpmPolicy::Required).unwrap();
    let error = measurer.measure("manifest", b"{}").unwrap_err();
    assert_eq!(code_of(&error), Code::Tpm);
    assert_eq!(format!("{error:#}"), "measuring the manifest: the TPM is in lockout");
}

#[test]
fn a_failure_before_the_site_config_is_read_counts_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut measurer = Measurer::with(Ok(Some(Box::new(Broken))), &log_in(&directory));
    let skipped = measurer.measure("site-config", b"{}").unwrap().skipped.unwrap();
    assert_eq!(skipped, "measuring the site-config: the TPM is in lockout");
    assert_eq!(
        measurer.decide(TpmPolicy::Required).unwrap_err().to_string(),
        "the host config requires a TPM, but nothing more is measured: measuring the site-config: the TPM is in lockout"
    );
}

#[test]
fn where_a_tpm_may_be_absent_its_failure_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let mut broken = Measurer::with(Ok(Some(Box::new(Broken))), &log_in(&directory));
    broken.decide(TpmPolicy::IfPresent).unwrap();
    assert_eq!(
        Value::from(broken.measure("plan", b"[]").unwrap().fields()),
        json!({"what": "plan", "skipped": "measuring the plan: the TPM is in lockout"})
    );
    assert_eq!(broken.log(), "");

    let mut absent = Measurer::with(Ok(None), &log_in(&directory));
    assert_eq!(
        absent.decide(TpmPolicy::IfPresent).unwrap(),
        Decision { measuring: false, text: "nothing is measured: the machine has no TPM".to_owned() }
    );
    assert_eq!(absent.measure("plan", b"[]").unwrap().skipped.unwrap(), "the machine has no TPM");
    assert_eq!(
        absent.decide(TpmPolicy::Required).unwrap_err().to_string(),
        "the host config requires a TPM, but nothing is measured: the machine has no TPM"
    );
}

#[test]
fn a_record_reads_as_systemd_writes_it() {
    let directory = tempfile::tempdir().unwrap();
    let log = EventLog::open(&log_in(&directory)).unwrap();
    let record = log.record("plan", &[Bank::Sha1.digest(b"abc")]).unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().replace('-', "");
    let (before, after) = record.split_once("\"timestamp\":").unwrap();
    assert_eq!(
        before,
        format!(
            "\u{1e}{{\"pcr\":13,\"digests\":[{{\"hashAlg\":\"sha1\",\"digest\":\
             \"a9993e364706816aba3e25717850c26c9cd0d89d\"}}],\"content_type\":\"systemd\",\"content\":\
             {{\"string\":\"metalstrap:plan\",\"bootId\":\"{boot_id}\","
        )
    );
    let (timestamp, after) = after.split_once(',').unwrap();
    assert!(timestamp.parse::<u64>().unwrap() > 0);
    assert_eq!(after, "\"eventType\":\"metalstrap\"}}\n");
}
