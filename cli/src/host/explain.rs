//! `metalstrap host explain`: which host config a machine would get, and why.

use anyhow::{Context as _, Result};
use metalstrap_release::host::{Groups, Host, HostKey, HostPlace, Identity};
use metalstrap_release::manifest::Manifest;
use metalstrap_release::metadata::{Metadata, TargetFile};
use serde_json::json;

use super::LookArgs;
use crate::output;

/// Says which host config a machine would get, and why, and checks that its release is there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap host explain --serial 7XK2J13 --mac 52:54:00:12:34:56 --repository /srv/os --keys keys
It prints one line of JSON: what was `looked_for` in its order, the `host` config found, its release, the names and bytes of
its credentials, never what is in them, and the names of its secrets with the endorsement key that each is encrypted to. The
reasons are on standard error.")]
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
    /// SMBIOS manufacturer of the machine
    #[arg(long)]
    vendor: Option<String>,
    /// SMBIOS product name of the machine
    #[arg(long)]
    product: Option<String>,
    #[command(flatten)]
    look: LookArgs,
}

impl Args {
    /// Prints what the machine would get.
    ///
    /// # Errors
    /// When it would get nothing, or the release is not there or not allowed.
    pub fn run(self) -> Result<()> {
        let metadata = self.look.load()?;
        let macs = self.mac.clone();
        let (uuid, serial) = (self.uuid.clone(), self.serial.clone());
        let machine = Identity { uuid, serial, macs, vendor: self.vendor.clone(), product: self.product.clone() };
        let given = machine.macs.len() + usize::from(machine.uuid.is_some()) + usize::from(machine.serial.is_some());
        let keys = machine.keys();
        if keys.len() < given.saturating_add(1) {
            eprintln!("some of what was given names no machine (firmware's placeholder, or no UUID or MAC): left out");
        }
        let (found_by, target, host) = self.find(&metadata, &machine, &keys)?;
        let release = metadata.releases.get(&host.release.target());
        let release =
            release.with_context(|| format!("{found_by} says {}, but there is no such release", host.release))?;
        if let Some(allowed) = self.look.allowed(&metadata)? {
            allowed.check(&format!("the host config {found_by}"), &host.release)?;
        }
        Manifest::parse(&self.look.bytes(release)?).with_context(|| format!("checking {}", release.path))?;
        let credentials = host.credentials.of(&machine);
        let credentials = credentials.map_err(|problem| {
            anyhow::anyhow!("the credentials of {found_by} {problem} (as far as it was said here)")
        })?;
        let sizes = credentials.iter().map(|(name, content)| json!({"name": name, "bytes": content.len()}));
        let secrets = host.secrets.iter().map(|(name, secret)| json!({"name": name, "ek": secret.ek}));
        output::print(&json!({
            "looked_for": keys.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "host": found_by,
            "config": target.path,
            "release": host.release,
            "manifest": release.path,
            "credentials": sizes.collect::<Vec<_>>(),
            "secrets": secrets.collect::<Vec<_>>(),
        }))
    }

    /// Looks where a machine does, in its order, and says so: its own, the groups, the one for every machine.
    fn find<'a>(
        &self,
        metadata: &'a Metadata,
        machine: &Identity,
        keys: &[HostKey],
    ) -> Result<(String, &'a TargetFile, Host)> {
        for place in HostPlace::in_order(keys) {
            let target = metadata.hosts.get(&place.target());
            let found = match (place, target) {
                (HostPlace::Groups, None) => None,
                (HostPlace::Groups, Some(list)) => self.group(list, machine)?,
                (HostPlace::Key(key), None) => {
                    eprintln!("{key}: no host config");
                    None
                }
                (HostPlace::Key(key), Some(target)) => {
                    eprintln!("{key}: there is a host config");
                    Some((key.to_string(), target, self.look.read(target)?.1))
                }
            };
            if let Some(found) = found {
                return Ok(found);
            }
        }
        let names: Vec<_> = keys.iter().map(ToString::to_string).collect();
        anyhow::bail!("the repository has no host config for this machine: {}", names.join(", "))
    }

    /// Looks for the group that a machine belongs to, and says of each up to it whether it is the one.
    fn group<'a>(&self, list: &'a TargetFile, machine: &Identity) -> Result<Option<(String, &'a TargetFile, Host)>> {
        let groups = Groups::parse(&self.look.bytes(list)?).with_context(|| format!("checking {}", list.path))?;
        let group = groups.of(machine);
        for other in groups.groups.iter().take_while(|other| Some(*other) != group) {
            eprintln!("group {}: does not match", other.name);
        }
        Ok(group.map(|group| {
            eprintln!("group {}: all of its match holds", group.name);
            (format!("group {}", group.name), list, group.config.clone())
        }))
    }
}
