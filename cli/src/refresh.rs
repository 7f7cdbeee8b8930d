//! `metalstrap refresh`: signs a repository's metadata anew before it expires.

use std::path::PathBuf;

use anyhow::Result;
use metalstrap_release::metadata::{Draft, RoleName};
use serde_json::json;

use crate::clock::{self, DAY};
use crate::output;
use crate::repository::Repository;
use crate::signing::{Signing, SigningArgs};
use crate::stage::StageArgs;

/// Signs timestamp and snapshot anew, and the lists of releases and host configs where they expire soon and their keys
/// are at hand. Publishes what `keygen --rotate` has made.
///
/// For cron: daily, say. It warns of what will expire and cannot be signed here.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example, in a crontab:
  17 4 * * *  metalstrap refresh --repository /srv/os --keys /etc/metalstrap/keys
It needs the keys snapshot.pem and timestamp.pem, and root.json and delegation.json beside them. It prints one line of
JSON: the roles signed, versions and expiry of the metadata.")]
pub struct Args {
    /// Directory of the repository
    #[arg(long, value_name = "DIR")]
    repository: PathBuf,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    stage: StageArgs,
    /// Days before their end from which on the lists of releases and host configs are signed anew
    #[arg(long, value_name = "DAYS", default_value_t = 90)]
    within: u32,
}

impl Args {
    /// Signs, publishes and prints the result.
    ///
    /// # Errors
    /// A key that is missing, or a repository that is not of these keys.
    pub fn run(self) -> Result<()> {
        let signing = self.signing.open_or_stage(&[RoleName::Snapshot, RoleName::Timestamp], &self.stage)?;
        let repository = Repository::open(&self.repository)?;
        let mut draft = signing.following(&repository)?;
        self.renew(&signing, &mut draft)?;
        let roles: Vec<_> = draft.to_be_signed().into_iter().map(RoleName::as_str).collect();
        let done = signing.conclude(&repository, draft, true)?;
        let signed = if done.is_published() { roles } else { Vec::new() };
        output::print(&json!({"signed": signed, "metadata": done.summary()}))
    }

    /// Marks what expires soon, or warns of it.
    fn renew(&self, signing: &Signing, draft: &mut Draft) -> Result<()> {
        for (role, at) in draft.expires() {
            let left = at.saturating_sub(signing.now()) / DAY;
            if role == RoleName::Root || left >= i64::from(self.within) {
                continue;
            }
            match (role, signing.has(role)?) {
                (RoleName::Targets, true) => draft.renew_targets(None)?,
                (RoleName::Hosts, true) => draft.renew_hosts(),
                _ => eprintln!(
                    "warning: the {role} metadata expires in {left} days, at {}: run this where {role}.pem is",
                    clock::text(at)
                ),
            }
        }
        Ok(())
    }
}
