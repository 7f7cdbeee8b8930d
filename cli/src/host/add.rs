//! `metalstrap host add`: says what a machine gets.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::host::{
    BootOrder, Credentials, DiskSelector, Erase, Existing, HandoffMode, Host, HostKey, Mode, Pcr11Need, ReleaseName,
    Secrets, TpmPolicy,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::secrets::{self, SecretFile};
use super::secure_boot;
use super::{ROLES, encode, parse_key, read_allowed};
use crate::repository::Repository;
use crate::signing::SigningArgs;
use crate::stage::StageArgs;
use crate::{ek, output};

/// Adds the host config of a machine, or replaces it, and signs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  metalstrap host add default --release debian 13.2 --repository /srv/os --keys keys
  metalstrap host add serial-7XK2J13 --release debian 13.2 --existing wipe --intent new \\
      --disk-serial S4EVNX0 --repository /srv/os --keys keys
  metalstrap host add mac-52:54:00:12:34:56 --config host.json --repository /srv/os --keys keys
  metalstrap host add serial-7XK2J13 --config host.json --secret wifi.psk=psk --ek ek.pem --repository /srv/os --keys keys
It needs the keys hosts.pem, snapshot.pem and timestamp.pem. It prints one line of JSON: key, path and digest of the
host config, whether it was `published` now, versions and expiry of the metadata.")]
pub struct Args {
    /// `uuid-…`, `serial-…`, `mac-…` or `default`
    #[arg(value_parser = parse_key)]
    key: HostKey,
    /// The host config, as JSON
    #[arg(long, value_name = "FILE", required_unless_present = "release",
          conflicts_with_all = ["release", "disk_serial", "disk_wwid", "disk_by_path", "disk_model", "disk_transport",
                                "disk_size", "mode", "existing", "intent", "erase", "tpm", "handoff", "pcr11",
                                "boot_order",
                                "cmdline_extra"])]
    config: Option<PathBuf>,
    /// The release to install
    #[arg(long, num_args = 2, value_names = ["NAME", "VERSION"])]
    release: Option<Vec<String>>,
    /// Whether the release is installed, or mended where it is installed already: install or repair [default: install]
    #[arg(long, value_parser = word::<Mode>)]
    mode: Option<Mode>,
    /// Serial number of the disk
    #[arg(long, value_name = "TEXT")]
    disk_serial: Option<String>,
    /// WWID of the disk
    #[arg(long, value_name = "TEXT")]
    disk_wwid: Option<String>,
    /// Path by bus of the disk, as in /dev/disk/by-path
    #[arg(long, value_name = "TEXT")]
    disk_by_path: Option<String>,
    /// Model of the disk; * stands for any characters, ? for any one
    #[arg(long, value_name = "TEXT")]
    disk_model: Option<String>,
    /// Transport of the disk: nvme, virtio, sata, sas, scsi, mmc or usb
    #[arg(long, value_name = "TEXT")]
    disk_transport: Option<String>,
    /// Conditions on the size of the disk, as ">= 480 GB, < 2 TB"
    #[arg(long, value_name = "CONDITIONS")]
    disk_size: Option<String>,
    /// What may happen to a disk that is not blank: keep, refuse or wipe [default: keep]
    #[arg(long, value_parser = word::<Existing>)]
    existing: Option<Existing>,
    /// Names the one time that `wipe` is meant: a disk on which it has happened is kept from then on
    #[arg(long, value_name = "WORD")]
    intent: Option<String>,
    /// What is done against the old content of a disk that is wiped: none, discard, zeroes or secure [default: none]
    #[arg(long, value_parser = word::<Erase>)]
    erase: Option<Erase>,
    /// Whether a machine without TPM is refused: required or if-present [default: if-present]
    #[arg(long, value_parser = word::<TpmPolicy>)]
    tpm: Option<TpmPolicy>,
    /// How the installer is left: kexec, reboot or poweroff [default: kexec]
    #[arg(long, value_parser = word::<HandoffMode>)]
    handoff: Option<HandoffMode>,
    /// What the OS needs of PCR 11 at the end of the installation: any value, or one that is signed [default: any]
    #[arg(long, value_parser = word::<Pcr11Need>)]
    pcr11: Option<Pcr11Need>,
    /// Where the boot entry goes: network-first, disk-first or leave [default: network-first]
    #[arg(long, value_parser = word::<BootOrder>)]
    boot_order: Option<BootOrder>,
    /// Added to the kernel command line at kexec
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    cmdline_extra: Option<String>,
    /// A credential that is secret, and the file that it is in (- is standard input), byte for byte; may be there several
    /// times. It is encrypted to the machine's TPM, and beside those that the host config has
    #[arg(long, value_name = "NAME=FILE", value_parser = SecretFile::parse, requires = "ek")]
    secret: Vec<SecretFile>,
    /// The endorsement key of the machine's TPM: public key or certificate in PEM or DER, or a TPM2B_PUBLIC
    #[arg(long, value_name = "FILE", requires = "secret")]
    ek: Option<PathBuf>,
    /// Keys for Secure Boot that a firmware in setup mode is given: a directory with the signed updates PK.auth, KEK.auth and
    /// db.auth, as systemd-boot takes them. They take the place of those that the host config has
    #[arg(long, value_name = "DIR")]
    secure_boot_keys: Option<PathBuf>,
    /// Directory of the repository
    #[arg(long, value_name = "DIR")]
    repository: PathBuf,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    stage: StageArgs,
}

/// Reads a word as the host config has it.
fn word<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

impl Args {
    /// Adds the host config, signs and prints the result.
    ///
    /// # Errors
    /// When it is none that the installer takes, names a release that is not there or not allowed, or a key is missing.
    pub fn run(self) -> Result<()> {
        let mut bytes = self.config()?;
        if let Some(path) = &self.ek {
            bytes = secrets::add(&bytes, &self.secret, &ek::read(path)?)?;
        }
        if let Some(directory) = &self.secure_boot_keys {
            bytes = secure_boot::add(&bytes, directory)?;
        }
        let host = Host::parse(&bytes).context("checking the host config")?;
        secure_boot::check(&host)?;
        let signing = self.signing.open_or_stage(&ROLES, &self.stage)?;
        let repository = Repository::open(&self.repository)?;
        let mut draft = signing.existing(&repository)?;
        let releases = draft.releases()?;
        ensure!(
            releases.contains_key(&host.release.target()),
            "the repository has no release {}: publish it first (there are {:?})",
            host.release,
            releases.keys().filter_map(|name| name.strip_suffix(".json")).collect::<Vec<_>>()
        );
        if let Some(allowed) = read_allowed(repository.directory(), draft.allowed()?.as_ref())? {
            allowed.check(&format!("the host config {}", self.key), &host.release)?;
        }
        let name = self.key.target();
        let (path, sha256, size) = signing.place(&repository).add_target(&name, &bytes)?;
        let added = draft.set_host(&name, size, sha256)?;
        let done = signing.conclude(&repository, draft, added)?;
        let (key, published) = (self.key.to_string(), added && done.is_published());
        let metadata = done.summary();
        output::print(
            &json!({"host": key, "config": path, "sha256": sha256, "published": published, "metadata": metadata}),
        )
    }

    /// The host config's bytes.
    fn config(&self) -> Result<Vec<u8>> {
        if let Some(path) = &self.config {
            return fs::read(path).with_context(|| format!("reading the host config {}", path.display()));
        }
        let mut names = self.release.clone().unwrap_or_default().into_iter();
        let (Some(name), Some(version)) = (names.next(), names.next()) else {
            anyhow::bail!("which release? Say --release NAME VERSION");
        };
        let host = Host {
            format: 1,
            release: ReleaseName { name, version },
            mode: self.mode.unwrap_or_default(),
            disk: DiskSelector {
                serial: self.disk_serial.clone(),
                wwid: self.disk_wwid.clone(),
                by_path: self.disk_by_path.clone(),
                model: self.disk_model.clone(),
                transport: self.disk_transport.clone(),
                size: self.disk_size.clone(),
                ..DiskSelector::default()
            },
            existing: self.existing.unwrap_or_default(),
            intent: self.intent.clone(),
            erase: self.erase.unwrap_or_default(),
            tpm: self.tpm.unwrap_or_default(),
            attestation: None,
            handoff: self.handoff.unwrap_or_default(),
            pcr11: self.pcr11.unwrap_or_default(),
            cmdline_extra: self.cmdline_extra.clone().unwrap_or_default(),
            boot_order: self.boot_order.unwrap_or_default(),
            credentials: Credentials::default(),
            secrets: Secrets::default(),
            secure_boot_keys: None,
        };
        encode(&host)
    }
}
