//! The verifier: what the evidence proves, what it refutes, and what it leaves open. Pure: nothing is read, nothing is asked.

mod inputs;
mod logs;
mod quotes;
mod report;
mod start;
#[cfg(test)]
mod tests;

use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::{Base64, Evidence, Finding, Outcome, Pending, Verdict};
use crate::document::FORMAT;
use crate::host::Secrets;
use crate::pcr::BankDigest;
pub use inputs::Release;
use logs::Logs;
use quotes::{Asked, Values};
pub use report::verify_report;

/// What the finding about the endorsement key is called: who looks at certificates makes it.
pub const EK_CERTIFICATE: &str = "ek-certificate";
/// No verdict is good without these.
const INSISTED: [&str; 4] = [EK_CERTIFICATE, "ak", "quote", "userspace-log"];

/// What a verifier wants to be true.
#[derive(Debug, Clone)]
pub struct Expected {
    /// What was found of the endorsement key: whether it is one of a TPM, by its certificate, or one that is known.
    pub ek: Finding,
    /// The release that was installed.
    pub release: Option<Release>,
    /// The host config's bytes.
    pub host_config: Option<Vec<u8>>,
    /// The programs that the firmware may have started, which are the netboot image and what comes before it; empty if nothing is
    /// expected. Where there are UKIs among them, one must be what was started last.
    pub programs: Vec<Program>,
    /// Whether Secure Boot was on.
    pub secure_boot: Option<bool>,
}

/// A program that the firmware may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// What findings call it.
    pub name: String,
    /// Its Authenticode digests.
    pub digests: Vec<BankDigest>,
    /// If it is a UKI, those of the kernel in it, which systemd-stub may have the firmware start; empty if that is no program. The
    /// kernel is no program of its own here: who starts it without the UKI chooses its initrd.
    pub kernel: Option<Vec<BankDigest>>,
}

impl Finding {
    /// One.
    #[must_use]
    pub fn new(what: &str, outcome: Outcome, text: impl Into<String>) -> Self {
        Self { what: what.to_owned(), outcome, text: text.into() }
    }
}

/// Judges the evidence. It must be of this exchange, which its caller has seen to, as that no exchange is used twice.
#[must_use]
pub fn verify(pending: &Pending, evidence: &Evidence, expected: &Expected) -> Verdict {
    let asked = Asked {
        nonce: &pending.challenge.nonce.0,
        pcrs: &pending.challenge.pcrs,
        other_nonce: "has another nonce than the challenge: it is an old one, or another verifier's",
        other_pcrs: "is not over the PCRs that were asked for",
        beside: "",
    };
    let (quote, values) = quotes::check(&pending.introduction, &asked, &evidence.quotes);
    let logs = read(evidence.firmware_log.as_ref(), &evidence.userspace_log, values);
    judge(&evidence.id, [ak(pending, evidence), quote], logs, expected)
}

/// Both logs. Where the quote proves no value nothing can follow from them, so that they are as good as empty: whoever sends them
/// has shown nothing yet.
fn read(firmware_log: Option<&Base64>, userspace_log: &str, values: Values) -> Logs {
    let empty = Base64::default();
    if values.is_empty() {
        return Logs::read(firmware_log.map(|_| &empty), "", values);
    }
    Logs::read(firmware_log, userspace_log, values)
}

/// What follows from the findings about attestation key and quote, and from the logs.
fn judge(id: &str, [ak, quote]: [Finding; 2], logs: Logs, expected: &Expected) -> Verdict {
    let release = inputs::release(&logs, expected.release.as_ref());
    let host_config = inputs::host_config(&logs, expected.host_config.as_deref());
    let netboot_image = start::netboot_image(&logs, &expected.programs);
    let secure_boot = start::secure_boot(&logs, expected.secure_boot);
    let Logs { firmware_log, userspace_log, .. } = logs;
    let findings = vec![
        expected.ek.clone(),
        ak,
        quote,
        firmware_log,
        userspace_log,
        release,
        host_config,
        netboot_image,
        secure_boot,
    ];
    let accepted = findings.iter().all(|finding| match finding.outcome {
        Outcome::Proved => true,
        Outcome::Refuted => false,
        Outcome::Unknown => !INSISTED.contains(&finding.what.as_str()) && !expected.names(&finding.what),
    });
    Verdict { format: FORMAT, id: id.to_owned(), accepted, findings, secrets: Secrets::default() }
}

impl Expected {
    /// Whether something was expected of it.
    fn names(&self, what: &str) -> bool {
        match what {
            "release" => self.release.is_some(),
            "host-config" => self.host_config.is_some(),
            "netboot-image" => !self.programs.is_empty(),
            "secure-boot" => self.secure_boot.is_some(),
            _ => false,
        }
    }
}

/// The TPM has given the secret out for this attestation key: it has both keys.
fn ak(pending: &Pending, evidence: &Evidence) -> Finding {
    if verify_slices_are_equal(&pending.secret.0, &evidence.secret.0).is_ok() {
        let text = "the TPM with that endorsement key has this attestation key, and it never leaves it";
        return Finding::new("ak", Outcome::Proved, text);
    }
    let text = "the secret is not the one that was encrypted for them: the attestation key is not of the TPM with that endorsement key";
    Finding::new("ak", Outcome::Refuted, text)
}
