//! What a release's UKI makes of PCR 11, and who has signed for it.

use serde::{Deserialize, Serialize};

use super::KIND;
use crate::digest::Digest;
use crate::document::DocumentError;
use crate::pcr::{Phase, Prediction};

/// No file of signatures is larger; the installer stops reading there.
pub const MAX_SIGNATURES_BYTES: u64 = 1 << 20;

/// PCR 11 of a machine that starts the UKI, in its first profile, with PCR 11 zero before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Pcr11 {
    /// Its values: one entry for each phase, in their order.
    pub phases: Vec<Prediction>,
    /// Signatures of TPM policies, if they were made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signatures: Option<PcrSignatures>,
}

/// Signatures of policies that PCR 11 has these values, and those that it has when a netboot image that was known has started
/// the UKI by kexec: JSON in the form of `systemd-measure sign`, at `payloads/<sha256>.json` of the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct PcrSignatures {
    /// SHA-256 of the file, which is also its name.
    pub sha256: Digest,
    /// Bytes of the file.
    pub size: u64,
}

impl PcrSignatures {
    /// Where the file lies below the repository.
    #[must_use]
    pub fn path(&self) -> String {
        format!("payloads/{}.json", self.sha256)
    }
}

impl Pcr11 {
    pub(super) fn check(&self) -> Result<(), DocumentError> {
        if self.phases.iter().map(|prediction| prediction.phase).ne(Phase::ALL) {
            let all = Phase::ALL.map(Phase::path).join(", ");
            return KIND.refuse("boot.pcr11.phases", format!("are not these, in this order: {all}"));
        }
        match &self.signatures {
            Some(signatures) if !(1..=MAX_SIGNATURES_BYTES).contains(&signatures.size) => KIND.refuse(
                "boot.pcr11.signatures",
                format!("has a size of {}, not 1 to {MAX_SIGNATURES_BYTES}", signatures.size),
            ),
            _ => Ok(()),
        }
    }
}
