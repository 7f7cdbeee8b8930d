//! What PCR 11 will hold at each phase.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Bank, PCR, Pcr, Phase};
use crate::digest::{from_hex, to_hex};

/// A value of `N` bytes; its text form is lower-case hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Value<const N: usize>(pub [u8; N]);

impl<const N: usize> Value<N> {
    /// The value of the PCR of this bank among `pcrs`.
    fn of(pcrs: &[Pcr], bank: Bank) -> Option<Self> {
        let pcr = pcrs.iter().find(|pcr| pcr.bank == bank)?;
        pcr.value.as_slice().try_into().ok().map(Self)
    }
}

impl<const N: usize> Serialize for Value<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&to_hex(&self.0))
    }
}

impl<'de, const N: usize> Deserialize<'de> for Value<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = from_hex(&String::deserialize(deserializer)?).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom(format!("not {N} bytes of lower-case hexadecimal")))
    }
}

/// PCR 11 at a phase, in every bank.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// The phase.
    pub phase: Phase,
    /// The value in the bank of SHA-1.
    pub sha1: Value<20>,
    /// That in the bank of SHA-256.
    pub sha256: Value<32>,
    /// That in the bank of SHA-384.
    pub sha384: Value<48>,
    /// That in the bank of SHA-512.
    pub sha512: Value<64>,
}

impl Prediction {
    /// One for each phase, from what the stub leaves in every bank; `None` if a bank is missing.
    #[must_use]
    pub fn all(stub: &[Pcr]) -> Option<Vec<Self>> {
        Phase::ALL.into_iter().map(|phase| Self::at(phase, stub)).collect()
    }

    fn at(phase: Phase, stub: &[Pcr]) -> Option<Self> {
        let pcrs: Vec<_> = stub.iter().map(|pcr| pcr.at(phase)).collect();
        Some(Self {
            phase,
            sha1: Value::of(&pcrs, Bank::Sha1)?,
            sha256: Value::of(&pcrs, Bank::Sha256)?,
            sha384: Value::of(&pcrs, Bank::Sha384)?,
            sha512: Value::of(&pcrs, Bank::Sha512)?,
        })
    }

    /// The PCR in one bank.
    #[must_use]
    pub fn pcr(&self, bank: Bank) -> Pcr {
        let value: &[u8] = match bank {
            Bank::Sha1 => &self.sha1.0,
            Bank::Sha256 => &self.sha256.0,
            Bank::Sha384 => &self.sha384.0,
            Bank::Sha512 => &self.sha512.0,
        };
        Pcr { bank, value: value.to_vec() }
    }
}

/// Predictions by bank: as JSON, what `systemd-measure calculate --json=short` prints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Calculated {
    sha1: Vec<Entry>,
    sha256: Vec<Entry>,
    sha384: Vec<Entry>,
    sha512: Vec<Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Entry {
    /// Absent before any phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<&'static str>,
    pcr: u32,
    hash: String,
}

impl Calculated {
    /// These predictions.
    #[must_use]
    pub fn new(predictions: &[Prediction]) -> Self {
        let bank = |bank| predictions.iter().map(|prediction| Entry::new(prediction, bank)).collect();
        Self {
            sha1: bank(Bank::Sha1),
            sha256: bank(Bank::Sha256),
            sha384: bank(Bank::Sha384),
            sha512: bank(Bank::Sha512),
        }
    }
}

impl Entry {
    fn new(prediction: &Prediction, bank: Bank) -> Self {
        let phase = (prediction.phase != Phase::Stub).then(|| prediction.phase.path());
        Self { phase, pcr: PCR, hash: to_hex(prediction.pcr(bank).value()) }
    }
}
