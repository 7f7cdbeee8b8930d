//! Publishes what was built, through the operator's command.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use metalstrap_qemu::Lab;
use metalstrap_release::digest::Digest;
use metalstrap_release::site::{BootOrder, DiskSelector, Existing, HandoffMode, PinnedManifest, Site, TpmPolicy};
use serde::Deserialize;

use crate::artifacts::{built, program};

/// A release in a repository.
#[derive(Debug, Clone, Deserialize)]
pub struct Published {
    /// Directory of the repository.
    #[serde(skip)]
    pub repository: PathBuf,
    /// Path of the manifest below it.
    pub manifest: String,
    /// SHA-256 of the manifest.
    pub sha256: Digest,
}

/// Which OS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The Debian image that mkosi builds.
    Debian,
    /// The tiny one: a kernel and one static init that reports.
    Tiny,
}

impl Target {
    /// Its name in releases, and the directory below `out/` that its images are in.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian => "debian",
            Self::Tiny => "tiny",
        }
    }

    fn directory(self) -> &'static str {
        match self {
            Self::Debian => "target",
            Self::Tiny => "tiny",
        }
    }
}

/// Publishes `target` into the directory `repository`.
///
/// # Errors
/// The images are not built, or the command's words.
pub fn publish(target: Target, repository: &Path) -> Result<Published> {
    let images = built(target.directory())?;
    let uki = if target == Target::Debian { "uki.efi" } else { "tiny.efi" };
    let output = Command::new(program("debug", "metalstrap")?)
        .args(["publish", "--name", target.name(), "--version", "1"])
        .arg("--root")
        .arg(images.join("root.raw"))
        .arg("--verity")
        .arg(images.join("root.verity.raw"))
        .arg("--uki")
        .arg(images.join(uki))
        .arg("--loader")
        .arg(built("boot-tools/usr/lib/systemd/boot/efi/systemd-bootx64.efi")?)
        .arg("--repository")
        .arg(repository)
        .stderr(Stdio::inherit())
        .output()
        .context("running metalstrap publish")?;
    ensure!(output.status.success(), "metalstrap publish ended with {}", output.status);
    let published: Published =
        serde_json::from_slice(&output.stdout).context("reading what metalstrap publish printed")?;
    Ok(Published { repository: repository.to_owned(), ..published })
}

/// The site config that points machines of `lab` at the release.
///
/// # Errors
/// The lab's CA cannot be read.
pub fn site(lab: &Lab, published: &Published) -> Result<Site> {
    let authority = lab.authority()?;
    Ok(Site {
        format: 1,
        repository: lab.repository_url().trim_end_matches('/').to_owned(),
        manifest: PinnedManifest { path: published.manifest.clone(), sha256: published.sha256 },
        ca: std::fs::read_to_string(&authority).with_context(|| format!("reading {}", authority.display()))?,
        disk: DiskSelector::default(),
        existing: Existing::Refuse,
        report_url: Some(lab.report_url()),
        tpm: TpmPolicy::IfPresent,
        handoff: HandoffMode::Kexec,
        cmdline_extra: String::new(),
        boot_order: BootOrder::NetworkFirst,
        reboot_on_failure_after: None,
        network_timeout: 180,
    })
}
