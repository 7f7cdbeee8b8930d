//! What an error of tpm2-tss says to a person.

use tss_esapi::Error;
use tss_esapi::constants::Tss2ResponseCodeKind;

use super::direct::meaning;

/// What it says, once: it is its own cause too. Where it is about the TPM itself, in the words that are used of it elsewhere.
pub(super) fn cause(error: Error) -> anyhow::Error {
    let code = match error {
        Error::Tss2Error(code) => code,
        Error::WrapperError(kind) => return kind.into(),
    };
    let known = match code.kind() {
        Some(Tss2ResponseCodeKind::Failure) => 0x101,
        Some(Tss2ResponseCodeKind::Lockout) => 0x921,
        Some(_) => return code.into(),
        // As a rule it is one of the way to the TPM.
        None => return anyhow::Error::from(code).context("the TPM does not answer as it should"),
    };
    anyhow::anyhow!("the TPM answered with error {known:#x}{}", meaning(known))
}
