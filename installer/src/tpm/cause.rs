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
    match code.kind() {
        Some(Tss2ResponseCodeKind::Failure) => anyhow::anyhow!("the TPM answered with error 0x101{}", meaning(0x101)),
        Some(Tss2ResponseCodeKind::Lockout) => anyhow::anyhow!("the TPM answered with error 0x921{}", meaning(0x921)),
        Some(_) => code.into(),
        // As a rule it is one of the way to the TPM.
        None => anyhow::Error::from(code).context("the TPM does not answer as it should"),
    }
}
