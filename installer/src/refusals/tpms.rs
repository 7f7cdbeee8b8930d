//! A machine whose TPM goes away while it is installed, behind the plan: nothing is half done, and nobody takes for measured
//! what is not.

use std::fs;
use std::sync::Arc;

use anyhow::Result;
use metalstrap_release::eventlog::userspace::{self, Record};
use serde_json::json;

use super::published::{good, host};
use super::record::{self, Stage};
use super::trial::{Outcome, Trial};
use super::written::{assert_whole, unverified};
use crate::disk::Recorded;
use crate::ending::Ending;
use crate::eventlog::Measurer;
use crate::failure::Code;
use crate::machine::Seams;
use crate::tpm::nv::Content;
use crate::tpm::swtpm::{GONE, Swtpm};
use crate::tpm::{Bank, BankDigest, PcrIndex, Tpm, TssTpm};

/// What a run measures, in this order. The disk is written behind the first five.
const MEASURED: [&str; 7] = ["site-config", "host-config", "manifest", "plan", "kernel-cmdline", "root-hash", "uki"];

/// A TPM that takes so many measurements, and is gone when the next one comes.
#[derive(Debug)]
struct Going {
    left: usize,
    tpm: TssTpm,
    swtpm: Option<Swtpm>,
}

impl Tpm for Going {
    fn banks(&self) -> &[Bank] {
        self.tpm.banks()
    }

    fn extend(&mut self, pcr: PcrIndex, digests: &[BankDigest]) -> Result<()> {
        if self.left == 0 {
            // Ends the process. No sooner: another test might get its port.
            drop(self.swtpm.take());
        }
        self.left = self.left.saturating_sub(1);
        self.tpm.extend(pcr, digests)
    }

    fn read(&mut self, pcr: PcrIndex) -> Result<Vec<BankDigest>> {
        self.tpm.read(pcr)
    }

    fn nv_read(&mut self, index: u32, size: u16) -> Result<Content> {
        self.tpm.nv_read(index, size)
    }

    fn nv_write(&mut self, index: u32, bytes: &[u8]) -> Result<()> {
        self.tpm.nv_write(index, bytes)
    }
}

/// An installation by a host config with this word about the TPM.
fn trial(policy: &str) -> Trial {
    let mut host = host();
    host["tpm"] = policy.into();
    Trial::of(&good().with_host(serde_json::to_vec(&host).unwrap()))
}

/// On a machine whose TPM takes so many measurements.
fn taking(mut trial: Trial, left: usize) -> Trial {
    let log = trial.disk().with_file_name("measured.log");
    trial.changes = Arc::new(move |seams: Seams| {
        let swtpm = Swtpm::start();
        let tpm = Going { left, tpm: swtpm.connect(), swtpm: Some(swtpm) };
        let measurer = Measurer::with(Ok(Some(Box::new(tpm))), &log);
        Seams { measurer: Some(measurer), ..seams }
    });
    trial
}

/// On a machine whose TPM is gone when `what` is to be measured.
async fn gone_at(what: &str, policy: &str) -> (Outcome, Trial) {
    taking(trial(policy), before(what)).run_and_keep().await
}

/// How much is measured before it.
fn before(what: &str) -> usize {
    MEASURED.iter().position(|measured| *measured == what).unwrap()
}

/// What is said of a TPM that is gone then.
fn cause(what: &str) -> String {
    format!("measuring the {what}: extending PCR 13: {GONE}")
}

/// What the log of a run that ended well has.
fn measured(outcome: &Outcome) -> Vec<String> {
    let events = outcome.events();
    let last = events.last().unwrap();
    assert_eq!((&last["step"], &last["state"]), (&json!("run"), &json!("finished")));
    let log = userspace::parse(last["fields"]["event_log"].as_str().unwrap()).unwrap();
    log.iter().filter_map(Record::input).map(str::to_owned).collect()
}

/// Refused when all was written, as in any good run.
#[track_caller]
fn refused_when_complete(outcome: &Outcome, happened: &str) {
    let failure = outcome.failure();
    assert_eq!((failure.happened.as_str(), failure.code), (happened, Code::Tpm));
    let untouched = "No disk but PLACE/disk was written to. The release on PLACE/disk is complete and boots.";
    assert_eq!(failure.untouched, untouched);
    assert_eq!(outcome.remembered(), None);
    assert_whole(&outcome.log);
    assert_eq!(unverified(&outcome.log), 0);
    record::refusal(&failure, Stage::Writing, &outcome.log, unverified(&outcome.log));
}

#[tokio::test]
async fn a_required_tpm_that_is_gone_before_the_first_write() {
    let (outcome, _trial) = gone_at("kernel-cmdline", "required").await;
    outcome.before_the_plan(Code::Tpm, &cause("kernel-cmdline"));
}

/// While the disk is written nothing is measured, so that it turns up behind that.
#[tokio::test]
async fn a_required_tpm_that_goes_away_while_the_disk_is_written() {
    for what in ["root-hash", "uki"] {
        let (outcome, trial) = gone_at(what, "required").await;
        refused_when_complete(&outcome, &cause(what));
        assert!(trial.verify().await.unwrap().whole);

        // Once more in the same boot: a TPM that is back does not make it measured.
        let (outcome, trial) = taking(trial, MEASURED.len()).run_and_keep().await;
        let failure = outcome.failure();
        let happened = "the host config requires a TPM, but nothing more is measured: opening the event log \
                        PLACE/measured.log: an earlier run was stopped while measuring, so a record may be missing; \
                        only a restart of the machine clears that";
        assert_eq!((failure.happened.as_str(), failure.code), (happened, Code::Tpm));
        assert_eq!((failure.untouched.as_str(), outcome.log.len()), ("No disk was written to.", 0));

        // After a restart, which begins the log anew, all is there.
        fs::remove_file(trial.disk().with_file_name("measured.log")).unwrap();
        let again = taking(trial, MEASURED.len()).run().await;
        assert_eq!(*again.result.as_ref().unwrap(), Ending::Poweroff);
        assert!(again.log.iter().all(|what| *what == Recorded::Flush), "{:?}", again.log);
        assert_eq!(measured(&again), MEASURED);
        assert!(again.remembered().is_some());
    }
}

#[tokio::test]
async fn a_tpm_that_goes_away_and_is_not_required_is_told_of_and_the_run_goes_on() {
    for what in ["kernel-cmdline", "root-hash", "uki"] {
        let (outcome, trial) = gone_at(what, "if-present").await;
        outcome.installed();
        assert!(trial.verify().await.unwrap().whole);
        let warnings = outcome.events().into_iter().filter(|event| event["state"] == "warning");
        let warnings: Vec<_> = warnings.map(|event| json!([event["step"], event["fields"]["message"]])).collect();
        let cause = cause(what);
        let expected = [
            json!(["tpm", format!("the installation goes on without measuring: {cause}")]),
            json!(["metadata", format!("the TPM does not remember the versions of the metadata: {cause}")]),
        ];
        assert_eq!(warnings, expected);
        // What was measured is told, and nothing else.
        assert_eq!(measured(&outcome), MEASURED[..before(what)]);
    }
}

/// The rule is about the machine that is installed, not about the one that a command runs on.
#[tokio::test]
async fn an_ordinary_command_needs_no_tpm_whatever_the_host_config_requires() {
    trial("required").run().await.installed();
}
