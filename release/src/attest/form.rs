//! The four messages: JSON, `format: 1`, unknown fields refused.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::document::Kind;

/// An introduction and a challenge are a few keys.
pub const INTRODUCTION: Kind = Kind { name: "introduction", max_bytes: 64 << 10 };
/// A verifier's question.
pub const CHALLENGE: Kind = Kind { name: "challenge", max_bytes: 64 << 10 };
/// With two logs in base64.
pub const EVIDENCE: Kind = Kind { name: "evidence", max_bytes: 8 << 20 };
/// With what the machine gets.
pub const VERDICT: Kind = Kind { name: "verdict", max_bytes: 1 << 20 };

/// Bytes that are base64 (RFC 4648, section 4) in the document.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64({} bytes)", self.0.len())
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|_| D::Error::custom("is no base64"))
    }
}

/// A machine's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Introduction {
    /// Format of this document: 1.
    pub format: u32,
    /// Its SMBIOS UUID, serial number and MAC addresses, as a verifier's list of machines may have them: nothing proves them.
    pub claims: BTreeMap<String, String>,
    /// `TPMT_PUBLIC` of the endorsement key.
    pub ek: Base64,
    /// X.509 certificate of the endorsement key, in DER, from the TPM's NV index; absent where the TPM has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ek_certificate: Option<Base64>,
    /// Certificates between that and its root, in DER, where the TPM has them (NV indices from 0x01c00100).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ek_chain: Vec<Base64>,
    /// `TPMT_PUBLIC` of the attestation key: restricted, signing, fixed to its TPM.
    pub ak: Base64,
}

/// A verifier's answer to an introduction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Challenge {
    /// Format of this document: 1.
    pub format: u32,
    /// Names the exchange.
    pub id: String,
    /// `TPM2B_ID_OBJECT`, the first parameter of TPM2_ActivateCredential.
    pub credential: Base64,
    /// `TPM2B_ENCRYPTED_SECRET`, the second one.
    pub encrypted_secret: Base64,
    /// What the quotes must hold as qualifying data: 16 to 32 bytes, of which none was asked for before.
    pub nonce: Base64,
    /// The PCRs that are to be quoted, each below 24.
    pub pcrs: Vec<u32>,
}

/// One bank's quote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quote {
    /// Name of the bank: `sha256`, `sha384` and so on.
    pub bank: String,
    /// `TPMS_ATTEST`, as it was signed.
    pub quoted: Base64,
    /// `TPMT_SIGNATURE`.
    pub signature: Base64,
    /// The values of the PCRs as hexadecimal text, by number.
    pub pcrs: BTreeMap<u32, String>,
}

/// A machine's answer to a challenge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Format of this document: 1.
    pub format: u32,
    /// The challenge's.
    pub id: String,
    /// What TPM2_ActivateCredential has given out.
    pub secret: Base64,
    /// One for each active bank but SHA-1's; that too where there is no other.
    pub quotes: Vec<Quote>,
    /// The firmware's log (`binary_bios_measurements`); absent where it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware_log: Option<Base64>,
    /// The installer's, in systemd's userspace format.
    pub userspace_log: String,
}

/// Whether something was proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It holds.
    Proved,
    /// It does not hold.
    Refuted,
    /// It cannot be known from this evidence, or nothing was expected.
    Unknown,
}

/// One thing that a verifier has looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// What: `ek-certificate`, `ak`, `quote`, `firmware-log`, `userspace-log`, `release`, `host-config`, `netboot-image`,
    /// `secure-boot`.
    pub what: String,
    /// Whether it was proved.
    pub outcome: Outcome,
    /// In words, for a person.
    pub text: String,
}

/// What a verifier concludes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verdict {
    /// Format of this document: 1.
    pub format: u32,
    /// The challenge's; of a report, the run's.
    pub id: String,
    /// Nothing was refuted, and all that the verifier insists on was proved.
    pub accepted: bool,
    /// Each thing that was looked at.
    pub findings: Vec<Finding>,
    /// Credentials for the installed OS, by name: [`crate::host::Secret`]s for this machine's endorsement key, and nothing that
    /// another machine could read.
    #[serde(default, skip_serializing_if = "crate::host::Secrets::is_empty")]
    pub secrets: crate::host::Secrets,
}
