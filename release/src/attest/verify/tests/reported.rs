//! Reports of runs, which nobody has challenged.

use super::*;
use crate::attest::{Attestation, Report};

const RUN: &str = "5b9c";
const NOBODY: &str = "nobody has challenged the machine: that the TPM with that endorsement key has this attestation key is only what it says";

impl Machine {
    /// What the final event of the run has: PCRs 0 to 15.
    fn report(&self, run: &str) -> Report {
        let mut values: BTreeMap<u32, Vec<u8>> = (0..16).map(|pcr| (pcr, vec![0; 32])).collect();
        values.extend(self.values());
        let start = quoted(0x0b, &sha256(run.as_bytes()), &values);
        // Another selection than that of challenges.
        let digest = start.len() - 34;
        let quoted = [&start[..digest - 3], &[0xff, 0xff, 0], &start[digest..]].concat();
        let quote = Quote {
            bank: "sha256".to_owned(),
            signature: Base64(self.signer.sign(&quoted)),
            quoted: Base64(quoted),
            pcrs: values.iter().map(|(pcr, value)| (*pcr, to_hex(value))).collect(),
        };
        Report {
            run: run.to_owned(),
            attestation: Attestation { introduction: self.pending().introduction, quote },
            firmware_log: Some(Base64(self.firmware_log())),
            userspace_log: self.userspace_log(),
        }
    }
}

/// What is said of a report that was changed, where an exchange has proved its keys.
fn told(change: impl FnOnce(&mut Report)) -> (bool, Vec<(String, Outcome, String)>) {
    let machine = Machine::new();
    let (known, mut report) = (machine.pending().introduction, machine.report(RUN));
    change(&mut report);
    let verdict = verify_report(&report, Some(&known), &expected());
    let (accepted, doubts) = doubts(&verdict);
    let owned = |(what, outcome, text): (&str, Outcome, &str)| (what.to_owned(), outcome, text.to_owned());
    (accepted, doubts.into_iter().map(owned).collect())
}

/// Why the quote of a report is refuted; all that rests on it is unknown.
fn refused(change: impl FnOnce(&mut Report)) -> String {
    let (accepted, doubts) = told(change);
    assert!(!accepted);
    assert_eq!((doubts[0].0.as_str(), doubts[0].1, doubts.len()), ("quote", Outcome::Refuted, 7), "{doubts:?}");
    assert!(doubts[1..].iter().all(|doubt| doubt.1 == Outcome::Unknown), "{doubts:?}");
    doubts[0].2.clone()
}

#[test]
fn all_but_whose_the_attestation_key_is_can_be_proved() {
    let machine = Machine::new();
    let verdict = verify_report(&machine.report(RUN), None, &expected());
    let findings: Vec<_> =
        verdict.findings.iter().map(|finding| (finding.what.as_str(), finding.text.as_str())).collect();
    let all = [
        ("ek-certificate", "it is known"),
        ("ak", NOBODY),
        (
            "quote",
            "the TPM vouches for PCRs 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 of the banks sha256; it is of this \
             run, whose id the machine has chosen",
        ),
        ("firmware-log", "it accounts for the PCRs up to 7 that the TPM vouches for"),
        ("userspace-log", "its 5 records account for PCR 13, and both logs for all above 7 but 10, which is IMA's"),
        ("release", RELEASE_MEASURED),
        ("host-config", HOST_MEASURED),
        ("netboot-image", "the firmware has started netboot.efi, and nothing else"),
        ("secure-boot", "it was on"),
    ];
    assert_eq!(findings, all);
    assert_eq!(verdict.id, RUN);
    assert_eq!(doubts(&verdict), (false, vec![("ak", Outcome::Unknown, NOBODY)]));
}

#[test]
fn an_exchange_has_proved_whose_it_is() {
    let machine = Machine::new();
    let known = machine.pending().introduction;
    let verdict = verify_report(&machine.report(RUN), Some(&known), &expected());
    assert_eq!(doubts(&verdict), (true, vec![]));
    assert_eq!(verdict.findings[1].text, "it is that of the introduction given, whose exchange has proved it");
    let other = Machine::new().pending().introduction;
    let verdict = verify_report(&machine.report(RUN), Some(&other), &expected());
    let text = "the introduction given has other keys: it is another machine's, or another run's";
    assert_eq!(doubts(&verdict), (false, vec![("ak", Outcome::Refuted, text)]));
}

#[test]
fn a_quote_of_something_else_proves_nothing() {
    let nonce = "that of sha256 has another nonce than the SHA-256 of this run's id: it is another run's";
    assert_eq!(refused(|report| report.run = "another".to_owned()), nonce);
    let values = "that of sha256 is over other values of the PCRs than come with it";
    let zero = |report: &mut Report| drop(report.attestation.quote.pcrs.insert(13, "00".repeat(32)));
    assert_eq!(refused(zero), values);
    let signature = "that of sha256 was not signed by the attestation key";
    assert_eq!(refused(|report| report.attestation.quote.quoted.0[40] ^= 1), signature);
    // One for a challenge, over fewer PCRs, by the same key.
    let machine = Machine::new();
    let mut report = machine.report(RUN);
    let quoted = machine.quoted(&sha256(RUN.as_bytes()));
    report.attestation.quote =
        Quote { signature: Base64(machine.signer.sign(&quoted)), quoted: Base64(quoted), ..report.attestation.quote };
    let verdict = verify_report(&report, None, &expected());
    assert_eq!(verdict.findings[2].text, "that of sha256 is not over PCRs 0 to 15");
}

#[test]
fn logs_and_expectations_are_judged_as_those_of_an_answer() {
    let (accepted, doubts) = told(|report| {
        let mut other = Machine::new();
        other.records.swap(0, 1);
        report.userspace_log = other.userspace_log();
    });
    let text = &doubts[0].2;
    assert!(!accepted && doubts[0].1 == Outcome::Refuted, "{doubts:?}");
    assert!(
        text.starts_with("PCR 13 of bank sha256 is ") && text.contains(", but the logs, with 5 events for it, say ")
    );

    let (accepted, doubts) = told(|report| report.firmware_log = None);
    let unknown = |what: &str, text: &str| (what.to_owned(), Outcome::Unknown, text.to_owned());
    let none = [
        unknown("firmware-log", "there is none"),
        unknown("netboot-image", "no firmware log accounts for PCR 4"),
        unknown("secure-boot", "no firmware log accounts for PCR 7"),
    ];
    assert_eq!((accepted, doubts), (false, none.to_vec()));

    let machine = Machine::new();
    let release = expected().release.map(|release| Release { manifest: b"another".to_vec(), ..release });
    let verdict = verify_report(&machine.report(RUN), None, &Expected { release, ..expected() });
    let text = "another manifest than that of debian 13.2 was measured";
    let expected = vec![("ak", Outcome::Unknown, NOBODY), ("release", Outcome::Refuted, text)];
    assert_eq!(doubts_of(&verdict), expected);
}

/// The findings that are not proved.
fn doubts_of(verdict: &Verdict) -> Vec<(&str, Outcome, &str)> {
    doubts(verdict).1
}

#[test]
fn what_ima_measures_is_not_in_the_logs_and_refutes_nothing() {
    let machine = Machine::new();
    let mut report = machine.report(RUN);
    let quote = &mut report.attestation.quote;
    drop(quote.pcrs.insert(10, "5a".repeat(32)));
    let values: Vec<u8> = quote.pcrs.values().flat_map(|value| crate::digest::from_hex(value).unwrap()).collect();
    let before = quote.quoted.0.len() - 32;
    quote.quoted.0.truncate(before);
    quote.quoted.0.extend(sha256(&values));
    quote.signature.0 = machine.signer.sign(&quote.quoted.0);
    let verdict = verify_report(&report, None, &expected());
    assert_eq!(doubts_of(&verdict), [("ak", Outcome::Unknown, NOBODY)]);
}

#[test]
fn what_a_report_holds_is_checked_before_it_is_judged() {
    let good = Machine::new().report(RUN).attestation;
    let parse = |attestation: &Attestation| Attestation::parse(&serde_json::to_vec(attestation).unwrap());
    assert_eq!(parse(&good).unwrap(), good);
    let mut wrong = good.clone();
    wrong.introduction.ak = good.introduction.ek.clone();
    let text = "the introduction's ak is no key of RSA 2048 with RSASSA or ECC P-256 with ECDSA, each with SHA-256";
    assert_eq!(parse(&wrong).unwrap_err().to_string(), text);
    wrong = good.clone();
    wrong.introduction.format = 2;
    let text = "the introduction's format is 2, but this installer reads 1";
    assert_eq!(parse(&wrong).unwrap_err().to_string(), text);
    let text = Attestation::parse(b"{}").unwrap_err();
    assert_eq!(text.to_string(), "the attestation is not valid");
}
