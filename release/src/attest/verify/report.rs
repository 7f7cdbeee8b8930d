//! What a report proves. It has no answer to a challenge: somebody else must have shown whose its attestation key is.

use super::super::{Attestation, Finding, Introduction, Outcome, REPORTED, Report, Verdict};
use super::quotes::{self, Asked};
use super::{Expected, judge, read};

/// Judges the report of a run. `proved` is an introduction whose attestation key is known, by an exchange, to be of the TPM with
/// its endorsement key; without one the machine is never accepted.
#[must_use]
pub fn verify_report(report: &Report, proved: Option<&Introduction>, expected: &Expected) -> Verdict {
    let Attestation { introduction, quote } = &report.attestation;
    let (nonce, pcrs): (_, Vec<u32>) = (Attestation::nonce(&report.run), REPORTED.collect());
    let asked = Asked {
        nonce: &nonce.0,
        pcrs: &pcrs,
        other_nonce: "has another nonce than the SHA-256 of this run's id: it is another run's",
        other_pcrs: "is not over PCRs 0 to 15",
        beside: "; it is of this run, whose id the machine has chosen",
    };
    let (quote, values) = quotes::check(introduction, &asked, std::slice::from_ref(quote));
    let logs = read(report.firmware_log.as_ref(), &report.userspace_log, values);
    judge(&report.run, [ak(introduction, proved), quote], logs, expected)
}

/// Whether the attestation key is known to be of the TPM with the endorsement key.
fn ak(introduction: &Introduction, proved: Option<&Introduction>) -> Finding {
    let (outcome, text) = match proved {
        None => (
            Outcome::Unknown,
            "nobody has challenged the machine: that the TPM with that endorsement key has this attestation key is only what it says",
        ),
        Some(proved) if proved.ek == introduction.ek && proved.ak == introduction.ak => {
            (Outcome::Proved, "it is that of the introduction given, whose exchange has proved it")
        }
        Some(_) => {
            (Outcome::Refuted, "the introduction given has other keys: it is another machine's, or another run's")
        }
    };
    Finding::new("ak", outcome, text)
}
