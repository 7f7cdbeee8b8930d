//! The site config: baked into the netboot image as `/etc/metalstrap/site.json`. JSON, `format: 1`, unknown fields
//! refused. It says whom to believe and where to look.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Where the installer finds it in its initrd.
pub const PATH: &str = "/etc/metalstrap/site.json";

/// No site config is larger.
pub const MAX_BYTES: usize = 1 << 20;
/// The most bytes that may be added to a kernel command line: what x86 kernels take as a whole.
const MAX_CMDLINE: usize = 2048;
/// Starts of words on a kernel command line that say which root is started, or which program as PID 1
/// (systemd-veritysetup-generator(8), kernel-command-line(7), Documentation/admin-guide/kernel-parameters.txt of Linux):
/// the release has decided that.
const NOT_EXTRA: [&str; 7] = ["roothash=", "usrhash=", "root=", "usr=", "systemd.verity", "init=", "rdinit="];
/// Longest wait for a network, in seconds.
const MAX_TIMEOUT: u32 = 24 * 3600;

/// The site config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Format of this document: 1.
    pub format: u32,
    /// HTTPS URL of the repository, without trailing slash.
    pub repository: String,
    /// The manifest to install, pinned.
    pub manifest: PinnedManifest,
    /// PEM certificates of the CAs that the repository's and the report URL's servers are checked against.
    pub ca: String,
    /// The disk to install to: exactly one must match. Absent fields match everything.
    #[serde(default)]
    pub disk: DiskSelector,
    /// What may happen to a disk that is not blank.
    #[serde(default)]
    pub existing: Existing,
    /// HTTPS URL events are posted to.
    #[serde(default)]
    pub report_url: Option<String>,
    /// Whether a machine without TPM is refused.
    #[serde(default)]
    pub tpm: TpmPolicy,
    /// How the installer is left.
    #[serde(default)]
    pub handoff: HandoffMode,
    /// Added to the UKI's kernel command line at kexec. It cannot change which root or init is started.
    #[serde(default)]
    pub cmdline_extra: String,
    /// Where our boot entry goes in BootOrder.
    #[serde(default)]
    pub boot_order: BootOrder,
    /// Seconds after which a failed installation reboots; absent or null: hold for a person.
    #[serde(default)]
    pub reboot_on_failure_after: Option<u32>,
    /// Seconds to wait for a network that reaches the repository (switch ports may need 60 s after link-up).
    #[serde(default = "default_network_timeout")]
    pub network_timeout: u32,
}

fn default_network_timeout() -> u32 {
    180
}

/// The manifest to install: its path below the repository and the SHA-256 of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinnedManifest {
    /// Path below the repository, as `targets/<sha256>.debian_1.json`.
    pub path: String,
    /// SHA-256 of the manifest's bytes.
    pub sha256: Digest,
}

/// Rules a disk must match, all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSelector {
    /// Exact serial number.
    #[serde(default)]
    pub serial: Option<String>,
    /// Exact WWID, as in sysfs.
    #[serde(default)]
    pub wwid: Option<String>,
    /// Exact model, white space at the ends apart.
    #[serde(default)]
    pub model: Option<String>,
    /// Transport: `nvme`, `virtio`, `sata`, `sas`, `usb`.
    #[serde(default)]
    pub transport: Option<String>,
    /// Least size in bytes.
    #[serde(default)]
    pub min_size: Option<u64>,
    /// Greatest size in bytes.
    #[serde(default)]
    pub max_size: Option<u64>,
}

/// What may happen to a disk that is not blank.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Existing {
    /// Anything but a blank disk, or this release's own interrupted installation, stops the run.
    #[default]
    Refuse,
    /// Everything on the disk may go.
    Wipe,
}

/// Whether a machine without TPM is refused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
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

/// Where our boot entry goes in BootOrder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootOrder {
    /// Behind the entry this boot came from.
    #[default]
    NetworkFirst,
    /// First.
    DiskFirst,
    /// BootOrder stays as it is (a new entry is still added at its end).
    Leave,
}

/// Why bytes are no site config.
#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    /// Longer than [`MAX_BYTES`].
    #[error("the site config has {0} bytes, more than the {MAX_BYTES} allowed")]
    TooLong(usize),
    /// Not JSON of this shape.
    #[error("the site config is not valid")]
    Json(#[source] serde_json::Error),
    /// A value that cannot hold.
    #[error("the site config's {field} {problem}")]
    Value {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

fn refuse<T>(field: &'static str, problem: impl Into<String>) -> Result<T, SiteError> {
    Err(SiteError::Value { field, problem: problem.into() })
}

impl Site {
    /// Parses and checks a site config.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, SiteError> {
        if bytes.len() > MAX_BYTES {
            return Err(SiteError::TooLong(bytes.len()));
        }
        let site: Self = serde_json::from_slice(bytes).map_err(SiteError::Json)?;
        site.check()?;
        Ok(site)
    }

    fn check(&self) -> Result<(), SiteError> {
        if self.format != 1 {
            return refuse("format", format!("is {}, but this installer reads 1", self.format));
        }
        check_url("repository", &self.repository)?;
        // What follows is appended, and a query would swallow it.
        if self.repository.ends_with('/') || self.repository.contains('?') {
            return refuse("repository", format!("is {:?}, with a slash at its end or a query", self.repository));
        }
        self.report_url.iter().try_for_each(|url| check_url("report_url", url))?;
        check_path(&self.manifest.path)?;
        if !self.ca.contains("-----BEGIN CERTIFICATE-----") {
            return refuse("ca", "holds no PEM certificate");
        }
        if let (Some(min), Some(max)) = (self.disk.min_size, self.disk.max_size)
            && min > max
        {
            return refuse("disk.min_size", format!("is {min}, more than max_size, which is {max}"));
        }
        if !self.cmdline_extra.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return refuse("cmdline_extra", "holds other characters than printable ASCII");
        }
        if self.cmdline_extra.len() > MAX_CMDLINE {
            return refuse("cmdline_extra", format!("has {} bytes, more than {MAX_CMDLINE}", self.cmdline_extra.len()));
        }
        let decides = |word: &&str| NOT_EXTRA.iter().any(|start| word.trim_matches('"').starts_with(start));
        if let Some(word) = self.cmdline_extra.split(' ').find(decides) {
            return refuse("cmdline_extra", format!("holds {word:?}, but what is started is for the release to say"));
        }
        if !(1..=MAX_TIMEOUT).contains(&self.network_timeout) {
            return refuse("network_timeout", format!("is {}, not 1 to {MAX_TIMEOUT}", self.network_timeout));
        }
        Ok(())
    }
}

fn check_url(field: &'static str, url: &str) -> Result<(), SiteError> {
    let host = url.strip_prefix("https://").and_then(|rest| rest.split('/').next());
    match host {
        None | Some("") => refuse(field, format!("is {url:?}, not an https:// URL")),
        Some(host) if host.contains('@') => refuse(field, "holds a user name or password"),
        Some(_) if !url.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\"\\<>".contains(&byte)) => {
            refuse(field, format!("is {url:?}, with characters that a URL here must not have"))
        }
        Some(_) => Ok(()),
    }
}

fn check_path(path: &str) -> Result<(), SiteError> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !path.split('/').all(plain) || !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._~^+-".contains(&b)) {
        return refuse("manifest.path", format!("is {path:?}, not a plain relative path"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
