//! By whom what a release starts is signed, as firmware with Secure Boot and a kernel that is locked down want it.

use serde::{Deserialize, Serialize};

use super::KIND;
use crate::digest::{Digest, from_hex};
use crate::document::DocumentError;

/// The most certificates for a part.
const MAX_CERTIFICATES: usize = 16;
/// The most bytes of a key's identifier.
const MAX_KEY_ID: usize = 64;

/// The certificates, of those that `publish` was given, by which each part is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SecureBoot {
    /// Of the UKI.
    pub uki: Vec<Certificate>,
    /// Of the kernel in the UKI, which the installer's kernel looks at before a kexec if it is locked down.
    pub kernel: Vec<Certificate>,
    /// Of the boot loader.
    pub loader: Vec<Certificate>,
}

/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// SHA-256 of its DER form.
    pub sha256: Digest,
    /// What Linux calls its key by: the subject key identifier, or without one the serial number, in hexadecimal.
    pub key_id: String,
}

impl SecureBoot {
    pub(super) fn check(&self) -> Result<(), DocumentError> {
        let is_key_id = |text: &str| from_hex(text).is_some_and(|bytes| (1..=MAX_KEY_ID).contains(&bytes.len()));
        for (field, certificates) in [
            ("boot.secure_boot.uki", &self.uki),
            ("boot.secure_boot.kernel", &self.kernel),
            ("boot.secure_boot.loader", &self.loader),
        ] {
            let count = certificates.len();
            if !(1..=MAX_CERTIFICATES).contains(&count) {
                return KIND.refuse(field, format!("has {count} certificates, not 1 to {MAX_CERTIFICATES}"));
            }
            if !certificates.iter().all(|certificate| is_key_id(&certificate.key_id)) {
                return KIND.refuse(field, format!("has a key_id that is not 1 to {MAX_KEY_ID} bytes of hexadecimal"));
            }
        }
        Ok(())
    }
}
