//! The host config: which release a machine gets, on which disk, and what may happen to what is on it. JSON, `format: 1`,
//! unknown fields refused; a target of the repository that the delegated role `hosts` signs.

use serde::{Deserialize, Serialize};

use crate::document::{DocumentError, Kind};
use crate::manifest::{check_name, check_version};

mod attestation;
mod by_name;
mod credentials;
mod disk;
pub mod groups;
mod key;
mod place;
mod secret;
mod secrets;
mod secure_boot;
#[cfg(test)]
mod tests;
mod variable;

pub use attestation::{Attestation, AttestationPolicy};
pub use credentials::{Credential, Credentials, FileForm};
pub use disk::{DiskSelector, Sizes, is_like};
pub use groups::Groups;
pub use key::{HostKey, Identity, KeyError};
pub use place::HostPlace;
pub use secret::{Plaintext, Secret};
pub use secrets::Secrets;
pub use secure_boot::SecureBootKeys;

/// No host config is larger.
pub const MAX_BYTES: usize = 1 << 20;
const KIND: Kind = Kind { name: "host config", max_bytes: MAX_BYTES };
/// The most bytes that may be added to a kernel command line: what x86 kernels take as a whole.
const MAX_CMDLINE: usize = 2048;
/// Bytes of an intent at most.
const MAX_INTENT: usize = 64;
/// Words that may be added to a kernel command line, by what stands before `=`: consoles, messages, hardware and how the
/// network ports are called. A list of what may be, since what must not be has no end: `root=` is also `mount.usr=`,
/// `systemd.run=`, `rd.break` and whatever the next systemd takes (kernel-command-line(7),
/// Documentation/admin-guide/kernel-parameters.txt of Linux). Whoever signs host configs signs no release.
const EXTRA: [&str; 49] = [
    "8250.nr_uarts",
    "amd_iommu",
    "biosdevname",
    "clocksource",
    "console",
    "crashkernel",
    "debug",
    "default_hugepagesz",
    "earlycon",
    "earlyprintk",
    "hpet",
    "hugepages",
    "hugepagesz",
    "idle",
    "ignore_loglevel",
    "initcall_debug",
    "intel_idle.max_cstate",
    "intel_iommu",
    "intel_pstate",
    "iommu",
    "iommu.passthrough",
    "iommu.strict",
    "isolcpus",
    "keep_bootcon",
    "log_buf_len",
    "loglevel",
    "mitigations",
    "net.ifnames",
    "nmi_watchdog",
    "nohz_full",
    "nomodeset",
    "nosmt",
    "nowatchdog",
    "numa_balancing",
    "nvme_core.default_ps_max_latency_us",
    "nvme_core.io_timeout",
    "panic",
    "panic_on_oops",
    "pci",
    "pcie_aspm",
    "printk.time",
    "processor.max_cstate",
    "quiet",
    "rcu_nocbs",
    "rootdelay",
    "systemd.log_level",
    "systemd.show_status",
    "transparent_hugepage",
    "tsc",
];

/// The host config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Format of this document: 1.
    pub format: u32,
    /// The release to install.
    pub release: ReleaseName,
    /// Whether the release is installed, or mended where it is installed already.
    #[serde(default)]
    pub mode: Mode,
    /// The disk to install to: exactly one must match. Absent fields match everything.
    #[serde(default)]
    pub disk: DiskSelector,
    /// What may happen to a disk that is not blank.
    #[serde(default)]
    pub existing: Existing,
    /// Names the one time that `wipe` is meant: 1 to 64 letters, digits and `._-`. A disk on which it has happened is kept
    /// from then on, so that a machine that comes back to the installer goes on to its OS. Only with `wipe`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intent: Option<String>,
    /// What is done against the old content when the disk is wiped; other than `none` only with `existing: wipe`. A disk on
    /// which the `intent` has happened is kept, and not erased.
    #[serde(default)]
    pub erase: Erase,
    /// Whether a machine without TPM is refused.
    #[serde(default)]
    pub tpm: TpmPolicy,
    /// To whom the machine attests itself, once the release is on the disk and before the installer is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Attestation>,
    /// How the installer is left.
    #[serde(default)]
    pub handoff: HandoffMode,
    /// What the OS needs of PCR 11 when it is started at the end of the installation.
    #[serde(default)]
    pub pcr11: Pcr11Need,
    /// Added to the UKI's kernel command line at kexec: words about consoles, messages and hardware (`console=`,
    /// `loglevel=`, `net.ifnames=`, `intel_iommu=` …) and no others, so that it cannot change what is started.
    #[serde(default)]
    pub cmdline_extra: String,
    /// Where our boot entry goes in BootOrder.
    #[serde(default)]
    pub boot_order: BootOrder,
    /// Settings for the installed OS, by the names of systemd's credentials (systemd.system-credentials(7)): at most 128, each
    /// with at most 64 KiB and all with at most 256 KiB. Nothing in it is a secret: who can read the repository or the ESP
    /// reads it.
    #[serde(default, skip_serializing_if = "Credentials::is_empty")]
    pub credentials: Credentials,
    /// Credentials that are secret, by the same names: each is encrypted to the endorsement key of the machine's TPM, and no
    /// other machine can open it. With the credentials they are at most 128, with at most 256 KiB.
    #[serde(default, skip_serializing_if = "Secrets::is_empty")]
    pub secrets: Secrets,
    /// Keys for Secure Boot that the firmware is given once the disk is complete. It must be in setup mode, or have these keys and
    /// no others already; otherwise the machine is refused. Absent: the firmware's keys stay as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot_keys: Option<SecureBootKeys>,
}

/// Names a release of the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ReleaseName {
    /// Name of the OS, as in its manifest.
    pub name: String,
    /// Version, as in its manifest.
    pub version: String,
}

impl std::fmt::Display for ReleaseName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.name, self.version)
    }
}

impl ReleaseName {
    /// Name of its manifest among the repository's targets.
    #[must_use]
    pub fn target(&self) -> String {
        format!("{}_{}.json", self.name, self.version)
    }
}

/// What is done to the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// It is made to hold the release.
    #[default]
    Install,
    /// It must hold the release already; blocks that are damaged are fetched again, and nothing else is written.
    Repair,
}

/// What may happen to a disk that is not blank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Existing {
    /// A disk that has our layout gets the release into a slot, all else on it stays; any other that is not blank stops the
    /// run.
    #[default]
    Keep,
    /// Anything but a blank disk, or one with this release on it, whole or not, that nothing else starts before, stops the run.
    Refuse,
    /// Everything on the disk may go, once for each `intent`.
    Wipe,
}

/// What is done against the content of a disk that is wiped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Erase {
    /// Tables and signatures go; the rest stays until it is overwritten.
    #[default]
    None,
    /// The drive is told that every sector is of no use, and samples must be gone afterwards.
    Discard,
    /// Every sector is made to read as zeroes, and samples are read back.
    Zeroes,
    /// The drive's own erasure, the best that it says it can: NVMe sanitize (cryptographic, else block erase), else NVMe
    /// format with cryptographic or user data erase, else ATA security erase (enhanced where it can). Samples must be gone
    /// afterwards. A drive that has none of them is refused, and nothing is written.
    Secure,
}

/// Whether a machine without TPM is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum TpmPolicy {
    /// No TPM, or one that fails, stops the installation.
    Required,
    /// Measured where there is a TPM.
    #[default]
    IfPresent,
}

/// How the installer is left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum HandoffMode {
    /// Jump into the installed kernel.
    #[default]
    Kexec,
    /// Restart through the firmware.
    Reboot,
    /// Switch off.
    Poweroff,
}

/// What the OS needs of PCR 11 when it is started at the end of the installation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Pcr11Need {
    /// Nothing: kexec whatever it will hold.
    #[default]
    Any,
    /// A value for which the release has a signed policy (`publish --pcr-key`, and `--netboot` with the image that the machine
    /// is started from), so that what is sealed by it opens. Where the machine measures and there is none, it restarts through
    /// the firmware instead of kexec.
    Signed,
}

/// Where our boot entry goes in BootOrder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum BootOrder {
    /// Behind the network's entry that this boot came from; where it came from something else, behind the last one of the
    /// network, or else at the end.
    #[default]
    NetworkFirst,
    /// First.
    DiskFirst,
    /// BootOrder stays as it is (a new entry is still added at its end).
    Leave,
}

/// Whether a word may be an intent: 1 to 64 letters, digits and `._-`.
#[must_use]
pub fn is_intent(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_INTENT).contains(&text.len()) && text.bytes().all(plain)
}

impl Host {
    /// Parses and checks a host config.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let host: Self = KIND.parse(bytes)?;
        host.check()?;
        Ok(host)
    }

    fn check(&self) -> Result<(), DocumentError> {
        KIND.check_format(self.format)?;
        // Both become part of a path.
        for (field, checked) in [
            ("release.name", check_name(&self.release.name)),
            ("release.version", check_version(&self.release.version)),
        ] {
            if let Err(DocumentError::Value { problem, .. }) = checked {
                return KIND.refuse(field, problem);
            }
        }
        self.disk.check()?;
        self.check_intent()?;
        if self.erase != Erase::None && self.existing != Existing::Wipe {
            return KIND.refuse("erase", "is set, but existing is not \"wipe\"");
        }
        if let Some(Err(problem)) = self.attestation.as_ref().map(Attestation::check) {
            return KIND.refuse("attestation.url", problem);
        }
        if let Err(problem) = self.credentials.check() {
            return KIND.refuse("credentials", problem);
        }
        if let Err(problem) = self.secrets.check(&self.credentials) {
            return KIND.refuse("secrets", problem);
        }
        if let Some(Err(problem)) = self.secure_boot_keys.as_ref().map(SecureBootKeys::updates) {
            return KIND.refuse("secure_boot_keys", problem);
        }
        self.check_cmdline()
    }

    fn check_intent(&self) -> Result<(), DocumentError> {
        match (&self.intent, self.existing) {
            (None, Existing::Wipe) => KIND.refuse("intent", "is missing: `wipe` happens once for each intent"),
            (Some(_), Existing::Keep | Existing::Refuse) => {
                KIND.refuse("intent", "is there, but `existing` is not `wipe`")
            }
            (Some(text), Existing::Wipe) if !is_intent(text) => {
                KIND.refuse("intent", format!("{text:?} is not 1 to {MAX_INTENT} of a-z, A-Z, 0-9 and '._-'"))
            }
            _ => Ok(()),
        }
    }

    fn check_cmdline(&self) -> Result<(), DocumentError> {
        let (field, extra) = ("cmdline_extra", &self.cmdline_extra);
        // No quotes and no backslash: systemd takes them out of the middle of a word.
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" _.,:/=+@%-".contains(&byte);
        if !extra.bytes().all(plain) {
            return KIND.refuse(field, "holds other characters than letters, digits, spaces and _.,:/=+@%-");
        }
        if extra.len() > MAX_CMDLINE {
            return KIND.refuse(field, format!("has {} bytes, more than {MAX_CMDLINE}", extra.len()));
        }
        let key = |word: &str| word.split('=').next().unwrap_or_default().to_owned();
        if let Some(word) = extra.split_ascii_whitespace().find(|word| !EXTRA.contains(&key(word).as_str())) {
            return KIND.refuse(
                field,
                format!("holds {word:?}, which a host config may not add: what is started is for the release to say"),
            );
        }
        Ok(())
    }
}
