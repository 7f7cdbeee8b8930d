//! With a software TPM: what the log says is what the PCR holds.

mod failing;
mod locked;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use metalstrap_release::digest::{from_hex, to_hex};
use metalstrap_release::eventlog::replay::Replay;
use metalstrap_release::eventlog::userspace::{self, Record};

use super::file::STICKY;
use super::*;
use crate::failure::code_of;
use crate::tpm::extended;
use crate::tpm::nv::Content;
use crate::tpm::swtpm::Swtpm;

/// A TPM that does not take measurements.
#[derive(Debug)]
struct Broken;

impl Tpm for Broken {
    fn banks(&self) -> &[Bank] {
        &[Bank::Sha256]
    }

    fn extend(&mut self, _: PcrIndex, _: &[BankDigest]) -> Result<()> {
        bail!("the TPM is in lockout")
    }

    fn read(&mut self, _: PcrIndex) -> Result<Vec<BankDigest>> {
        bail!("the TPM is in lockout")
    }

    fn nv_read(&mut self, _: u32, _: u16) -> Result<Content> {
        bail!("the TPM is in lockout")
    }

    fn nv_write(&mut self, _: u32, _: &[u8]) -> Result<()> {
        bail!("the TPM is in lockout")
    }
}

/// (`content.input`, digests) of every record of PCR 13.
fn records(text: &str) -> Vec<(String, Vec<BankDigest>)> {
    records_of(13, text)
}

/// The same of this PCR.
fn records_of(pcr: u32, text: &str) -> Vec<(String, Vec<BankDigest>)> {
    let mut records = Vec::new();
    for record in text.split_inclusive('\n') {
        let record: Value = serde_json::from_str(record.strip_prefix('\u{1e}').unwrap()).unwrap();
        if record["pcr"] != pcr {
            continue;
        }
        assert_eq!(record["content_type"], "systemd");
        assert_eq!(record["content"]["eventType"], "metalstrap");
        let digest = |value: &Value| {
            let banks = [Bank::Sha1, Bank::Sha256, Bank::Sha384, Bank::Sha512];
            let bank = banks.into_iter().find(|bank| value["hashAlg"] == bank.to_string()).unwrap();
            BankDigest { bank, digest: from_hex(value["digest"].as_str().unwrap()).unwrap() }
        };
        let digests = record["digests"].as_array().unwrap().iter().map(digest).collect();
        records.push((record["content"]["input"].as_str().unwrap().to_owned(), digests));
    }
    records
}

/// What PCR 13 must hold after the records of `text`.
fn replay(text: &str) -> Vec<BankDigest> {
    replay_of(13, text)
}

/// What this PCR must hold.
fn replay_of(pcr: u32, text: &str) -> Vec<BankDigest> {
    let mut values: BTreeMap<Bank, BankDigest> = BTreeMap::new();
    for digest in records_of(pcr, text).into_iter().flat_map(|(_, digests)| digests) {
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

    let measurement = measurer.measure(PcrIndex::Installer, "site-config", b"{\"format\": 1}").unwrap();
    assert_eq!(
        measurement.fields()["digests"][1],
        json!({"hashAlg": "sha256", "digest": to_hex(&Bank::Sha256.digest(b"{\"format\": 1}").digest)})
    );
    let decision = measurer.decide(TpmPolicy::Required).unwrap();
    assert_eq!(decision.text, "measuring into PCR 13 of the banks sha1, sha256, sha384, sha512");
    for (what, bytes) in [("manifest", &b"{}"[..]), ("plan", b"[1]"), ("kernel-cmdline", b"quiet"), ("empty", b"")] {
        measurer.measure(PcrIndex::Installer, what, bytes).unwrap();
    }

    let pcr = measurer.read(PcrIndex::Installer).unwrap();
    assert_eq!(pcr.len(), 4);
    assert_eq!(replay(measurer.log()), pcr);
    assert_eq!(fs::read_to_string(&path).unwrap(), measurer.log());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let names: Vec<_> = records(measurer.log()).into_iter().map(|(name, _)| name).collect();
    let expected = ["site-config", "manifest", "plan", "kernel-cmdline", "empty"];
    assert_eq!(names, expected);

    let read = userspace::parse(measurer.log()).unwrap();
    assert_eq!(read.iter().filter_map(Record::input).collect::<Vec<_>>(), expected);
    assert_eq!([read[1].is_of(b"{}"), read[1].is_of(b"manifest")], [true, false]);
    let replay = Replay::new(None, &read);
    for value in &pcr {
        assert_eq!(replay.check(PcrIndex::Installer.number(), value.bank, &value.digest), Ok(()));
    }
}

#[test]
fn each_pcr_replays_by_itself() {
    let swtpm = Swtpm::start();
    let directory = tempfile::tempdir().unwrap();
    let mut measurer = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &log_in(&directory));
    for (what, bytes) in [("a", &b"1"[..]), ("b", b"2")] {
        for pcr in PcrIndex::ALL {
            let fields = measurer.measure(pcr, what, bytes).unwrap().fields();
            assert_eq!(fields["pcr"], json!(pcr.number()));
        }
    }
    let digests = measurer.banks().iter().map(|bank| bank.digest(b"3")).collect();
    measurer.extend(PcrIndex::KernelBoot, "c", digests).unwrap();
    for (pcr, count) in PcrIndex::ALL.into_iter().zip([3, 2, 2]) {
        assert_eq!(records_of(pcr.number(), measurer.log()).len(), count);
        assert_eq!(replay_of(pcr.number(), measurer.log()), measurer.read(pcr).unwrap(), "{pcr}");
    }
}

#[test]
fn digests_for_other_banks_are_refused() {
    let swtpm = Swtpm::start();
    let directory = tempfile::tempdir().unwrap();
    let mut measurer = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &log_in(&directory));
    measurer.decide(TpmPolicy::Required).unwrap();
    let error = measurer.extend(PcrIndex::KernelBoot, "uki", vec![Bank::Sha256.digest(b"1")]).unwrap_err();
    assert_eq!(
        format!("{error:#}"),
        "measuring the uki: what PCR 11 is to be extended with is not for the banks that the TPM has"
    );
    assert_eq!(measurer.log(), "");
    assert!(
        measurer.read(PcrIndex::KernelBoot).unwrap().iter().all(|value| value.digest.iter().all(|&byte| byte == 0))
    );
}

#[test]
fn a_second_run_of_the_same_boot_continues_the_log() {
    let swtpm = Swtpm::start();
    let directory = tempfile::tempdir().unwrap();
    let path = log_in(&directory);
    let mut first = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &path);
    first.measure(PcrIndex::Installer, "site-config", b"1").unwrap();
    drop(first);

    let mut second = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &path);
    second.measure(PcrIndex::Installer, "site-config", b"1").unwrap();

    assert_eq!(records(second.log()).len(), 2);
    assert_eq!(replay(second.log()), second.read(PcrIndex::Installer).unwrap());
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
    let error = measurer.measure(PcrIndex::Installer, "manifest", b"{}").unwrap_err();
    assert_eq!(code_of(&error), Code::Tpm);
    assert_eq!(format!("{error:#}"), "measuring the manifest: the TPM is in lockout");
}

#[test]
fn a_failure_before_the_site_config_is_read_counts_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut measurer = Measurer::with(Ok(Some(Box::new(Broken))), &log_in(&directory));
    let skipped = measurer.measure(PcrIndex::Installer, "site-config", b"{}").unwrap().skipped.unwrap();
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
        Value::from(broken.measure(PcrIndex::Installer, "plan", b"[]").unwrap().fields()),
        json!({"what": "plan", "skipped": "measuring the plan: the TPM is in lockout"})
    );
    assert_eq!(broken.log(), "");

    let directory = tempfile::tempdir().unwrap();
    let mut absent = Measurer::with(Ok(None), &log_in(&directory));
    assert_eq!(
        absent.decide(TpmPolicy::IfPresent).unwrap(),
        Decision { measuring: false, text: "nothing is measured: the machine has no TPM".to_owned() }
    );
    assert_eq!(absent.measure(PcrIndex::Installer, "plan", b"[]").unwrap().skipped.unwrap(), "the machine has no TPM");
    assert_eq!(
        absent.decide(TpmPolicy::Required).unwrap_err().to_string(),
        "the host config requires a TPM, but nothing is measured: the machine has no TPM"
    );
}

#[test]
fn a_record_reads_as_systemd_writes_it() {
    let directory = tempfile::tempdir().unwrap();
    let log = EventLog::open(&log_in(&directory)).unwrap();
    let digests = [Bank::Sha1.digest(b"abc")];
    let record = log.record(Input { pcr: PcrIndex::Installer, what: "plan", digests: &digests }).unwrap();
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().replace('-', "");
    let (before, after) = record.split_once("\"timestamp\":").unwrap();
    assert_eq!(
        before,
        format!(
            "\u{1e}{{\"pcr\":13,\"digests\":[{{\"hashAlg\":\"sha1\",\"digest\":\
             \"a9993e364706816aba3e25717850c26c9cd0d89d\"}}],\"content_type\":\"systemd\",\"content\":\
             {{\"input\":\"plan\",\"bootId\":\"{boot_id}\","
        )
    );
    let (timestamp, after) = after.split_once(',').unwrap();
    assert!(timestamp.parse::<u64>().unwrap() > 0);
    assert_eq!(after, "\"eventType\":\"metalstrap\"}}\n");
}
