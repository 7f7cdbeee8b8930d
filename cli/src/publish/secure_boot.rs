//! By whom a release is signed: what is to be started on machines with Secure Boot is known to be good before it is published.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_initrd::key_id;
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::{Certificate, SecureBoot};

use crate::uki::kernel;

/// What sbverify says of a file without any signature.
const UNSIGNED: &str = "No signature table present";

/// Who may have signed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Secure Boot")]
pub struct SecureBootArgs {
    /// Certificate (PEM) by which UKI, the kernel in it and boot loader must be signed, as sbverify sees it; several times for
    /// several, of which each of them needs one. Installers go by that: without it, one that Secure Boot has locked down leaves by a
    /// reboot, and gives no firmware keys
    #[arg(long = "secure-boot-certificate", value_name = "FILE")]
    certificates: Vec<PathBuf>,
}

/// A certificate of the command line.
struct Given<'a> {
    path: &'a Path,
    certificate: Certificate,
}

impl SecureBootArgs {
    /// Which of the certificates each part is signed by; `None` if none were given.
    ///
    /// # Errors
    /// A part is not signed by any of them, a certificate cannot be read, or there is no sbverify.
    pub fn check(&self, uki: &Path, loader: &Path) -> Result<Option<SecureBoot>> {
        if self.certificates.is_empty() {
            return Ok(None);
        }
        let given = self.certificates.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
        // sbverify reads files only.
        let inner = tempfile::NamedTempFile::new().context("making a file for the UKI's kernel")?;
        fs::write(inner.path(), kernel(uki)?).context("writing the UKI's kernel to a file")?;
        Ok(Some(SecureBoot {
            uki: signers(&given, uki, &format!("the UKI {}", uki.display()))?,
            kernel: signers(&given, inner.path(), &format!("the kernel in the UKI {}", uki.display()))?,
            loader: signers(&given, loader, &format!("the boot loader {}", loader.display()))?,
        }))
    }
}

fn read(path: &Path) -> Result<Given<'_>> {
    let reading = || format!("reading the Secure Boot certificate {}", path.display());
    let text = fs::read_to_string(path).with_context(reading)?;
    let pem = pem::parse(text).with_context(reading)?;
    ensure!(pem.tag() == "CERTIFICATE", "{}: it is no certificate, but a {}", reading(), pem.tag());
    let der = pem.contents();
    let certificate = Certificate { sha256: Digest::of(der), key_id: key_id(der).with_context(reading)? };
    Ok(Given { path, certificate })
}

/// Those of the certificates by which `image` is signed.
fn signers(given: &[Given<'_>], image: &Path, what: &str) -> Result<Vec<Certificate>> {
    let mut found = Vec::new();
    for Given { path, certificate } in given {
        if is_signed(image, path, what)? {
            found.push(certificate.clone());
        }
    }
    let names: Vec<_> = given.iter().map(|one| one.path.display().to_string()).collect();
    ensure!(!found.is_empty(), "{what} is signed by none of the given certificates: {}", names.join(", "));
    Ok(found)
}

/// Whether sbverify takes the signature of `image` for one by `certificate`.
fn is_signed(image: &Path, certificate: &Path, what: &str) -> Result<bool> {
    let mut sbverify = Command::new("sbverify");
    sbverify.arg("--cert").arg(certificate).arg(image);
    let output = sbverify.output().context("running sbverify, of Debian's package sbsigntool")?;
    if String::from_utf8_lossy(&output.stderr).contains(UNSIGNED) {
        bail!("{what} is not signed (sbsign and `ukify --sign-kernel` sign such files)");
    }
    Ok(output.status.success())
}
