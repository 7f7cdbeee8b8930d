//! `metalstrap sign`: shows what waits in a stage, and signs it.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::metadata::{Quorum, Staged};
use serde_json::{Value, json};

use crate::keys::{Keys, read_root_value};
use crate::output;
use crate::passphrase::PassphraseArgs;
use crate::stage::Stage;
use crate::terminal::confirm;

mod review;

use review::Review;

/// Shows what waits in a stage, and adds the signatures of the keys at hand.
///
/// A stage is what --stage of publish, host, refresh and keygen writes. It goes to whoever has keys, to one after the other
/// where several must sign, and back to `metalstrap finish`. What it changes is worked out here, from metadata that is
/// checked by the root beside the keys; the stage's word is not taken for it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  metalstrap sign stage --keys /media/stick/keys --show
  metalstrap sign stage --keys /media/stick/keys
It needs one or more of the keys that are asked for, and root.json beside them. It prints one line of JSON: for each role the
keys that have `signed` now, how many signatures there are and how many are `needed`; and whether it is `complete`.")]
pub struct Args {
    /// The stage
    #[arg(value_name = "DIR")]
    stage: PathBuf,
    /// Directory of the keys
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// Only show what would be signed
    #[arg(long)]
    show: bool,
    /// Sign without asking
    #[arg(long, conflicts_with = "show")]
    yes: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

impl Args {
    /// Shows, signs and prints the result.
    ///
    /// # Errors
    /// The stage is not what the keys' root vouches for; no key that is asked for is here; a person says no.
    pub fn run(self) -> Result<()> {
        let stage = Stage::open(&self.stage)?;
        let keys = Keys(self.keys.clone());
        let (own, root) = read_root_value(&keys.oldest_root_path()?)?;
        let newest = stage.climb(root.clone(), &own)?;
        let mut staged = stage.staged()?;
        let review = Review::new(&stage, &root, &newest, &staged)?;
        for line in review.lines(&staged)? {
            eprintln!("{line}");
        }
        let mut signed = Vec::new();
        if !self.show {
            let sure = self.yes || confirm("Sign this?").context("asking whether to sign: say --yes, or --show")?;
            ensure!(sure, "nothing is signed");
            let passphrases = self.passphrase.open()?;
            for one in &mut staged {
                let private = keys.private(one.role(), &passphrases)?;
                let quorums = review.quorums(one)?;
                signed.push(one.sign(&quorums, &private)?);
            }
            ensure!(
                signed.iter().any(|ids| !ids.is_empty()),
                "no key in {} is asked for that has not signed yet",
                self.keys.display()
            );
            staged.iter().try_for_each(|one| stage.write(one))?;
        }
        output::print(&self.result(&review, &staged, &signed)?)
    }

    fn result(&self, review: &Review, staged: &[Staged], signed: &[Vec<String>]) -> Result<Value> {
        let mut complete = true;
        let mut roles = Vec::new();
        for (index, one) in staged.iter().enumerate() {
            let quorums = review.quorums(one)?;
            complete &= one.check(&quorums).is_ok();
            let now = signed.get(index).cloned().unwrap_or_default();
            roles.push(json!({
                "role": one.role().as_str(),
                "version": one.version(),
                "signed": now,
                "signatures": quorums.iter().map(|quorum| count(one, quorum)).collect::<Vec<_>>(),
            }));
        }
        Ok(json!({"stage": self.stage, "roles": roles, "complete": complete}))
    }
}

fn count(one: &Staged, quorum: &Quorum) -> Value {
    let valid = one.signed_by(quorum).len();
    json!({"by": quorum.by(), "valid": valid, "needed": quorum.needed(), "required": quorum.is_required()})
}
