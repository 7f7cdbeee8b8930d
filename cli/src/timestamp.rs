//! `metalstrap timestamp`: renews a repository's timestamp alone.

use std::path::PathBuf;

use anyhow::Result;
use metalstrap_release::metadata::{Lifetimes, RoleName};
use serde_json::json;

use crate::keys::Keys;
use crate::passphrase::PassphraseArgs;
use crate::repository::Repository;
use crate::signing::{Signing, summary};
use crate::{clock, output};

/// Signs the timestamp anew, and nothing else: for a machine that has timestamp.pem and no other key.
///
/// While the timestamp holds for days and the snapshot for weeks, nobody can hide a new state for longer than days, and the
/// key of the snapshot is needed once in weeks (`metalstrap refresh`). It refuses to let the timestamp hold for longer than
/// the snapshot.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example, in a crontab:
  17 * * * *  metalstrap timestamp --repository /srv/os --keys /etc/metalstrap/keys --days 2
It needs the key timestamp.pem, and root.json beside it. It prints one line of JSON: the role signed, versions and expiry of
the metadata.")]
pub struct Args {
    /// Directory of the repository
    #[arg(long, value_name = "DIR")]
    repository: PathBuf,
    /// Directory of the keys
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// Days that the timestamp holds
    #[arg(long, value_name = "DAYS", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    days: u32,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Sign a repository that is older than what was signed with these keys last, as after a restore
    #[arg(long)]
    accept_older: bool,
    /// Seconds of Unix time that the signature counts from [default: now]
    #[arg(long, value_name = "SECONDS", hide = true)]
    now: Option<i64>,
}

impl Args {
    /// Signs, publishes and prints the result.
    ///
    /// # Errors
    /// A key that is missing, a repository that is not of these keys, or a snapshot that would end first.
    pub fn run(self) -> Result<()> {
        let role = RoleName::Timestamp;
        let keys = Keys(self.keys);
        keys.check_present(&[role])?;
        let lifetimes = Lifetimes { timestamp: self.days, ..Lifetimes::default() };
        let now = self.now.map_or_else(clock::now, Ok)?;
        let signing = Signing::new(keys, self.passphrase.open()?, lifetimes, now, self.accept_older);
        let repository = Repository::open(&self.repository)?;
        let draft = signing.existing(&repository)?;
        let metadata = signing.publish_timestamp(&repository, &draft)?;
        output::print(&json!({"signed": [role.as_str()], "metadata": summary(&metadata)}))
    }
}
