//! The credentials of the host config as the installed OS gets them: files in `\loader\credentials` of the ESP, which
//! systemd-stub hands to the kernel as an initrd with `/.extra/global_credentials` (`pack_cpio` in systemd's src/boot/cpio.c),
//! and by kexec the same initrd. PID 1 takes them from there (`import_credentials_boot` in its src/core/import-creds.c).
//!
//! What comes that way counts as untrusted and must be encrypted. Credentials are with the null key, which everybody has: it says
//! where a file comes from to nobody, and hides nothing. Secrets are sealed to the machine's TPM.

mod archive;
mod seal;
#[cfg(test)]
mod tests;
mod tpm_sealed;

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metalstrap_release::host::{FileForm, Host, Identity, Plaintext};
use serde::Serialize;

use crate::failure::{Code, coded};
use crate::secure_boot;
pub use archive::{archive, pack};
use seal::seal;
pub use tpm_sealed::{SealedKey, open as open_from_tpm};

/// Where systemd-stub looks for what all UKIs of the ESP are given.
pub const DIRECTORY: &str = "loader/credentials";

/// What a file has at most beside a name and a content, and what stands for it while the plan is made: headers, and an object
/// that a TPM has sealed.
const AROUND: usize = 1024;

/// A credential as systemd takes it.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Its name.
    pub name: String,
    /// Bytes of its content; of a secret nobody is told.
    pub size: Option<u64>,
    /// The bytes of its file.
    pub bytes: Vec<u8>,
}

/// The bytes are no secret, but nobody's business.
impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("name", &self.name).field("size", &self.size).finish_non_exhaustive()
    }
}

/// A credential as the plan shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Bytes of its content; of a secret nobody is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

impl Sealed {
    /// The name of its file, on the ESP and in the initrd.
    #[must_use]
    pub fn file(&self) -> String {
        Self::file_of(&self.name)
    }

    /// The name of the file of the credential `name`.
    #[must_use]
    pub fn file_of(name: &str) -> String {
        format!("{name}.cred")
    }

    /// What may be told of it.
    #[must_use]
    pub fn listed(&self) -> Listed {
        Listed { name: self.name.clone(), size: self.size }
    }
}

/// The host config with what `machine` says of itself in place of the variables.
///
/// # Errors
/// [`Code::Credentials`] where it does not say what is asked for.
pub fn for_machine(host: Host, machine: &Identity) -> Result<Host> {
    let credentials = host.credentials.for_machine(machine);
    let credentials =
        credentials.map_err(|problem| coded(Code::Credentials, format!("the host config's credentials {problem}")))?;
    Ok(Host { credentials, ..host })
}

/// The credentials of a host config without variables, in the order of their files. The same host config gives the same
/// bytes.
///
/// # Errors
/// [`Code::Credentials`] where it has variables.
pub fn seal_all(host: &Host) -> Result<Vec<Sealed>> {
    let contents = host.credentials.of(&Identity::default());
    let mut contents =
        contents.map_err(|problem| coded(Code::Credentials, format!("the host config's credentials {problem}")))?;
    let mut all = Vec::new();
    for (name, credential) in host.credentials.iter() {
        let content = contents.remove(name).with_context(|| format!("the credential {name:?} has no content"))?;
        let bytes = in_form(seal(name, &content)?, credential.file.is_binary(name));
        all.push(Sealed { name: name.to_owned(), size: Some(u64::try_from(content.len())?), bytes });
    }
    // As systemd-stub sorts them.
    all.sort_by_key(Sealed::file);
    Ok(all)
}

/// A credential that is none of the host config's, in a file of this form: with the null key, or a key that is sealed to the TPM.
///
/// # Errors
/// The system gives no random bytes.
pub fn seal_one(name: &str, content: &str, form: FileForm, key: Option<&SealedKey>) -> Result<Sealed> {
    let sealed = match key {
        Some(key) => key.encrypt(name, &Plaintext::new(content.as_bytes().to_vec()))?,
        None => seal(name, content.as_bytes())?,
    };
    let bytes = in_form(sealed, form.is_binary(name));
    Ok(Sealed { name: name.to_owned(), size: Some(u64::try_from(content.len())?), bytes })
}

/// All that the ESP will have, before a TPM has sealed the secrets: in their place are zeroes, as many as they may get.
///
/// # Errors
/// As [`seal_all`].
pub fn expected(host: &Host) -> Result<Vec<Sealed>> {
    let secrets = host.secrets.iter().map(|(name, secret)| {
        let most = secret.content.len().saturating_add(name.len()).saturating_add(AROUND);
        let bytes = in_form(vec![0; most], secret.file.is_binary(name));
        Sealed { name: name.to_owned(), size: None, bytes }
    });
    let mut all = seal_all(host)?;
    all.extend(secrets);
    all.sort_by_key(Sealed::file);
    Ok(all)
}

/// A credential as it is written to its file.
#[must_use]
pub fn in_form(sealed: Vec<u8>, is_binary: bool) -> Vec<u8> {
    if is_binary { sealed } else { format!("{}\n", STANDARD.encode(sealed)).into_bytes() }
}

/// The Secure Boot that credentials meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecureBoot {
    /// That which the firmware has now, and which a kexec leaves as it is.
    Now,
    /// That of the firmware's next start, once it has been given keys: until then EDK2's variable `SecureBoot` says that it is off.
    Enrolled,
}

/// Why systemd of the installed OS would refuse credentials with the null key on the machine whose sysfs is at `sys`, if it
/// would (`decrypt_credential_and_warn` in its src/shared/creds-util.c).
#[must_use]
pub fn refusal(sys: &Path, which: SecureBoot) -> Option<String> {
    let major = fs::read_to_string(sys.join("class/tpm/tpm0/tpm_version_major"));
    let tpm = sys.join("firmware/acpi/tables/TPM2").exists() || major.is_ok_and(|major| major.trim() == "2");
    let has = match which {
        SecureBoot::Now if !secure_boot::is_on(sys) => return None,
        SecureBoot::Now => "this machine has Secure Boot on and",
        SecureBoot::Enrolled => {
            "this machine will have Secure Boot on once the host config's keys are enrolled, and it has"
        }
    };
    tpm.then(|| {
        format!(
            "{has} a TPM 2.0: there systemd takes no credentials that are not sealed to the TPM, as only `secrets` are"
        )
    })
}
