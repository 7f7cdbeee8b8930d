//! `metalstrap host`: which machine gets which release, and how.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Subcommand;
use metalstrap_release::allowed::Allowed;
use metalstrap_release::digest::Digest;
use metalstrap_release::host::{Host, HostKey};
use metalstrap_release::metadata::{Metadata, RoleName, TargetFile};

use crate::clock;
use crate::keys::{Keys, read_root};
use crate::signing::load;

mod add;
mod allow;
mod check;
mod explain;
mod groups;
mod remove;
mod secrets;
mod secure_boot;
mod show;

/// The keys that sign host configs.
const ROLES: [RoleName; 3] = [RoleName::Hosts, RoleName::Snapshot, RoleName::Timestamp];

/// Adds, shows, checks and removes host configs: which machine gets which release, on which disk, by which policy; and says
/// which releases they may name.
///
/// A host config's KEY says for which machine it is: `uuid-…` (SMBIOS), `serial-…` (SMBIOS), `mac-…`, or `default`. Groups of
/// machines have one list for all.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap host add default --release debian 13.2 --repository /srv/os --keys keys")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Add(Box<add::Args>),
    Show(show::Args),
    Groups(groups::Args),
    Check(check::Args),
    Explain(explain::Args),
    Remove(remove::Args),
    Allow(allow::AllowArgs),
    Disallow(allow::DisallowArgs),
    Allowed(allow::AllowedArgs),
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// The verb's.
    pub fn run(self) -> Result<()> {
        match self.verb {
            Verb::Add(args) => args.run(),
            Verb::Show(args) => args.run(),
            Verb::Groups(args) => args.run(),
            Verb::Check(args) => args.run(),
            Verb::Explain(args) => args.run(),
            Verb::Remove(args) => args.run(),
            Verb::Allow(args) => args.run(),
            Verb::Disallow(args) => args.run(),
            Verb::Allowed(args) => args.run(),
        }
    }
}

/// A repository to look into, and whom to believe.
#[derive(Debug, clap::Args)]
pub struct LookArgs {
    /// Directory of the repository
    #[arg(long, value_name = "DIR")]
    pub repository: PathBuf,
    /// Directory of the keys, whose root is trusted
    #[arg(long, value_name = "DIR", required_unless_present = "root", conflicts_with = "root")]
    pub keys: Option<PathBuf>,
    /// Root metadata that is trusted
    #[arg(long, value_name = "FILE")]
    pub root: Option<PathBuf>,
}

impl LookArgs {
    /// The repository as a machine judges it now.
    ///
    /// # Errors
    /// A machine would refuse it.
    pub fn load(&self) -> Result<Metadata> {
        let root = match (&self.root, &self.keys) {
            (Some(file), _) => read_root(file)?,
            (None, keys) => Keys(keys.clone().unwrap_or_default()).oldest_root()?,
        };
        load(&root, &self.repository, clock::now()?)
    }

    /// Reads a file that the metadata vouches for.
    ///
    /// # Errors
    /// It cannot be read, or is another one.
    pub fn bytes(&self, target: &TargetFile) -> Result<Vec<u8>> {
        read_target(&self.repository, target)
    }

    /// The list of the releases that host configs may name, if there is one.
    fn allowed(&self, metadata: &Metadata) -> Result<Option<Allowed>> {
        read_allowed(&self.repository, metadata.allowed.as_ref())
    }

    /// Reads a host config that the metadata vouches for.
    fn read(&self, target: &TargetFile) -> Result<(Vec<u8>, Host)> {
        let bytes = self.bytes(target)?;
        let host = Host::parse(&bytes).with_context(|| format!("checking {}", target.path))?;
        Ok((bytes, host))
    }
}

/// A host config as it is published.
fn encode(host: &Host) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(host).context("encoding the host config")?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Reads a file of the repository in `directory` that the metadata vouches for.
fn read_target(directory: &Path, target: &TargetFile) -> Result<Vec<u8>> {
    let path = directory.join(&target.path);
    let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    let (found, expected) = (Digest::of(&bytes), target.sha256);
    ensure!(found == expected, "{} has SHA-256 {found}, but the metadata says {expected}", path.display());
    Ok(bytes)
}

/// The list of the releases that host configs may name, if there is one.
fn read_allowed(directory: &Path, target: Option<&TargetFile>) -> Result<Option<Allowed>> {
    let read = |target: &TargetFile| {
        let bytes = read_target(directory, target)?;
        Allowed::parse(&bytes).with_context(|| format!("checking {}", target.path))
    };
    target.map(read).transpose()
}

/// Reads what a person or a target's name says.
fn key_of(target: &str) -> Option<&str> {
    target.strip_prefix("host-")?.strip_suffix(".json")
}

/// Parses the KEY of a command line.
fn parse_key(text: &str) -> Result<HostKey, String> {
    text.parse().map_err(|error: metalstrap_release::host::KeyError| error.to_string())
}
