//! `metalstrap finish`: publishes what was staged, once enough have signed it.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::metadata::RoleName;
use serde_json::json;

use crate::keygen::publish_root;
use crate::keys::{Keys, ROOT, read_root_value};
use crate::output;
use crate::repository::Repository;
use crate::signing::{SigningArgs, summary};
use crate::stage::Stage;

/// Publishes what was staged, once enough have signed it.
///
/// What was staged by publish, host or refresh joins the repository, and snapshot and timestamp are signed; the next root that
/// keygen has staged joins the directory of the keys, and the next `refresh` or `publish` publishes it. It refuses what too
/// few have signed, and what comes behind another state than the one that is there.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  metalstrap finish stage --repository /srv/os --keys keys
  metalstrap finish stage --keys keys                        # the next root
For a repository it needs the keys snapshot.pem and timestamp.pem. It prints one line of JSON: the stage, the roles `signed`, and
versions and expiry of the metadata, or of the root.")]
pub struct Args {
    /// The stage
    #[arg(value_name = "DIR")]
    stage: PathBuf,
    /// Directory of the repository; made if there is none
    #[arg(long, value_name = "DIR")]
    repository: Option<PathBuf>,
    #[command(flatten)]
    signing: SigningArgs,
}

impl Args {
    /// Checks, publishes and prints the result.
    ///
    /// # Errors
    /// Too few have signed, or the repository has moved on; then nothing of it has changed.
    pub fn run(self) -> Result<()> {
        let stage = Stage::open(&self.stage)?;
        if stage.is_of_root() {
            return self.finish_root(&stage);
        }
        let repository = self.repository.as_ref().context("this stage is of a repository: say --repository")?;
        let signing = self.signing.open(&[RoleName::Snapshot, RoleName::Timestamp])?;
        let repository = Repository::create(repository)?;
        let metadata = signing.finish(&repository, &stage)?;
        let signed: Vec<_> = stage.roles().iter().map(|role| role.as_str()).chain(["snapshot", "timestamp"]).collect();
        output::print(&json!({"stage": self.stage, "signed": signed, "metadata": summary(&metadata)}))
    }

    fn finish_root(&self, stage: &Stage) -> Result<()> {
        ensure!(self.repository.is_none(), "this stage is of a root, which joins the keys: say no --repository");
        let keys = Keys(self.signing.keys.clone());
        let (_, old) = read_root_value(&keys.path(ROOT))?;
        let staged = stage.staged()?;
        let staged = staged.first().context("the stage has no root")?;
        let next = staged.finish_root(&old).context("finishing what was staged")?;
        output::print(&publish_root(&keys, staged.version(), &next.bytes)?)
    }
}
