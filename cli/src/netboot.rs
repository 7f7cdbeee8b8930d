//! `metalstrap netboot`: makes the image that machines boot from the network.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use metalstrap_initrd::{BootTools, Kernel, NetbootOptions, Signer, netboot};
use metalstrap_release::site::Site;
use serde_json::json;

use crate::encrypted;
use crate::passphrase::PassphraseArgs;

/// Makes the netboot UKI of a site: kernel, drivers, installer and site config in one file for UEFI HTTP boot or PXE.
///
/// Kernel command line and initrd are written beside it too, for boot loaders that take them apart.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap netboot --installer metalstrap-installer --kernel-package out/kernels/generic \\
      --boot-tools out/boot-tools --site site.json --output netboot.efi
It prints one line of JSON with the bytes of the parts.")]
pub struct Args {
    /// The static installer
    #[arg(long, value_name = "FILE")]
    installer: PathBuf,
    /// Unpacked tree of a Debian kernel package, with the indexes that depmod makes
    #[arg(long, value_name = "DIR")]
    kernel_package: PathBuf,
    /// Unpacked tree of systemd-ukify, systemd-boot-efi and python3-pefile
    #[arg(long, value_name = "DIR", default_value = "/")]
    boot_tools: PathBuf,
    /// EFI stub [default: linuxx64.efi.stub of the boot tools]
    #[arg(long, value_name = "FILE")]
    stub: Option<PathBuf>,
    /// Site config: whom to believe, and where to look
    #[arg(long, value_name = "FILE")]
    site: PathBuf,
    /// Seconds of Unix time that the installer's clock starts from at least [default: `clock_floor` of the site config]
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    build_time: Option<u64>,
    /// Goes behind the standard kernel command line
    #[arg(long, value_name = "WORDS", default_value = "", hide_default_value = true, allow_hyphen_values = true)]
    cmdline_extra: String,
    /// Directory where finished archives are kept, which makes the next image faster [default: below the user's cache]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Private key (PEM, RSA; may be encrypted) that signs the UKI for Secure Boot
    #[arg(long, value_name = "FILE", requires = "secure_boot_certificate")]
    secure_boot_key: Option<PathBuf>,
    /// Its certificate (PEM), which the firmware's db must hold
    #[arg(long, value_name = "FILE", requires = "secure_boot_key")]
    secure_boot_certificate: Option<PathBuf>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// The UKI
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

impl Args {
    /// Makes the image and prints the bytes of its parts.
    ///
    /// # Errors
    /// When the site config is none that the installer takes, or a part cannot be read or made.
    pub fn run(self) -> Result<()> {
        let site = fs::read(&self.site).with_context(|| format!("reading the site config {}", self.site.display()))?;
        let parsed = Site::parse(&site).with_context(|| format!("checking the site config {}", self.site.display()))?;
        let signer = match (&self.secure_boot_key, &self.secure_boot_certificate) {
            (Some(key), Some(certificate)) => Some(signer(key, certificate, &self.passphrase)?),
            _ => None,
        };
        // Not the clock: the same inputs give the same image.
        let build_time = self.build_time.or(parsed.clock_floor);
        let build_time = build_time.context(
            "the site config has no `clock_floor`, before which no machine's clock is right: make it by `metalstrap \
             site`, or say --build-time",
        )?;
        let tools = BootTools::find(&self.boot_tools)?;
        let mut sizes = netboot(&NetbootOptions {
            kernel: Kernel::find(&self.kernel_package)?,
            installer: self.installer,
            site,
            build_time,
            tools: BootTools { stub: self.stub.unwrap_or(tools.stub), ..tools },
            cmdline_extra: self.cmdline_extra,
            extra_files: Vec::new(),
            cache: self.cache.or_else(users_cache),
            output: self.output.clone(),
        })?;
        if let Some(signer) = signer {
            sizes.uki = signer.sign_file(&self.output)?;
        }
        eprint!("{sizes}");
        let bytes = json!({
            "kernel": sizes.kernel,
            "initrd": sizes.initrd,
            "drivers": sizes.drivers,
            "installer": sizes.installer,
            "site": sizes.site,
            "uki": sizes.uki,
        });
        println!("{}", json!({"netboot": self.output, "bytes": bytes}));
        Ok(())
    }
}

/// Where programs keep what they can make again (XDG Base Directory Specification): `$XDG_CACHE_HOME`, else `~/.cache`.
/// None without a home directory: then nothing is kept.
fn users_cache() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    cache.map(|cache| cache.join("metalstrap/initrd"))
}

/// The key and its certificate.
fn signer(key: &Path, certificate: &Path, passphrase: &PassphraseArgs) -> Result<Signer> {
    let encrypted = fs::read_to_string(key).ok().and_then(|text| encrypted::find(&text));
    match encrypted {
        Some(der) => {
            let decrypted = passphrase.open()?.unlock_by(key, |passphrase| encrypted::decrypt_any(&der, passphrase))?;
            Signer::of_pkcs8(decrypted.as_bytes(), key, certificate)
        }
        None => Signer::read(key, certificate),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Words {
        #[command(flatten)]
        passphrase: PassphraseArgs,
    }

    #[test]
    fn an_encrypted_key_is_taken_by_its_passphrase_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for line in [
            "req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=operator -keyout plain.key -out db.pem",
            "pkcs8 -topk8 -in plain.key -passout pass:secret -out db.key -v2 aes-256-cbc",
        ] {
            let output = Command::new("openssl").args(line.split(' ')).current_dir(dir.path()).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        let sign = |text: &str| {
            fs::write(path("pass"), text).unwrap();
            fs::set_permissions(path("pass"), fs::Permissions::from_mode(0o600)).unwrap();
            let words = Words::parse_from(["netboot", "--passphrase-file", path("pass").to_str().unwrap()]);
            signer(&path("db.key"), &path("db.pem"), &words.passphrase)
        };
        sign("secret\n").unwrap();
        let text =
            format!("the passphrase in {} is not that of the key {}", path("pass").display(), path("db.key").display());
        assert_eq!(sign("Secret\n").unwrap_err().to_string(), text);
    }
}
