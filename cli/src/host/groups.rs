//! `metalstrap host groups`: says what groups of machines get.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::host::{Groups, groups};
use serde_json::json;

use super::{ROLES, read_allowed, secure_boot};
use crate::output;
use crate::repository::Repository;
use crate::signing::SigningArgs;
use crate::stage::StageArgs;

/// Publishes the list of groups, instead of the one before, and signs.
///
/// A group has a name, patterns for the machines that belong to it, and their host config. A machine without a host config
/// of its own gets that of the first group it belongs to, else `default`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap host groups groups.json --repository /srv/os --keys keys
where groups.json is
  {\"format\": 1, \"groups\": [{\"name\": \"web\", \"match\": {\"serial\": \"7XK*\", \"product\": \"PowerEdge R6*\"},
    \"config\": {\"format\": 1, \"release\": {\"name\": \"debian\", \"version\": \"13.2\"}}}]}
It needs the keys hosts.pem, snapshot.pem and timestamp.pem. It prints one line of JSON: the groups' names, path and digest of
the list, whether it was `published` now, versions and expiry of the metadata.")]
pub struct Args {
    /// The list, as JSON; one without groups takes all of them back
    #[arg(value_name = "FILE")]
    list: PathBuf,
    /// Directory of the repository
    #[arg(long, value_name = "DIR")]
    repository: PathBuf,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    stage: StageArgs,
}

impl Args {
    /// Publishes the list, signs and prints the result.
    ///
    /// # Errors
    /// When it is none that machines take, names a release that is not there or not allowed, or a key is missing.
    pub fn run(self) -> Result<()> {
        let bytes = fs::read(&self.list).with_context(|| format!("reading the groups {}", self.list.display()))?;
        let list = Groups::parse(&bytes).context("checking the groups")?;
        let signing = self.signing.open_or_stage(&ROLES, &self.stage)?;
        let repository = Repository::open(&self.repository)?;
        let mut draft = signing.existing(&repository)?;
        let releases = draft.releases()?;
        let allowed = read_allowed(repository.directory(), draft.allowed()?.as_ref())?;
        for group in &list.groups {
            let name = &group.name;
            secure_boot::check(&group.config).with_context(|| format!("checking the group {name}"))?;
            let release = &group.config.release;
            ensure!(
                releases.contains_key(&release.target()),
                "the group {} gets {release}, but the repository has no such release: publish it first",
                group.name
            );
            if let Some(allowed) = &allowed {
                allowed.check(&format!("the host config group {}", group.name), release)?;
            }
        }
        let (path, sha256, size) = signing.place(&repository).add_target(groups::TARGET, &bytes)?;
        let added = draft.set_host(groups::TARGET, size, sha256)?;
        let done = signing.conclude(&repository, draft, added)?;
        let names: Vec<_> = list.groups.iter().map(|group| group.name.as_str()).collect();
        let (published, metadata) = (added && done.is_published(), done.summary());
        output::print(
            &json!({"groups": names, "config": path, "sha256": sha256, "published": published, "metadata": metadata}),
        )
    }
}
