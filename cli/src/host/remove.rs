//! `metalstrap host remove`: takes a machine's host config back.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use metalstrap_release::host::HostKey;
use serde_json::json;

use super::{ROLES, parse_key};
use crate::output;
use crate::repository::Repository;
use crate::signing::SigningArgs;
use crate::stage::StageArgs;

/// Removes the host config of a machine, and signs. The machine then gets the next one that fits it, or none.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap host remove serial-7XK2J13 --repository /srv/os --keys keys
It needs the keys hosts.pem, snapshot.pem and timestamp.pem. It prints one line of JSON: the key, versions and expiry of
the metadata.")]
pub struct Args {
    /// `uuid-…`, `serial-…`, `mac-…` or `default`
    #[arg(value_parser = parse_key)]
    key: HostKey,
    /// Directory of the repository
    #[arg(long, value_name = "DIR")]
    repository: PathBuf,
    #[command(flatten)]
    signing: SigningArgs,
    #[command(flatten)]
    stage: StageArgs,
}

impl Args {
    /// Removes the host config, signs and prints the result.
    ///
    /// # Errors
    /// When there is none, or a key is missing.
    pub fn run(self) -> Result<()> {
        let signing = self.signing.open_or_stage(&ROLES, &self.stage)?;
        let repository = Repository::open(&self.repository)?;
        let mut draft = signing.existing(&repository)?;
        ensure!(draft.remove_host(&self.key.target()), "the repository has no host config for {}", self.key);
        let done = signing.conclude(&repository, draft, true)?;
        output::print(
            &json!({"host": self.key.to_string(), "removed": done.is_published(), "metadata": done.summary()}),
        )
    }
}
