//! Publishes what was built, through the operator's command.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use metalstrap_initrd::{BootTools, Kernel};
use metalstrap_qemu::Lab;
use metalstrap_release::digest::Digest;
use metalstrap_release::host::{BootOrder, DiskSelector, Existing, HandoffMode, Host, ReleaseName, TpmPolicy};
use metalstrap_release::site::Site;
use metalstrap_tiny::image::{TinyOptions, tiny};
use serde::Deserialize;

use crate::artifacts::{built, program};
use crate::operator::metalstrap;

/// The version that is published.
pub const VERSION: &str = "1";

/// A release in a repository.
#[derive(Debug, Clone, Deserialize)]
pub struct Published {
    /// Directory of the repository.
    #[serde(skip)]
    pub repository: PathBuf,
    /// Directory of its keys.
    #[serde(skip)]
    pub keys: PathBuf,
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

/// Publishes `target` into a repository of its own below `dir`, with keys of its own.
///
/// # Errors
/// The images are not built, or the command's words.
pub fn publish(target: Target, dir: &Path) -> Result<Published> {
    let (repository, keys) = (dir.join("repository"), dir.join("keys"));
    metalstrap(&["keygen".as_ref(), "--keys".as_ref(), keys.as_os_str()])?;
    publish_to(target, VERSION, &built(target.directory())?, repository, keys)
}

fn publish_to(target: Target, version: &str, images: &Path, repository: PathBuf, keys: PathBuf) -> Result<Published> {
    let uki = if target == Target::Debian { "uki.efi" } else { "tiny.efi" };
    let printed = metalstrap(&[
        "publish".as_ref(),
        "--name".as_ref(),
        target.name().as_ref(),
        "--version".as_ref(),
        version.as_ref(),
        "--root".as_ref(),
        images.join("root.raw").as_os_str(),
        "--verity".as_ref(),
        images.join("root.verity.raw").as_os_str(),
        "--uki".as_ref(),
        images.join(uki).as_os_str(),
        "--loader".as_ref(),
        built("boot-tools/usr/lib/systemd/boot/efi/systemd-bootx64.efi")?.as_os_str(),
        "--repository".as_ref(),
        repository.as_os_str(),
        "--keys".as_ref(),
        keys.as_os_str(),
    ])?;
    let published: Published = serde_json::from_slice(&printed).context("reading what metalstrap publish printed")?;
    Ok(Published { repository, keys, ..published })
}

impl Published {
    /// Makes another tiny target, unlike the first in every block that is not zero, and publishes it beside it. Gives its root
    /// hash.
    ///
    /// # Errors
    /// A part that is missing, or the words of ukify or metalstrap.
    pub fn add_tiny(&self, version: &str, dir: &Path) -> Result<Digest> {
        let made = tiny(&TinyOptions {
            kernel: Kernel::find(&built("kernels/cloud")?)?,
            init: program("release", "metalstrap-tiny-init")?,
            tools: BootTools::find(&built("boot-tools")?)?,
            mebibytes: 16,
            seed: 2,
            cmdline_extra: String::new(),
            out: dir.to_owned(),
        })?;
        publish_to(Target::Tiny, version, dir, self.repository.clone(), self.keys.clone())?;
        Ok(made.root_hash)
    }

    /// Signs `host` as the config of every machine.
    ///
    /// # Errors
    /// The command's words.
    pub fn add_default_host(&self, host: &Host) -> Result<()> {
        let file = self.keys.join("host.json");
        std::fs::write(&file, serde_json::to_vec_pretty(host)?)
            .with_context(|| format!("writing {}", file.display()))?;
        metalstrap(&[
            "host".as_ref(),
            "add".as_ref(),
            "default".as_ref(),
            "--config".as_ref(),
            file.as_os_str(),
            "--repository".as_ref(),
            self.repository.as_os_str(),
            "--keys".as_ref(),
            self.keys.as_os_str(),
        ])
        .map(drop)
    }
}

/// The site config that points machines of `lab` at the release.
///
/// # Errors
/// The lab's CA or the repository's root cannot be read.
pub fn site(lab: &Lab, published: &Published) -> Result<Site> {
    let (authority, root) = (lab.authority()?, published.keys.join("root.json"));
    let root = std::fs::read(&root).with_context(|| format!("reading {}", root.display()))?;
    Ok(Site {
        format: 1,
        repository: lab.repository_url().trim_end_matches('/').to_owned(),
        mirrors: Vec::new(),
        root: serde_json::from_slice(&root).context("reading the root metadata")?,
        ca: std::fs::read_to_string(&authority).with_context(|| format!("reading {}", authority.display()))?,
        report_url: Some(lab.report_url()),
        reboot_on_failure_after: None,
        clock_floor: None,
        connections: metalstrap_release::site::CONNECTIONS,
        network_timeout: 180,
    })
}

/// The host config that gives machines `target`.
#[must_use]
pub fn host(target: Target) -> Host {
    Host {
        format: 1,
        release: ReleaseName { name: target.name().to_owned(), version: VERSION.to_owned() },
        mode: Default::default(),
        disk: DiskSelector::default(),
        existing: Existing::Keep,
        intent: None,
        erase: Default::default(),
        tpm: TpmPolicy::IfPresent,
        handoff: HandoffMode::Kexec,
        cmdline_extra: String::new(),
        boot_order: BootOrder::NetworkFirst,
    }
}
