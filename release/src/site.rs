//! The site config: baked into the netboot image as `/etc/metalstrap/site.json`. JSON, `format: 1`, unknown fields
//! refused. It says whom to believe and where to look.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Where the installer finds it in its initrd.
pub const PATH: &str = "/etc/metalstrap/site.json";

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
    /// Added to the UKI's kernel command line at kexec.
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

impl Site {
    /// Parses and checks a site config.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, SiteError> {
        let site: Self = serde_json::from_slice(bytes).map_err(SiteError::Json)?;
        let refuse = |field, problem: String| Err(SiteError::Value { field, problem });
        if site.format != 1 {
            return refuse("format", format!("is {}, but this installer reads 1", site.format));
        }
        for (field, url) in [("repository", Some(&site.repository)), ("report_url", site.report_url.as_ref())] {
            if let Some(url) = url.filter(|url| !url.starts_with("https://")) {
                return refuse(field, format!("is {url:?}, not an https:// URL"));
            }
        }
        let path = &site.manifest.path;
        let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if !path.split('/').all(plain) || !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._~^+-".contains(&b)) {
            return refuse("manifest.path", format!("is {path:?}, not a plain relative path"));
        }
        Ok(site)
    }
}
