//! Publishes what was built, through the operator's command.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use metalstrap_initrd::{Kernel, Signer};
use metalstrap_qemu::Lab;
use metalstrap_release::digest::Digest;
use metalstrap_release::host::{BootOrder, DiskSelector, Existing, HandoffMode, Host, ReleaseName, TpmPolicy};
use metalstrap_release::site::Site;
use metalstrap_tiny::image::{TinyOptions, tiny};
use serde::Deserialize;

use crate::artifacts::{Flavour, boot_tools, built, program};
use crate::operator::metalstrap;
use crate::reissue::{reissue, sign_pcr11};

/// The version that is published.
pub const VERSION: &str = "1";

/// What `metalstrap publish` has to know of an OS without systemd. With it `BootNext` stays after a kexec, so that the next boot is
/// one from the disk, whatever the firmware's order.
pub(crate) const UNCONFIRMED: &str = "--unconfirmed";

/// systemd-boot.
const LOADER: &str = "systemd-bootx64.efi";

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
    publish_with(target, dir, &[UNCONFIRMED])
}

/// The same with these further words of the command, and no others. The tiny target then says as any OS that it confirms a kexec,
/// which it never does.
///
/// # Errors
/// The images are not built, or the command's words.
pub fn publish_with(target: Target, dir: &Path, more: &[&str]) -> Result<Published> {
    let (repository, keys) = (dir.join("repository"), dir.join("keys"));
    metalstrap(&["keygen".as_ref(), "--keys".as_ref(), keys.as_os_str()])?;
    publish_to(target, VERSION, &built(target.directory())?, repository, keys, more)
}

/// `more`: further words of the command.
fn publish_to(
    target: Target,
    version: &str,
    images: &Path,
    repository: PathBuf,
    keys: PathBuf,
    more: &[&str],
) -> Result<Published> {
    let own = images.join(LOADER);
    let loader = if own.exists() { own } else { boot_tools()?.loader };
    let uki = if target == Target::Debian { "uki.efi" } else { "tiny.efi" };
    let files: [(&str, &Path); 6] = [
        ("--root", &images.join("root.raw")),
        ("--verity", &images.join("root.verity.raw")),
        ("--uki", &images.join(uki)),
        ("--loader", &loader),
        ("--repository", &repository),
        ("--keys", &keys),
    ];
    let mut words: Vec<&OsStr> = ["publish", "--name", target.name(), "--version", version].map(OsStr::new).into();
    words.extend(files.iter().flat_map(|(option, path)| [OsStr::new(*option), path.as_os_str()]));
    words.extend(more.iter().map(OsStr::new));
    let printed = metalstrap(&words)?;
    let published: Published = serde_json::from_slice(&printed).context("reading what metalstrap publish printed")?;
    Ok(Published { repository, keys, ..published })
}

impl Published {
    /// Makes another tiny target, unlike the first in every block that is not zero and with further files in its initrd, and
    /// publishes it beside it. Gives its root hash.
    ///
    /// # Errors
    /// A part that is missing, or the words of ukify or metalstrap.
    pub fn add_tiny(&self, version: &str, dir: &Path, extra_files: Vec<(String, u32, Vec<u8>)>) -> Result<Digest> {
        let made = tiny(&TinyOptions {
            kernel: Flavour::Cloud.kernel()?,
            init: program("release", "metalstrap-tiny-init")?,
            tools: boot_tools()?,
            mebibytes: 16,
            seed: 2,
            cmdline_extra: String::new(),
            extra_files,
            out: dir.to_owned(),
        })?;
        publish_to(Target::Tiny, version, dir, self.repository.clone(), self.keys.clone(), &[UNCONFIRMED])?;
        Ok(made.root_hash)
    }

    /// Makes another tiny target whose UKI and boot loader `signer` signs, and publishes it. With a `certificate`, which is
    /// `signer`'s, the kernel in the UKI is signed too, and the manifest says so; without, that kernel has no signature. Gives its
    /// root hash.
    ///
    /// # Errors
    /// A part that is missing, or the words of sbattach, ukify or metalstrap.
    pub fn add_signed_tiny(
        &self,
        version: &str,
        dir: &Path,
        signer: &Signer,
        certificate: Option<&Path>,
    ) -> Result<Digest> {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let kernel = Flavour::Cloud.kernel()?;
        let vmlinuz = dir.join("vmlinuz");
        copy(&kernel.vmlinuz, &vmlinuz)?;
        // Debian has signed it; the kernel takes no file with two signatures for kexec.
        let removed = Command::new("sbattach").arg("--remove").arg(&vmlinuz).output().context("running sbattach")?;
        ensure!(removed.status.success(), "sbattach: {}", String::from_utf8_lossy(&removed.stderr));
        if certificate.is_some() {
            signer.sign_file(&vmlinuz)?;
        }
        let tools = boot_tools()?;
        copy(&tools.loader, &dir.join(LOADER))?;
        let made = tiny(&TinyOptions {
            kernel: Kernel { vmlinuz, ..kernel },
            init: program("release", "metalstrap-tiny-init")?,
            tools,
            mebibytes: 16,
            seed: if certificate.is_some() { 3 } else { 4 },
            cmdline_extra: String::new(),
            extra_files: Vec::new(),
            out: dir.to_owned(),
        })?;
        for name in [LOADER, "tiny.efi"] {
            signer.sign_file(&dir.join(name))?;
        }
        let certificate = certificate.map(|path| path.to_string_lossy().into_owned());
        let certificate = certificate.iter().flat_map(|path| ["--secure-boot-certificate", path.as_str()]);
        let more: Vec<&str> = [UNCONFIRMED].into_iter().chain(certificate).collect();
        publish_to(Target::Tiny, version, dir, self.repository.clone(), self.keys.clone(), &more)?;
        Ok(made.root_hash)
    }

    /// Makes the Debian target another version and publishes it beside the first, also for the systemd-sysupdate of machines that
    /// find the repository at `url`. Gives its root hash.
    ///
    /// # Errors
    /// The images are not built, or the command's words.
    pub fn add_debian(&self, version: &str, url: &str, dir: &Path) -> Result<Digest> {
        let root_hash = reissue(&built(Target::Debian.directory())?, version, dir)?;
        let more = ["--level", "1", "--sysupdate", url, UNCONFIRMED];
        publish_to(Target::Debian, version, dir, self.repository.clone(), self.keys.clone(), &more)?;
        Ok(root_hash)
    }

    /// Makes the Debian target another version, whose UKI has policies for PCR 11 signed by `key` (PEM) and the public half of that,
    /// and publishes it beside the first, with signatures for what PCR 11 holds behind the netboot UKI `netboot` too. Gives
    /// the UKI and the manifest.
    ///
    /// # Errors
    /// The images are not built, or the words of ukify or of the command.
    pub fn add_measured_debian(
        &self,
        version: &str,
        dir: &Path,
        [key, public]: [&Path; 2],
        netboot: &Path,
    ) -> Result<[PathBuf; 2]> {
        reissue(&built(Target::Debian.directory())?, version, dir)?;
        let uki = dir.join("uki.efi");
        sign_pcr11(&uki, [key, public])?;
        let [key, netboot] = [key, netboot].map(|path| path.to_string_lossy().into_owned());
        let more = ["--level", "1", "--pcr-key", key.as_str(), "--netboot", netboot.as_str()];
        let published = publish_to(Target::Debian, version, dir, self.repository.clone(), self.keys.clone(), &more)?;
        Ok([uki, self.repository.join(published.manifest)])
    }

    /// Signs `host` as the config of every machine.
    ///
    /// # Errors
    /// The command's words.
    pub fn add_default_host(&self, host: &Host) -> Result<()> {
        self.add_host("default", host)
    }

    /// Signs `host` as the config with this key.
    ///
    /// # Errors
    /// The command's words.
    pub fn add_host(&self, key: &str, host: &Host) -> Result<()> {
        self.add_host_with(key, host, &[])
    }

    /// The config that was signed last; where no further words have added to it, byte for byte as it lies in the repository.
    #[must_use]
    pub fn host_config(&self) -> PathBuf {
        self.keys.join("host.json")
    }

    /// The same with further words of the command.
    ///
    /// # Errors
    /// The command's words.
    pub fn add_host_with(&self, key: &str, host: &Host, more: &[&OsStr]) -> Result<()> {
        let file = self.host_config();
        std::fs::write(&file, serde_json::to_vec_pretty(host)?)
            .with_context(|| format!("writing {}", file.display()))?;
        let mut words: Vec<&OsStr> = ["host", "add", key].map(OsStr::new).into();
        let files = [("--config", &file), ("--repository", &self.repository), ("--keys", &self.keys)];
        words.extend(files.iter().flat_map(|(option, path)| [OsStr::new(*option), path.as_os_str()]));
        words.extend(more);
        metalstrap(&words).map(drop)
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let bytes = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    // Written, not copied: the original may be read-only.
    std::fs::write(to, bytes).with_context(|| format!("writing {}", to.display()))
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
        time_servers: Vec::new(),
        consoles: Vec::new(),
        connections: metalstrap_release::site::CONNECTIONS,
        dhcp_may_set: Vec::new(),
        ignore_media: false,
        kexec_deny: Vec::new(),
        network_timeout: 180,
        pins: Vec::new(),
        client: None,
        proxy: None,
        no_proxy: Vec::new(),
        plain_mirrors: false,
        retry: None,
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
        attestation: None,
        handoff: HandoffMode::Kexec,
        pcr11: Default::default(),
        cmdline_extra: String::new(),
        boot_order: BootOrder::NetworkFirst,
        credentials: Default::default(),
        secrets: Default::default(),
        secure_boot_keys: None,
    }
}
