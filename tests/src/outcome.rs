//! What a demo run has shown: `out/demo/result.json`.

use serde::Serialize;

use crate::observe::Observed;

/// The result; every value was observed.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// The OS after kexec.
    pub kexec_boot: Boot,
    /// The OS from its own disk, after the plug was pulled.
    pub cold_boot: Boot,
    /// PCR 13 in the OS after kexec, and recomputed from the log.
    pub pcr13: Pcr,
    /// Title of the firmware's boot entry, as efibootmgr prints it in the installed OS.
    pub boot_entry: String,
    /// How long things took.
    pub seconds: Seconds,
    /// How large things are.
    pub bytes: Bytes,
    /// Peak resident memory of the installer process.
    pub peak_rss_bytes: u64,
    /// Lowest MemAvailable of the machine while it installed.
    pub lowest_mem_available_bytes: u64,
}

/// One boot of the installed OS.
#[derive(Debug, Serialize)]
pub struct Boot {
    /// multi-user.target is active.
    pub multi_user: bool,
    /// `/` is a dm-verity device.
    pub root_is_verity: bool,
    /// Root hash in the kernel's dm table.
    pub root_hash: String,
}

impl From<&Observed> for Boot {
    fn from(seen: &Observed) -> Self {
        Self { multi_user: seen.multi_user, root_is_verity: seen.root_is_verity, root_hash: seen.root_hash.clone() }
    }
}

/// PCR 13, SHA-256 bank.
#[derive(Debug, Serialize)]
pub struct Pcr {
    /// Read in the installed OS.
    pub measured: String,
    /// Recomputed from the measurement log.
    pub replayed: String,
}

/// Seconds by the host's clock, unless said otherwise.
#[derive(Debug, Serialize)]
pub struct Seconds {
    /// Power-on to the start of the installer process, right after PID 1's.
    pub power_on_to_pid1: f64,
    /// From there to the first byte of a payload (the guest's clock).
    pub pid1_to_first_payload_byte: f64,
    /// Hash tree, root, read-back, table, ESP (the guest's clock).
    pub write: f64,
    /// Last event to the line of the unit behind multi-user.target.
    pub handoff_to_multi_user: f64,
    /// The second power-on to the same line.
    pub cold_boot_to_multi_user: f64,
}

/// Bytes.
#[derive(Debug, Serialize)]
pub struct Bytes {
    /// The installer binary.
    pub installer: u64,
    /// The initrd of the machine that was installed (cloud kernel).
    pub netboot_initrd: u64,
    /// The same from Debian's generic kernel.
    pub netboot_initrd_generic: u64,
    /// The UKI that the firmware fetched.
    pub netboot_uki: u64,
    /// Payload bytes that the web server sent.
    pub payload_fetched: u64,
    /// The root file system image.
    pub image: u64,
}
