//! How a run ends: what the installer process tells PID 1, which alone carries it out.

use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The last message of the installer process to the supervisor, one JSON line on [`FD_VARIABLE`]'s descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// A kernel is loaded with `kexec_file_load`: jump.
    Kexec,
    /// Restart through the firmware.
    Reboot,
    /// Switch off.
    Poweroff,
    /// The installation failed; PID 1 shows it, then holds or reboots as `reboot_after` says.
    Failed {
        /// What the person reads.
        failure: Failure,
        /// Seconds until a reboot; `None`: hold.
        reboot_after: Option<u32>,
    },
}

/// Names the descriptor that the supervisor hands to its child for [`Ending`].
pub const FD_VARIABLE: &str = "METALSTRAP_ENDING_FD";
