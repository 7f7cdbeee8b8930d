//! `metalstrap host show`: what the repository says of machines.

use anyhow::{Context as _, Result};
use metalstrap_release::host::{Groups, HostKey, groups};
use serde_json::{Value, json};

use super::{LookArgs, key_of, parse_key};
use crate::output;

/// Lists the host configs, or shows one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  metalstrap host show --repository /srv/os --keys keys
  metalstrap host show default --repository /srv/os --root site-root.json
It prints one line of JSON: `hosts` with key, path and release of each and the `groups`, or `host`, path and `config` of the one.")]
pub struct Args {
    /// `uuid-…`, `serial-…`, `mac-…` or `default` [default: all]
    #[arg(value_parser = parse_key)]
    key: Option<HostKey>,
    #[command(flatten)]
    look: LookArgs,
}

impl Args {
    /// Prints the list, or the host config.
    ///
    /// # Errors
    /// When there is none, or the repository is one that machines refuse.
    pub fn run(self) -> Result<()> {
        let metadata = self.look.load()?;
        let Some(key) = self.key else {
            let mut hosts = Vec::new();
            for (name, target) in metadata.hosts.iter().filter(|(name, _)| *name != groups::TARGET) {
                let (_, host) = self.look.read(target)?;
                hosts.push(json!({"host": key_of(name), "config": target.path, "release": host.release}));
            }
            let mut groups = Vec::new();
            if let Some(target) = metadata.hosts.get(groups::TARGET) {
                let list =
                    Groups::parse(&self.look.bytes(target)?).with_context(|| format!("checking {}", target.path))?;
                for group in list.groups {
                    groups.push(json!({"name": group.name, "match": group.members, "release": group.config.release}));
                }
            }
            return output::print(&json!({"hosts": hosts, "groups": groups}));
        };
        let target = metadata.hosts.get(&key.target());
        let target = target.with_context(|| format!("the repository has no host config for {key}"))?;
        let (bytes, _) = self.look.read(target)?;
        let config: Value = serde_json::from_slice(&bytes).context("reading the host config")?;
        output::print(&json!({"host": key.to_string(), "path": target.path, "config": config}))
    }
}
