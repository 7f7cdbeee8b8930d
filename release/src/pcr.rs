//! PCR 11: what systemd-stub measures of a UKI, and the phases of the boot that systemd measures behind it; from any value
//! on, since an installer that was started from a UKI has left its own in there (systemd: `src/boot/stub.c`,
//! `src/boot/pe.c`, `src/fundamental/uki.c`, `src/measure/measure-tool.c`).

use aws_lc_rs::digest::Context;

mod bank;
mod extension;
mod phase;
mod policy;
mod prediction;
#[cfg(test)]
mod tests;

pub use bank::{Bank, BankDigest, Hasher};
pub use extension::{Extension, MEASURED, extensions, measured};
pub use phase::Phase;
pub use policy::{PolicyKey, PolicyKeyError, Signature, Signatures, policy};
pub use prediction::{Calculated, Prediction, Value};

/// The PCR that a UKI and the phases of its boot are measured into
/// (<https://uapi-group.org/specifications/specs/linux_tpm_pcr_registry/>: `kernel-boot`).
pub const PCR: u32 = 11;

/// A PCR in one bank.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pcr {
    bank: Bank,
    value: Vec<u8>,
}

impl Pcr {
    /// As it is when the machine is switched on.
    #[must_use]
    pub fn zero(bank: Bank) -> Self {
        Self { bank, value: vec![0; bank.size()] }
    }

    /// The same, in every bank.
    #[must_use]
    pub fn zeroes() -> Vec<Self> {
        Bank::ALL.map(Self::zero).into()
    }

    /// With a value that was read; `None` if no value of this bank has so many bytes.
    #[must_use]
    pub fn with_value(bank: Bank, value: &[u8]) -> Option<Self> {
        (value.len() == bank.size()).then(|| Self { bank, value: value.to_vec() })
    }

    /// Its bank.
    #[must_use]
    pub fn bank(&self) -> Bank {
        self.bank
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Extends it by a digest (TPM 2.0 Library, Part 1, "Extend of a PCR").
    pub fn extend(&mut self, digest: &[u8]) {
        let mut context = Context::new(self.bank.algorithm());
        context.update(&self.value);
        context.update(digest);
        self.value = context.finish().as_ref().to_vec();
    }

    /// It after all of these, as far as they are of its bank.
    #[must_use]
    pub fn after(&self, extensions: &[Extension]) -> Self {
        let mut pcr = self.clone();
        let digests = extensions.iter().flat_map(|extension| &extension.digests);
        digests.filter(|digest| digest.bank == self.bank).for_each(|digest| pcr.extend(&digest.digest));
        pcr
    }

    /// What the stub has left, at a phase: systemd measures each word of the path, without NUL.
    #[must_use]
    pub fn at(&self, phase: Phase) -> Self {
        let mut pcr = self.clone();
        phase.words().for_each(|word| pcr.extend(&self.bank.digest(word.as_bytes()).digest));
        pcr
    }
}
