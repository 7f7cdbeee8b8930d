//! The versions of the repository's metadata in an NV index of the machine's TPM, which outlives disks and EFI variables.

use anyhow::{Context as _, Result};
use metalstrap_release::metadata::{RECORD_BYTES, RecordError, Versions};

use crate::tpm::Tpm;
use crate::tpm::nv::Content;

/// The index: one of those that the TCG leaves to a TPM's owner (0x01800000 to 0x01bfffff), at random but for the "ms" at its end.
pub const INDEX: u32 = 0x01a0_6d73;

/// What the TPM remembers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum NvMemory {
    /// Not to be known, nor to be written: there is no TPM, it does not answer, or the index is not ours.
    #[default]
    Closed,
    /// Nothing yet.
    Empty,
    /// Half a record, or something that never was one, in an index of ours: it counts as none and is written over, since it
    /// would keep the machine from remembering for good.
    Damaged,
    /// These.
    Known(Versions),
}

impl NvMemory {
    /// Reads it.
    ///
    /// # Errors
    /// The TPM's answer; an index that is not ours, or a record that is a newer installer's.
    pub fn open(tpm: &mut dyn Tpm) -> Result<Self> {
        let Content::Bytes(record) = tpm.nv_read(INDEX, RECORD_BYTES)? else { return Ok(Self::Empty) };
        match Versions::from_record(&record) {
            Ok(versions) => Ok(Self::Known(versions)),
            Err(RecordError::Damaged) => Ok(Self::Damaged),
            Err(error) => Err(error).with_context(|| format!("reading NV index {INDEX:#010x} of the TPM")),
        }
    }

    /// What it has.
    #[must_use]
    pub fn versions(&self) -> Option<&Versions> {
        match self {
            Self::Known(versions) => Some(versions),
            Self::Closed | Self::Empty | Self::Damaged => None,
        }
    }

    /// Whether `versions` are to be written: each write wears the TPM.
    #[must_use]
    pub fn lacks(&self, versions: &Versions) -> bool {
        *self != Self::Closed && self.versions() != Some(versions)
    }
}

/// Writes it.
///
/// # Errors
/// The TPM's answer; an index that is not ours.
pub fn remember(tpm: &mut dyn Tpm, versions: &Versions) -> Result<()> {
    tpm.nv_write(INDEX, &versions.to_record())
}
