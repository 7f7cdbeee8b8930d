//! OVMF: where Debian keeps it, and a copy of its variables for each machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use crate::enrolment;

/// Code and variables of one firmware build; Debian 12 and 13 both ship the 4 MiB form under these names.
const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
/// The build that knows Secure Boot, and keeps its variables where only system management mode can write them.
const SECURE_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.secboot.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// The files that a machine needs of the host.
pub(crate) fn files(secure_boot: bool) -> [PathBuf; 2] {
    [if secure_boot { SECURE_CODE } else { CODE }, VARIABLES].map(PathBuf::from)
}

/// The firmware's code, shared and never written.
pub(crate) fn code(secure_boot: bool) -> Result<PathBuf> {
    let [code, _] = files(secure_boot);
    ensure!(code.exists(), "{} is not there: it is in the Debian package ovmf", code.display());
    Ok(code)
}

/// The machine's own variables in `dir`: made from the template at its first start, kept over power cycles. With a
/// `certificate`, Secure Boot is on from the start and trusts this one alone.
pub(crate) fn variables(dir: &Path, certificate: Option<&Path>) -> Result<PathBuf> {
    let variables = dir.join("vars.fd");
    if !variables.exists() {
        let mut template = fs::read(VARIABLES).with_context(|| format!("reading {VARIABLES}"))?;
        if let Some(path) = certificate {
            let reading = || format!("reading the certificate {}", path.display());
            let certificate = CertificateDer::from_pem_file(path).with_context(reading)?;
            template = enrolment::enrol(template, &certificate).context("enrolling the Secure Boot certificate")?;
        }
        // Written, not copied: the template's mode may be read-only.
        fs::write(&variables, template).with_context(|| format!("writing {}", variables.display()))?;
    }
    Ok(variables)
}
