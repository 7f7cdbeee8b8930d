//! Whether PCR 11 will have a value after kexec for which there is a signed policy.

use metalstrap_release::manifest::Boot;
use metalstrap_release::pcr::{Bank, BankDigest, Pcr, Phase, Signatures};

/// Why what is sealed by a signed policy would not open in the initrd of the installed OS, where PCR 11 has the value `now` before
/// kexec; `None`: it would. systemd takes the bank of SHA-256 where there is one, and nothing is signed for SHA-1.
#[must_use]
pub fn misfit(now: &[BankDigest], boot: &Boot, signatures: &Signatures) -> Option<String> {
    let before = now.iter().find(|value| value.bank == Bank::Sha256);
    let Some(before) = before.and_then(|value| Pcr::with_value(value.bank, &value.digest)) else {
        return Some("`pcr11` is `signed`, and the TPM gave no value of PCR 11 with SHA-256".to_owned());
    };
    let Some(stub) = boot.pcr11.as_ref().and_then(|pcr11| pcr11.after(&before)) else {
        return Some("`pcr11` is `signed`, and the manifest does not say what the UKI makes of PCR 11".to_owned());
    };
    if signatures.cover(&stub.at(Phase::EnterInitrd)) {
        return None;
    }
    let fresh = before == Pcr::zero(Bank::Sha256);
    let start = if fresh { "its start alone" } else { "its start behind the UKI that the installer was started from" };
    Some(format!("`pcr11` is `signed`, and the release has no signed policy for {start}"))
}

#[cfg(test)]
mod tests;
