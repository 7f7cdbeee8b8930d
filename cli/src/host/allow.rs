//! `metalstrap host allow`, `disallow` and `allowed`: which releases host configs may name. That is for whoever signs
//! releases to say, not for whoever signs host configs.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::allowed::{Allowed, TARGET};
use metalstrap_release::document::FORMAT;
use metalstrap_release::host::{Groups, Host, ReleaseName, groups};
use metalstrap_release::metadata::{Draft, RoleName};
use serde_json::json;

use super::{LookArgs, key_of, read_allowed, read_target};
use crate::output;
use crate::repository::Repository;
use crate::signing::SigningArgs;
use crate::stage::StageArgs;

/// The keys that sign the list.
const ROLES: [RoleName; 3] = [RoleName::Targets, RoleName::Snapshot, RoleName::Timestamp];

/// Adds releases to the list of those that host configs may name, and signs.
///
/// While there is no list, host configs may name every release that is published; from the first entry on, they may name
/// what is on the list and nothing else. `*` takes that back: it allows all.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  metalstrap host allow debian_13.2 --repository /srv/os --keys keys
  metalstrap host allow 'edge_*' --repository /srv/os --keys keys
It needs the keys targets.pem, snapshot.pem and timestamp.pem. It prints one line of JSON: what is `allowed` now, path and
digest of the list, whether it was `published` now, versions and expiry of the metadata.")]
pub struct AllowArgs {
    /// `NAME_VERSION`; * stands for any characters, ? for any one
    #[arg(value_name = "RELEASE", required = true, value_parser = parse_entry)]
    releases: Vec<String>,
    #[command(flatten)]
    list: ListArgs,
}

/// Takes releases from the list of those that host configs may name, and signs.
///
/// Machines whose host config names one of them are refused from then on. A list without entries allows none.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap host disallow debian_13.1 --repository /srv/os --keys keys
It needs the keys targets.pem, snapshot.pem and timestamp.pem. It prints one line of JSON, as `host allow`.")]
pub struct DisallowArgs {
    /// Entries of the list, as `host allowed` shows them
    #[arg(value_name = "RELEASE", required = true)]
    releases: Vec<String>,
    #[command(flatten)]
    list: ListArgs,
}

/// Shows the list of the releases that host configs may name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap host allowed --repository /srv/os --keys keys
It prints one line of JSON: what is `allowed`; null if there is no list, and every release may be named.")]
pub struct AllowedArgs {
    #[command(flatten)]
    look: LookArgs,
}

/// Where the list is, and what signs it.
#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Directory of the repository
    #[arg(long, value_name = "DIR")]
    repository: PathBuf,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    stage: StageArgs,
}

/// Parses the RELEASE of a command line.
fn parse_entry(text: &str) -> Result<String, String> {
    Allowed::check_entry(text).map(|()| text.to_owned()).map_err(|error| error.to_string())
}

impl AllowArgs {
    /// Changes the list, signs and prints the result.
    ///
    /// # Errors
    /// When a key is missing.
    pub fn run(self) -> Result<()> {
        self.list.change(|list| {
            let mut list = list.unwrap_or(Allowed { format: FORMAT, releases: Vec::new() });
            for entry in self.releases {
                if !list.releases.contains(&entry) {
                    list.releases.push(entry);
                }
            }
            Ok(list)
        })
    }
}

impl DisallowArgs {
    /// Changes the list, signs and prints the result.
    ///
    /// # Errors
    /// When there is no list or no such entry, or a key is missing.
    pub fn run(self) -> Result<()> {
        self.list.change(|list| {
            let mut list = list.context("there is no list of allowed releases: host configs may name every release")?;
            for entry in &self.releases {
                let there = list.releases.contains(entry);
                ensure!(there, "{entry} is no entry of the list of allowed releases: it has {:?}", list.releases);
                list.releases.retain(|other| other != entry);
            }
            Ok(list)
        })
    }
}

impl AllowedArgs {
    /// Prints the list.
    ///
    /// # Errors
    /// When the repository is one that machines refuse.
    pub fn run(self) -> Result<()> {
        let metadata = self.look.load()?;
        let list = self.look.allowed(&metadata)?;
        output::print(&json!({"allowed": list.map(|list| list.releases)}))
    }
}

impl ListArgs {
    fn change(&self, edit: impl FnOnce(Option<Allowed>) -> Result<Allowed>) -> Result<()> {
        let signing = self.signing.open_or_stage(&ROLES, &self.stage)?;
        let repository = Repository::open(&self.repository)?;
        let mut draft = signing.following(&repository)?;
        let list = edit(read_allowed(repository.directory(), draft.allowed()?.as_ref())?)?;
        let bytes = list.to_bytes().context("checking the list of allowed releases")?;
        let (path, sha256, size) = signing.place(&repository).add_target(TARGET, &bytes)?;
        let added = draft.set_allowed(size, sha256)?;
        for (host, release) in named(repository.directory(), &draft)? {
            if let Err(refused) = list.check(&host, &release) {
                eprintln!("warning: {refused}: its machines are refused from now on");
            }
        }
        let changed = draft.is_changed();
        let done = signing.conclude(&repository, draft, changed)?;
        let (published, metadata) = (added && done.is_published(), done.summary());
        output::print(
            &json!({"allowed": list.releases, "list": path, "sha256": sha256, "published": published, "metadata": metadata}),
        )
    }
}

/// Whose host configs there are, in words, and which release each of them names.
fn named(directory: &Path, draft: &Draft) -> Result<Vec<(String, ReleaseName)>> {
    let mut named = Vec::new();
    for (name, target) in draft.hosts()? {
        let bytes = read_target(directory, &target)?;
        let checking = || format!("checking {}", target.path);
        if name == groups::TARGET {
            let list = Groups::parse(&bytes).with_context(checking)?;
            named.extend(
                list.groups
                    .into_iter()
                    .map(|group| (format!("the host config group {}", group.name), group.config.release)),
            );
        } else {
            let host = Host::parse(&bytes).with_context(checking)?;
            named.push((format!("the host config {}", key_of(&name).unwrap_or(&name)), host.release));
        }
    }
    Ok(named)
}
