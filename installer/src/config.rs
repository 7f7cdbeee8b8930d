//! Where a run's settings come from: the netboot image's site config, or an ordinary command's options.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use metalstrap_release::host::{DiskSelector, HandoffMode, Host, HostKey, Mode};
use metalstrap_release::site::{self, Site};

use crate::converge::ReadBack;
use crate::failure::{Code, WithCode as _};

/// Bytes read of a site config at most.
const MAX_BYTES: u64 = 1 << 20;

/// Where the installer runs: decides which steps there are, never whom to believe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the netboot initrd, as child of the supervisor: drivers, network, TPM, boot entry and handoff are ours.
    Netboot,
    /// On a running Linux, onto one disk or file that the person named.
    Ordinary {
        /// The site config.
        site: PathBuf,
        /// The block device or file.
        disk: PathBuf,
        /// Sector size for a plain file.
        sector_size: u32,
        /// The repository as a directory instead of the site config's URL.
        directory: Option<PathBuf>,
        /// The host config's key instead of what this machine says of itself.
        host: Option<HostKey>,
        /// Where the versions of metadata are remembered, and beside it what has happened to disks, if not where it is usual.
        remembered: Option<PathBuf>,
        /// Whether what was written is read back from the device.
        read_back: bool,
        /// What the person asked for.
        mode: Mode,
    },
}

/// A site config as loaded: measured in this form, before it is parsed.
#[derive(Debug, Clone)]
pub struct SiteBytes {
    bytes: Vec<u8>,
    origin: PathBuf,
}

impl SiteBytes {
    /// Reads the site config of `place`: in the netboot image it is at [`site::PATH`].
    ///
    /// # Errors
    /// It is not there, not readable or longer than 1 MiB.
    pub fn load(place: &Place) -> Result<Self> {
        match place {
            Place::Netboot => Self::read(Path::new(site::PATH)),
            Place::Ordinary { site, .. } => Self::read(site),
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let read = || -> Result<Vec<u8>> {
            let length = std::fs::metadata(path)?.len();
            anyhow::ensure!(length <= MAX_BYTES, "it has {length} bytes, more than the {MAX_BYTES} allowed");
            Ok(std::fs::read(path)?)
        };
        let bytes = read().code(Code::SiteConfig, || format!("reading {}", path.display()))?;
        Ok(Self { bytes, origin: path.to_owned() })
    }

    /// What is measured.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Parses and checks it.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn parse(&self) -> Result<Site> {
        Site::parse(&self.bytes).code(Code::SiteConfig, || format!("parsing {}", self.origin.display()))
    }
}

impl Place {
    /// Whether what was written is read back: in the netboot image always.
    #[must_use]
    pub fn reads_back(&self) -> bool {
        match self {
            Self::Netboot => true,
            Self::Ordinary { read_back, .. } => *read_back,
        }
    }

    /// How that begins.
    #[must_use]
    pub fn read_back(&self) -> ReadBack {
        if self.reads_back() { ReadBack::Meanwhile } else { ReadBack::Later }
    }

    /// What the step `network` does here.
    #[must_use]
    pub fn network_step(&self) -> &'static str {
        match self {
            Self::Netboot => "Bringing up the network",
            Self::Ordinary { .. } => "Reading the name servers of this system",
        }
    }

    /// The host config as it holds in this place: a person who names the disk overrides the selector, and a command
    /// on a running system hands nothing off and attests nothing.
    #[must_use]
    pub fn adapt(&self, host: Host) -> Host {
        match self {
            Self::Netboot => host,
            Self::Ordinary { mode, .. } => Host {
                mode: *mode,
                disk: DiskSelector::default(),
                handoff: HandoffMode::Poweroff,
                attestation: None,
                ..host
            },
        }
    }
}

/// An id that no other run has (the kernel's random UUID).
///
/// # Errors
/// /proc is not mounted.
pub fn new_run_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/uuid";
    let id = std::fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    Ok(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_command_leaves_power_alone_and_takes_the_disk_that_it_is_told() {
        let text = r#"{"format": 1, "release": {"name": "debian", "version": "1"},
            "disk": {"serial": "X"}, "handoff": "kexec"}"#;
        let host = Host::parse(text.as_bytes()).unwrap();
        assert_eq!(Place::Netboot.adapt(host.clone()), host);
        let place = Place::Ordinary {
            site: "s".into(),
            disk: "d".into(),
            sector_size: 512,
            directory: None,
            host: None,
            remembered: Some("r".into()),
            read_back: true,
            mode: Mode::Install,
        };
        let adapted = place.adapt(host);
        assert_eq!(adapted.handoff, HandoffMode::Poweroff);
        assert_eq!(adapted.disk, DiskSelector::default());
    }

    #[test]
    fn a_missing_site_config_is_named() {
        let error = SiteBytes::read(Path::new("/nonexistent/site.json")).unwrap_err();
        assert_eq!(format!("{error:#}"), "reading /nonexistent/site.json: No such file or directory (os error 2)");
        assert_eq!(crate::failure::code_of(&error), Code::SiteConfig);
    }
}
