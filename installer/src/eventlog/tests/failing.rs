//! A TPM that fails, or cannot be used: what ends the run, what it goes on without, and what stays in the log.

use super::*;
use crate::tpm::swtpm::GONE;

const IN_FAILURE_MODE: &str =
    "the TPM answered with error 0x101: it is in failure mode, which only a restart of the machine may end";
const IN_LOCKOUT: &str = "the TPM answered with error 0x921: it is in lockout, after too many wrong authorisations";

/// What a run says that finds this log unfinished.
fn stopped(path: &Path) -> String {
    format!(
        "opening the event log {}: an earlier run was stopped while measuring, so a record may be missing; only a restart of \
         the machine clears that",
        path.display()
    )
}

/// It measures once; then `end` makes it one that fails with `text`.
fn in_mid_run(end: impl Fn(Swtpm), text: &str) {
    let cause = format!("measuring the section:.linux: extending PCR 11: {text}");
    for policy in [TpmPolicy::Required, TpmPolicy::IfPresent] {
        let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
        let mut measurer = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &log_in(&directory));
        measurer.decide(policy).unwrap();
        measurer.measure(PcrIndex::KernelBoot, "section-name:.linux", b".linux\0").unwrap();
        assert_eq!(measurer.complaint(), None);
        end(swtpm);
        let next = measurer.measure(PcrIndex::KernelBoot, "section:.linux", b"kernel");
        match policy {
            TpmPolicy::Required => {
                let error = next.unwrap_err();
                assert_eq!(code_of(&error), Code::Tpm);
                assert_eq!(format!("{error:#}"), cause);
            }
            TpmPolicy::IfPresent => {
                assert_eq!(next.unwrap().skipped.unwrap(), cause);
                assert_eq!(measurer.failure(), Some(cause.as_str()));
                let text = format!("the installation goes on without measuring: {cause}");
                assert_eq!(measurer.complaint().unwrap(), text);
                let later = measurer.measure(PcrIndex::KernelBoot, "section-name:.osrel", b".osrel\0").unwrap();
                assert_eq!((later.digests, later.skipped.unwrap()), (Vec::new(), cause.clone()));
                assert_eq!(measurer.complaint(), None, "it is said once");
                assert!(measurer.banks().is_empty());
                assert!(measurer.lacks_records(), "nobody knows whether the TPM has taken it");
            }
        }
        // What was measured before stays in the log.
        assert_eq!(records_of(11, measurer.log()).len(), 1);
        // Started again in the same boot, it does not measure either, whatever the TPM says then.
        let (healthy, path) = (Swtpm::start(), log_in(&directory));
        let mut again = Measurer::with(Ok(Some(Box::new(healthy.connect()))), &path);
        let text = format!("the host config requires a TPM, but nothing more is measured: {}", stopped(&path));
        assert_eq!(again.decide(TpmPolicy::Required).unwrap_err().to_string(), text);
        assert_eq!(again.log(), measurer.log());
    }
}

#[test]
fn a_tpm_that_disappears_ends_or_is_passed_over() {
    in_mid_run(drop, GONE);
}

#[test]
fn a_tpm_in_failure_mode_ends_or_is_passed_over() {
    in_mid_run(|swtpm| swtpm.fail(0x101), IN_FAILURE_MODE);
}

#[test]
fn a_tpm_that_refuses_in_lockout_ends_or_is_passed_over() {
    in_mid_run(|swtpm| swtpm.fail(0x921), IN_LOCKOUT);
}

/// Lockout is about objects with an authorisation that can be guessed. A PCR has none.
#[test]
fn a_tpm_in_lockout_is_measured_into_all_the_same() {
    let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
    Swtpm::lock_out(&mut swtpm.direct());
    let mut measurer = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &log_in(&directory));
    measurer.decide(TpmPolicy::Required).unwrap();
    measurer.measure(PcrIndex::Installer, "plan", b"[]").unwrap();
    let found = measurer.read(PcrIndex::Installer).unwrap();
    assert_eq!(found.len(), 4);
    assert_eq!(replay(measurer.log()), found);
}

#[test]
fn a_failure_before_the_host_config_is_known_is_said_when_it_lets_the_run_go_on() {
    let cause = format!("measuring the site-config: extending PCR 13: {IN_FAILURE_MODE}");
    let failed = || {
        let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
        let mut measurer = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &log_in(&directory));
        swtpm.fail(0x101);
        let skipped = measurer.measure(PcrIndex::Installer, "site-config", b"{}").unwrap().skipped;
        assert_eq!(skipped.unwrap(), cause);
        assert_eq!(measurer.complaint(), None);
        measurer
    };
    let error = failed().decide(TpmPolicy::Required).unwrap_err();
    assert_eq!(code_of(&error), Code::Tpm);
    let text = format!("the host config requires a TPM, but nothing more is measured: {cause}");
    assert_eq!(format!("{error:#}"), text);

    let mut measurer = failed();
    assert!(!measurer.decide(TpmPolicy::IfPresent).unwrap().measuring);
    assert_eq!(measurer.complaint().unwrap(), format!("the installation goes on without measuring: {cause}"));
    assert_eq!(measurer.complaint(), None);
}

#[test]
fn a_tpm_without_sha_256_is_not_measured_into() {
    let (swtpm, directory) = (Swtpm::start_with_banks("sha1"), tempfile::tempdir().unwrap());
    let measurer = || {
        let tpm = swtpm.try_connect().map(|tpm| Some(Box::new(tpm) as Box<dyn Tpm>));
        Measurer::with(tpm, &log_in(&directory))
    };
    let cause = "reading its active PCR banks: the TPM has no active PCR bank of SHA-256, only of sha1";
    let error = measurer().decide(TpmPolicy::Required).unwrap_err();
    assert_eq!(code_of(&error), Code::Tpm);
    let text = format!("nothing more is measured: {cause}");
    assert_eq!(format!("{error:#}"), format!("the host config requires a TPM, but {text}"));

    let mut measurer = measurer();
    assert_eq!(measurer.decide(TpmPolicy::IfPresent).unwrap(), Decision { measuring: false, text });
    assert_eq!(measurer.complaint().unwrap(), format!("the installation goes on without measuring: {cause}"));
    let skipped = measurer.measure(PcrIndex::Installer, "plan", b"[]").unwrap().skipped;
    assert_eq!(skipped.unwrap(), cause);
    assert_eq!(measurer.log(), "");
}

#[test]
fn what_an_earlier_run_has_measured_stays_in_the_log_of_one_that_cannot_measure() {
    let (swtpm, directory) = (Swtpm::start(), tempfile::tempdir().unwrap());
    let path = log_in(&directory);
    let mut earlier = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &path);
    earlier.measure(PcrIndex::Installer, "site-config", b"{}").unwrap();
    earlier.measure(PcrIndex::KernelBoot, "section-name:.linux", b".linux\0").unwrap();
    let text = earlier.log().to_owned();
    assert!(!earlier.lacks_records());
    drop(earlier);

    let gone = "the TPM of an earlier run of this boot is gone";
    for (tpm, cause) in [(Err(anyhow::anyhow!("no answer")), "no answer"), (Ok(None), gone)] {
        let later = Measurer::with(tpm, &path);
        assert_eq!((later.log(), later.lacks_records(), later.failure()), (text.as_str(), false, Some(cause)));
        assert_eq!([later.has_measured("section-name:"), later.has_measured("section:")], [true, false]);
    }

    // Stopped with half a record in the file.
    fs::write(&path, format!("{text}\u{1e}{{\"pcr\":13")).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600 | STICKY)).unwrap();
    let mut later = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &path);
    assert_eq!((later.log(), later.lacks_records()), (text.as_str(), true));
    assert!(!later.decide(TpmPolicy::IfPresent).unwrap().measuring);
    let complaint = format!("the installation goes on without measuring: {}", stopped(&path));
    assert_eq!(later.complaint().unwrap(), complaint);
}
