//! `metalstrap host`: which machine gets which release, and how.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use metalstrap_release::host::{Host, HostKey};
use metalstrap_release::metadata::{Metadata, RoleName, TargetFile};

use crate::clock;
use crate::keys::{Keys, read_root};
use crate::signing::load;

mod add;
mod check;
mod explain;
mod groups;
mod remove;
mod show;

/// The keys that sign host configs.
const ROLES: [RoleName; 3] = [RoleName::Hosts, RoleName::Snapshot, RoleName::Timestamp];

/// Adds, shows, checks and removes host configs: which machine gets which release, on which disk, by which policy.
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
        }
    }
}

/// A repository to look into, and whom to believe.
#[derive(Debug, clap::Args)]
struct LookArgs {
    /// Directory of the repository
    #[arg(long, value_name = "DIR")]
    repository: PathBuf,
    /// Directory of the keys, whose root is trusted
    #[arg(long, value_name = "DIR", required_unless_present = "root", conflicts_with = "root")]
    keys: Option<PathBuf>,
    /// Root metadata that is trusted
    #[arg(long, value_name = "FILE")]
    root: Option<PathBuf>,
}

impl LookArgs {
    /// The repository as a machine judges it now.
    fn load(&self) -> Result<Metadata> {
        let root = match (&self.root, &self.keys) {
            (Some(file), _) => read_root(file)?,
            (None, keys) => Keys(keys.clone().unwrap_or_default()).oldest_root()?,
        };
        load(&root, &self.repository, clock::now()?)
    }

    /// Reads a file that the metadata vouches for.
    fn bytes(&self, target: &TargetFile) -> Result<Vec<u8>> {
        target.read(&self.repository)
    }

    /// Reads a host config that the metadata vouches for.
    fn read(&self, target: &TargetFile) -> Result<(Vec<u8>, Host)> {
        let bytes = self.bytes(target)?;
        let host = Host::parse(&bytes).with_context(|| format!("checking {}", target.path))?;
        Ok((bytes, host))
    }
}

/// Reads what a person or a target's name says.
fn key_of(target: &str) -> Option<&str> {
    target.strip_prefix("host-")?.strip_suffix(".json")
}

/// Reads the file of a target.
trait ReadTarget {
    fn read(&self, repository: &std::path::Path) -> Result<Vec<u8>>;
}

impl ReadTarget for TargetFile {
    fn read(&self, repository: &std::path::Path) -> Result<Vec<u8>> {
        let path = repository.join(&self.path);
        let bytes = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let found = metalstrap_release::digest::Digest::of(&bytes);
        anyhow::ensure!(
            found == self.sha256,
            "{} has SHA-256 {found}, but the metadata says {}",
            path.display(),
            self.sha256
        );
        Ok(bytes)
    }
}

/// Parses the KEY of a command line.
fn parse_key(text: &str) -> Result<HostKey, String> {
    text.parse().map_err(|error: metalstrap_release::host::KeyError| error.to_string())
}
