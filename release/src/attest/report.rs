//! What a run's final event has of the TPM. Nobody has challenged the machine for it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Base64, Introduction, Quote};
use crate::digest::Digest;
use crate::document::{DocumentError, Kind};

/// The PCRs that it quotes: those that firmware, boot loaders and OS share out. The rest is for debugging.
pub const REPORTED: Range<u32> = 0..16;

/// A few keys and one quote.
const ATTESTATION: Kind = Kind { name: "attestation", max_bytes: 64 << 10 };

/// The field `attestation` of the event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// The machine's keys, without the steps of its certificate.
    pub introduction: Introduction,
    /// Over [`REPORTED`] of one bank.
    pub quote: Quote,
}

/// What a verifier needs of the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Id of the run.
    pub run: String,
    /// What the TPM says.
    pub attestation: Attestation,
    /// The firmware's log; absent where there is none, it is too long, or the event is a console's.
    pub firmware_log: Option<Base64>,
    /// The installer's.
    pub userspace_log: String,
}

impl Attestation {
    /// Parses one and checks its keys.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let attestation: Self = ATTESTATION.parse(bytes)?;
        attestation.introduction.check()?;
        Ok(attestation)
    }

    /// The nonce of its quote: that of a run with this id.
    #[must_use]
    pub fn nonce(run: &str) -> Digest {
        Digest::of(run.as_bytes())
    }
}
