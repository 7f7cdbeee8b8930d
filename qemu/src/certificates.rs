//! A private certificate authority, and the server certificates that tests need: good, expired, of another name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::tool;

/// From when to when a certificate holds, as `YYYYMMDDHHMMSSZ`.
#[derive(Debug, Clone, Copy)]
pub struct Validity {
    /// The first second.
    pub from: &'static str,
    /// The last second.
    pub to: &'static str,
}

impl Validity {
    /// Holds whatever the clock of a guest says.
    pub const WIDE: Self = Self { from: "20000101000000Z", to: "20991231235959Z" };
    /// Was over before any guest of ours was built.
    pub const EXPIRED: Self = Self { from: "20000101000000Z", to: "20200101000000Z" };
}

/// A certificate and its key, both PEM files.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl Issued {
    /// The same files by their absolute paths.
    pub(crate) fn canonical(certificate: &Path, key: &Path) -> Result<Self> {
        let absolute = |path: &Path| fs::canonicalize(path).with_context(|| format!("looking for {}", path.display()));
        Ok(Self { certificate: absolute(certificate)?, key: absolute(key)? })
    }
}

/// A certificate authority in a directory: key, certificate, and what it issued.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
}

impl Authority {
    /// Makes a new authority with a key of its own.
    ///
    /// # Errors
    /// When openssl is missing or fails.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        fs::write(dir.join("index.txt"), "").context("writing the authority's index")?;
        let authority = Self { dir: dir.to_owned() };
        let extensions = "basicConstraints = critical, CA:TRUE\n\
                          keyUsage = critical, keyCertSign, cRLSign\n\
                          subjectKeyIdentifier = hash\n";
        authority.sign("ca", "metalstrap test authority", extensions, Validity::WIDE, true)?;
        Ok(authority)
    }

    /// The authority's own certificate (PEM), the trust anchor.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Issues a server certificate. `file` names its files; `names` are as in subjectAltName: `DNS:repo.test`,
    /// `IP:10.77.0.1`.
    ///
    /// # Errors
    /// When openssl fails.
    pub fn issue(&self, file: &str, names: &[&str], validity: Validity) -> Result<Issued> {
        let extensions = format!(
            "basicConstraints = critical, CA:FALSE\n\
             keyUsage = critical, digitalSignature\n\
             extendedKeyUsage = serverAuth\n\
             subjectKeyIdentifier = hash\n\
             authorityKeyIdentifier = keyid\n\
             subjectAltName = {}\n",
            names.join(", ")
        );
        self.sign(file, "metalstrap test server", &extensions, validity, false)?;
        Ok(Issued { certificate: self.dir.join(format!("{file}.pem")), key: self.dir.join(format!("{file}.key")) })
    }

    /// `openssl ca`, since only it takes a start and an end date in every version that Debian 12 and 13 carry.
    fn sign(&self, file: &str, subject: &str, extensions: &str, validity: Validity, own: bool) -> Result<()> {
        let config = format!(
            "[ca]\ndefault_ca = own\n[own]\nnew_certs_dir = .\ndatabase = index.txt\nrand_serial = yes\n\
             default_md = sha256\npolicy = any\nunique_subject = no\nprivate_key = ca.key\ncertificate = ca.pem\n\
             [any]\ncommonName = supplied\n[req]\ndistinguished_name = dn\nprompt = no\n[dn]\ncommonName = {subject}\n\
             [extensions]\n{extensions}"
        );
        fs::write(self.dir.join(format!("{file}.cnf")), config).context("writing the configuration of openssl")?;
        let (cnf, key) = (format!("{file}.cnf"), format!("{file}.key"));
        let (request, certificate) = (format!("{file}.csr"), format!("{file}.pem"));
        self.openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &key])?;
        self.openssl(&["req", "-new", "-config", &cnf, "-key", &key, "-out", &request])?;
        let mut arguments = vec!["ca", "-batch", "-notext", "-config", &cnf, "-extensions", "extensions"];
        arguments.extend(["-startdate", validity.from, "-enddate", validity.to, "-in", &request, "-out", &certificate]);
        if own {
            arguments.push("-selfsign");
        }
        self.openssl(&arguments)
    }

    fn openssl(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new(tool::find("openssl")?)
            .args(arguments)
            .current_dir(&self.dir)
            .output()
            .context("starting openssl")?;
        if !output.status.success() {
            let verb = arguments.first().copied().unwrap_or_default();
            bail!("openssl {verb}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `openssl verify` says of a certificate that `authority` issued.
    fn verify(authority: &Authority, issued: &Issued, name: &str) -> String {
        let output = Command::new(tool::find("openssl").unwrap())
            .args(["verify", "-purpose", "sslserver", "-verify_hostname", name, "-CAfile"])
            .args([&authority.certificate(), &issued.certificate])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
    }

    #[test]
    fn issues_good_and_bad_certificates() {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::new(dir.path()).unwrap();
        let good = authority.issue("good", &["DNS:repo.test", "IP:10.77.0.1"], Validity::WIDE).unwrap();
        let expired = authority.issue("expired", &["DNS:repo.test"], Validity::EXPIRED).unwrap();
        assert_eq!(verify(&authority, &good, "repo.test"), format!("{}: OK\n", good.certificate.display()));
        assert!(verify(&authority, &good, "other.test").contains("hostname mismatch"));
        assert!(verify(&authority, &expired, "repo.test").contains("certificate has expired"));
    }
}
