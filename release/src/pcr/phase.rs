//! How far a boot has come, as PCR 11 tells it.

use serde::{Deserialize, Serialize};

/// A phase of the boot, by the path of phases up to it as systemd-measure writes it (systemd-pcrphase.service(8)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Phase {
    /// The stub is done, and systemd has not begun.
    #[serde(rename = ":")]
    Stub,
    /// systemd runs in the initrd.
    #[serde(rename = "enter-initrd")]
    EnterInitrd,
    /// It goes on to the root file system.
    #[serde(rename = "enter-initrd:leave-initrd")]
    LeaveInitrd,
    /// File systems are mounted and basic services run.
    #[serde(rename = "enter-initrd:leave-initrd:sysinit")]
    Sysinit,
    /// The machine is up.
    #[serde(rename = "enter-initrd:leave-initrd:sysinit:ready")]
    Ready,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Self; 5] = [Self::Stub, Self::EnterInitrd, Self::LeaveInitrd, Self::Sysinit, Self::Ready];
    /// Those for which policies are signed, as systemd-measure does where it is told nothing else.
    pub const SIGNED: [Self; 4] = [Self::EnterInitrd, Self::LeaveInitrd, Self::Sysinit, Self::Ready];

    /// The path.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Stub => ":",
            Self::EnterInitrd => "enter-initrd",
            Self::LeaveInitrd => "enter-initrd:leave-initrd",
            Self::Sysinit => "enter-initrd:leave-initrd:sysinit",
            Self::Ready => "enter-initrd:leave-initrd:sysinit:ready",
        }
    }

    /// The words that are measured up to it.
    pub(super) fn words(self) -> impl Iterator<Item = &'static str> {
        self.path().split(':').filter(|word| !word.is_empty())
    }
}
