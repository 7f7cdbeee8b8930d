//! The event log of the machine's firmware, as the kernel has it.

use std::path::Path;

use crate::bounded;

/// Where it is.
pub const LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// The whole of it, at `path`, if it has at most so many bytes; `None` where it cannot be had: nothing relies on that it is there.
#[must_use]
pub fn read(path: &Path, most: u64) -> Option<Vec<u8>> {
    bounded::read(path, most).unwrap_or_else(|error| {
        log::warn!("{error:#}");
        None
    })
}
