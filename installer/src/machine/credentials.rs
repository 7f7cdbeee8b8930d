//! What credentials and secrets ask of the machine.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use metalstrap_release::host::{Host, Identity};

use super::Machine;
use crate::config::Place;
use crate::credentials::{self, Sealed, SecureBoot};
use crate::esp;
use crate::failure::{Code, WithCode as _, coded};
use crate::inventory::DiskFacts;
use crate::plan::{Plan, Role};
use crate::secrets::{self, Opened};
use crate::smbios;

impl Machine<'_> {
    /// What is known of the machine that gets the installation: where the person named the host config, that is its key.
    #[must_use]
    pub fn known(&self) -> Identity {
        match self.place {
            Place::Ordinary { host: Some(key), .. } => key.identity(),
            _ => smbios::identity(Path::new("/sys")),
        }
    }

    /// Whether the installed OS would take the credentials of the host config on this machine.
    ///
    /// # Errors
    /// [`Code::Credentials`] in the netboot image. An ordinary command does not know which machine the disk is for, and warns.
    pub fn check_credentials(&self, host: &Host) -> Result<()> {
        match self.refusal(host, SecureBoot::Now) {
            Some(text) if self.is_netboot() => return Err(coded(Code::Credentials, text)),
            Some(text) => self.tell.warn("host-config", &text),
            None => {}
        }
        Ok(())
    }

    /// Why the installed OS would refuse the credentials of the host config on this machine, if it has some and would.
    pub(super) fn refusal(&self, host: &Host, which: SecureBoot) -> Option<String> {
        if host.credentials.is_empty() {
            return None;
        }
        credentials::refusal(&self.seams.sys, which)
    }

    /// Opens the secrets of the host config, where it has some.
    ///
    /// # Errors
    /// [`Code::Secrets`].
    pub fn open_secrets(&self, host: &Host) -> Result<Opened> {
        if host.secrets.is_empty() {
            return Ok(Opened::default());
        }
        self.tell.step("secrets", "Opening the secrets", |_| {
            secrets::open(&host.secrets, (self.seams.tpm)().code(Code::Secrets, || "looking for the TPM".to_owned())?)
        })
    }

    /// All that the OS gets: the credentials, and the secrets sealed to this machine's TPM. Nothing is written.
    ///
    /// # Errors
    /// [`Code::Secrets`]; the disk's.
    pub async fn seal(&self, host: &Host, secrets: Opened, plan: &Plan, disk: &DiskFacts) -> Result<Vec<Sealed>> {
        let mut all = credentials::seal_all(host)?;
        if host.secrets.is_empty() {
            return Ok(all);
        }
        let there = if plan.existing.stays() {
            let esp = plan.region(&disk.open_to_read()?, Role::Esp)?;
            esp::credential_files(&esp, secrets.files()).await?
        } else {
            BTreeMap::new()
        };
        all.extend(self.tell.step("secrets", "Sealing the secrets for the OS", |_| secrets.seal(&there))?);
        all.sort_by_key(Sealed::file);
        Ok(all)
    }
}
