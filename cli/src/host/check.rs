//! `metalstrap host check`: which host config a machine would get.

use anyhow::{Context as _, Result};
use metalstrap_release::host::Identity;
use metalstrap_release::manifest::Manifest;
use serde_json::json;

use super::{LookArgs, ReadTarget as _};
use crate::output;

/// Says which host config a machine would get, and why, and checks that its release is there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap host check --serial 7XK2J13 --mac 52:54:00:12:34:56 --repository /srv/os --keys keys
It prints one line of JSON: what was `looked_for` in its order, the `host` config found, and its release. The reasons
are on standard error.")]
pub struct Args {
    /// SMBIOS system UUID of the machine
    #[arg(long)]
    uuid: Option<String>,
    /// SMBIOS system serial number of the machine
    #[arg(long)]
    serial: Option<String>,
    /// Address of one of its Ethernet ports. May be repeated, in the machine's order
    #[arg(long)]
    mac: Vec<String>,
    #[command(flatten)]
    look: LookArgs,
}

impl Args {
    /// Prints what the machine would get.
    ///
    /// # Errors
    /// When it would get nothing, or the release is not there.
    pub fn run(self) -> Result<()> {
        let metadata = self.look.load()?;
        let identity = Identity { uuid: self.uuid, serial: self.serial, macs: self.mac };
        let given = identity.macs.len() + usize::from(identity.uuid.is_some()) + usize::from(identity.serial.is_some());
        let keys = identity.keys();
        if keys.len() < given.saturating_add(1) {
            eprintln!("some of what was given names no machine (firmware's placeholder, or no UUID or MAC): left out");
        }
        for key in &keys {
            let found = metadata.hosts.contains_key(&key.target());
            eprintln!("{key}: {}", if found { "there is a host config" } else { "no host config" });
            if found {
                break;
            }
        }
        let names: Vec<_> = keys.iter().map(ToString::to_string).collect();
        let found = keys.iter().find_map(|key| Some((key, metadata.hosts.get(&key.target())?)));
        let (key, target) = found
            .with_context(|| format!("the repository has no host config for this machine: {}", names.join(", ")))?;
        let (_, host) = self.look.read(target)?;
        let release = metadata.releases.get(&host.release.target());
        let release = release.with_context(|| format!("{key} says {}, but there is no such release", host.release))?;
        Manifest::parse(&release.read(&self.look.repository)?).with_context(|| format!("checking {}", release.path))?;
        output::print(&json!({
            "looked_for": names,
            "host": key.to_string(),
            "config": target.path,
            "release": host.release,
            "manifest": release.path,
        }))
    }
}
