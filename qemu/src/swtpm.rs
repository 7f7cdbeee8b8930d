//! A TPM 2.0 by swtpm.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;

use crate::namespace::Namespace;
use crate::process::Process;
use crate::{socket, tool};

/// The socket's name in the TPM's directory.
pub(crate) const SOCKET: &str = "sock";

/// A manufactured TPM: its state in a directory, kept over power cycles. It runs while a machine runs that has it.
#[derive(Debug, Clone)]
pub struct Swtpm {
    dir: PathBuf,
}

impl Swtpm {
    /// Manufactures a TPM in `dir` with the banks SHA-1, SHA-256, SHA-384 and SHA-512; with `ek_certificate` also
    /// endorsement key certificates (RSA-2048 and P-384) and a platform certificate of an authority in `dir/ca`.
    ///
    /// # Errors
    /// When swtpm is missing or its setup fails.
    pub fn manufacture(dir: &Path, ek_certificate: bool) -> Result<Self> {
        let setup = tool::find("swtpm_setup")?;
        fs::create_dir_all(dir.join("ca")).with_context(|| format!("making {}", dir.display()))?;
        let dir = fs::canonicalize(dir).with_context(|| format!("looking for {}", dir.display()))?;
        write_configuration(&dir)?;
        let mut command = Command::new(setup);
        command.args(["--tpm2", "--pcr-banks", "sha1,sha256,sha384,sha512", "--tpm-state"]).arg(&dir);
        command.arg("--config").arg(dir.join("setup.conf"));
        if geteuid().is_root() {
            // It would change to the user tss, who cannot write here.
            command.args(["--runas", "root"]);
        }
        if ek_certificate {
            command.args(["--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--write-ek-cert-files"]);
            command.arg(dir.join("ca"));
        }
        let output = command.output().context("starting swtpm_setup")?;
        if !output.status.success() {
            let log = [output.stdout, output.stderr].concat();
            bail!("swtpm_setup: {}", String::from_utf8_lossy(&log).trim());
        }
        Ok(Self { dir })
    }

    /// The certificate of the authority that signed the endorsement key certificates, followed by its root (PEM).
    ///
    /// # Errors
    /// When the TPM was made without certificates.
    pub fn authority(&self) -> Result<String> {
        let read =
            |name: &str| fs::read_to_string(self.dir.join("ca").join(name)).with_context(|| format!("reading {name}"));
        Ok(read("issuercert.pem")? + &read("swtpm-localca-rootca-cert.pem")?)
    }

    /// The certificate (DER file) of its endorsement key of RSA 2048, which `metalstrap host add --ek` takes.
    #[must_use]
    pub fn endorsement_certificate(&self) -> PathBuf {
        self.dir.join("ca/ek-rsa2048.crt")
    }

    /// Where its state, socket and log are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Starts the TPM. The socket listens before swtpm runs, so that nobody can come too early; swtpm gets it as its
    /// standard input.
    pub(crate) fn power_on(&self, namespace: &Namespace) -> Result<Process> {
        let listener = socket::bind(&self.dir, SOCKET)?;
        let mut command = namespace.command(tool::find("swtpm")?);
        command.args(["socket", "--tpm2", "--ctrl", "type=unixio,fd=0", "--tpmstate"]);
        command.arg(format!("dir={}", self.dir.display())).stdin(Stdio::from(OwnedFd::from(listener)));
        Process::start("swtpm", command, &self.dir.join("swtpm.log"))
    }
}

/// A private authority for the certificates, instead of the host's.
fn write_configuration(dir: &Path) -> Result<()> {
    let write = |name: &str, text: String| fs::write(dir.join(name), text).with_context(|| format!("writing {name}"));
    let ca = dir.join("ca");
    let ca = ca.display();
    write(
        "localca.conf",
        format!(
            "statedir = {ca}\nsigningkey = {ca}/signkey.pem\nissuercert = {ca}/issuercert.pem\n\
             certserial = {ca}/certserial\n"
        ),
    )?;
    write(
        "localca.options",
        "--platform-manufacturer metalstrap\n--platform-version 1\n--platform-model qemu\n".to_owned(),
    )?;
    write(
        "setup.conf",
        format!(
            "create_certs_tool = {}\ncreate_certs_tool_config = {1}/localca.conf\n\
             create_certs_tool_options = {1}/localca.options\n",
            tool::find("swtpm_localca")?.display(),
            dir.display()
        ),
    )
}
