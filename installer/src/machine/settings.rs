//! The machine's settings, and which host configs it may get.

use std::fs;
use std::path::Path;

use anyhow::Result;
use metalstrap_release::discovery::{Discovery, Settings};
use metalstrap_release::host::{HostKey, Identity};

use super::Machine;
use crate::config::Place;
use crate::discovery::{self, Sources};
use crate::report::fields;
use crate::smbios;

impl Machine<'_> {
    /// Looks for settings outside of the site config, as far as no network is needed for it.
    ///
    /// # Errors
    /// [`Code::Discovery`](crate::failure::Code::Discovery): they cannot be taken.
    pub fn discover(&mut self, discovery: &mut Discovery) -> Result<()> {
        if self.is_netboot() {
            // To open a drive whose tray is out would draw it in (Linux drivers/cdrom/cdrom.c). Without any there is no such file.
            let _ = fs::write("/proc/sys/dev/cdrom/autoclose", "0\n");
        }
        let tell = self.tell;
        let Self { measurer, seams, .. } = self;
        let own = Sources::default();
        let sources = seams.sources.as_ref().unwrap_or(&own);
        let mut measure = |what: &str, bytes: &[u8]| super::measure(measurer, tell, what, bytes);
        sources.look(discovery, &mut measure, &|text| tell.say(text))?;
        sources.medium(discovery, &mut measure, &|text| tell.warn("discovery", text))
    }

    /// Whether anything but the site config may have settings.
    #[must_use]
    pub fn discovers(&self) -> bool {
        self.is_netboot() || self.seams.sources.is_some()
    }

    /// In the netboot image: shows what happens on these consoles too.
    pub fn show_on(&self, consoles: &[String]) {
        if self.is_netboot() {
            self.tell.show_on(consoles);
        }
    }

    /// Tells the settings that hold from here on, each with its source, and returns them.
    pub fn settle(&mut self, discovery: Discovery) -> Settings {
        discovery::lines(&discovery).iter().for_each(|line| self.tell.say(&format!("setting {line}")));
        let settings = discovery.finish();
        let chosen = serde_json::to_value(&settings.chosen).unwrap_or_default();
        self.tell.tell("discovery", "info", fields([("settings", chosen)]));
        self.host.clone_from(&settings.host);
        self.leaving.heed(&settings.site);
        settings
    }

    /// The keys that this machine's host config may have, the most particular first.
    #[must_use]
    pub fn host_keys(&self) -> Vec<HostKey> {
        match (self.place, &self.host) {
            (Place::Ordinary { host: Some(key), .. }, _) | (Place::Netboot, Some(key)) => vec![key.clone()],
            _ => self.identity().keys(),
        }
    }

    /// What this machine says of itself, by which it belongs to a group; nothing where somebody named the host config.
    #[must_use]
    pub fn identity(&self) -> Identity {
        match (self.place, &self.host) {
            (Place::Ordinary { host: Some(_), .. }, _) | (Place::Netboot, Some(_)) => Identity::default(),
            _ => smbios::identity(Path::new("/sys")),
        }
    }
}
