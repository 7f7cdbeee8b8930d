//! What a release's UKI makes of PCR 11, and who has signed for it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::KIND;
use crate::digest::Digest;
use crate::document::DocumentError;
use crate::pcr::{Bank, BankDigest, Extension, Pcr, Phase, Prediction};

/// No file of signatures is larger; the installer stops reading there.
pub const MAX_SIGNATURES_BYTES: usize = 1 << 20;

/// PCR 11 of a machine that starts the UKI, in its first profile, with PCR 11 zero before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Pcr11 {
    /// Its values: one entry for each phase, in their order.
    pub phases: Predictions,
    /// What is measured: the sections of the UKI in the order in which they are, so that PCR 11 can be foretold from another
    /// value on. Absent in releases from before this was told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sections: Vec<SectionDigest>,
    /// SHA-256 of the file with signatures of TPM policies, if they were made: that PCR 11 has these values, or those that it has
    /// when a netboot image that was known has started the UKI by kexec. JSON in the form of `systemd-measure sign`, at
    /// `payloads/<sha256>.json` of the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signatures: Option<Digest>,
}

/// A section of the UKI as it is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SectionDigest {
    /// Its name, as `.linux`.
    pub name: String,
    /// SHA-256 of its content.
    pub sha256: Digest,
}

/// Predictions as a manifest has them. The installer does not need them, and has no code to read them: see
/// [`Predictions::read`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Predictions(Value);

impl SectionDigest {
    /// Those of the sections that these extensions are of.
    #[must_use]
    pub fn all(extensions: &[Extension]) -> Vec<Self> {
        let (pairs, _) = extensions.as_chunks::<2>();
        let of = |[_, content]: &[Extension; 2]| {
            let sha256 = Digest(BankDigest::find(&content.digests, Bank::Sha256)?.try_into().ok()?);
            Some(Self { name: content.section.to_owned(), sha256 })
        };
        pairs.iter().filter_map(of).collect()
    }
}

impl Predictions {
    /// These predictions, for a manifest.
    ///
    /// # Errors
    /// They have no form in JSON.
    pub fn new(predictions: &[Prediction]) -> Result<Self, serde_json::Error> {
        serde_json::to_value(predictions).map(Self)
    }

    /// The predictions, one for each phase.
    ///
    /// # Errors
    /// What a manifest says of them cannot hold.
    pub fn read(&self) -> Result<Vec<Prediction>, DocumentError> {
        let predictions = Vec::<Prediction>::deserialize(&self.0)
            .map_err(|source| DocumentError::Json { document: "manifest's boot.pcr11.phases", source })?;
        if predictions.iter().map(|prediction| prediction.phase).ne(Phase::ALL) {
            let all = Phase::ALL.map(Phase::path).join(", ");
            return KIND.refuse("boot.pcr11.phases", format!("are not these, in this order: {all}"));
        }
        Ok(predictions)
    }
}

impl Pcr11 {
    /// As much of its shape as every reader looks at: what is taken can be written as it was read, which numbers could not.
    pub(super) fn check(&self) -> Result<(), DocumentError> {
        let texts = |one: &Value| one.as_object().is_some_and(|fields| fields.values().all(Value::is_string));
        if self.phases.0.as_array().is_some_and(|all| all.iter().all(texts)) {
            return Ok(());
        }
        KIND.refuse("boot.pcr11.phases", "is no list of objects with texts")
    }

    /// What the UKI makes of PCR 11 in the bank of SHA-256 that has this value before; `None` where the manifest does not say.
    #[must_use]
    pub fn after(&self, before: &Pcr) -> Option<Pcr> {
        if self.sections.is_empty() || before.bank() != Bank::Sha256 {
            return None;
        }
        let mut pcr = before.clone();
        for SectionDigest { name, sha256 } in &self.sections {
            pcr.extend(&Digest::of(format!("{name}\0").as_bytes()).0);
            pcr.extend(&sha256.0);
        }
        Some(pcr)
    }

    /// Where the file of signatures lies below the repository, if there is one.
    #[must_use]
    pub fn signatures_path(&self) -> Option<String> {
        Some(format!("payloads/{}.json", self.signatures?))
    }
}
