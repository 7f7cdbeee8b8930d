//! The PCRs that the installer measures into.

use std::fmt;

use serde::{Serialize, Serializer};
use tss_esapi::handles::PcrHandle;
use tss_esapi::structures::PcrSlot;

/// A PCR by its number, which the registry of PCRs gives a meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PcrIndex {
    /// 11, `kernel-boot`: the UKI that is started, and the phases of its boot.
    KernelBoot,
    /// 12, `kernel-config`: what is added to it.
    KernelConfig,
    /// 13, `sysexts`: what the installer was given and has done.
    Installer,
}

impl PcrIndex {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::KernelBoot, Self::KernelConfig, Self::Installer];

    /// Its number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::KernelBoot => 11,
            Self::KernelConfig => 12,
            Self::Installer => 13,
        }
    }

    pub(super) fn handle(self) -> PcrHandle {
        match self {
            Self::KernelBoot => PcrHandle::Pcr11,
            Self::KernelConfig => PcrHandle::Pcr12,
            Self::Installer => PcrHandle::Pcr13,
        }
    }

    pub(super) fn slot(self) -> PcrSlot {
        match self {
            Self::KernelBoot => PcrSlot::Slot11,
            Self::KernelConfig => PcrSlot::Slot12,
            Self::Installer => PcrSlot::Slot13,
        }
    }
}

impl fmt::Display for PcrIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PCR {}", self.number())
    }
}

/// As its number.
impl Serialize for PcrIndex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.number())
    }
}
