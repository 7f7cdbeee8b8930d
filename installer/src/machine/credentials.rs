//! What credentials ask of the machine.

use std::path::Path;

use anyhow::Result;
use metalstrap_release::host::{Host, Identity};

use super::Machine;
use crate::config::Place;
use crate::credentials;
use crate::failure::{Code, coded};
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
        match credentials::refusal(Path::new("/sys")).filter(|_| !host.credentials.is_empty()) {
            Some(text) if self.is_netboot() => return Err(coded(Code::Credentials, text)),
            Some(text) => self.tell.warn("host-config", text),
            None => {}
        }
        Ok(())
    }
}
