//! `metalstrap attest challenge`: asks a machine that has introduced itself.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use metalstrap_release::attest::{Introduction, Pending};
use serde_json::json;

use super::pcrs::{DEFAULT, Pcrs};
use super::{read, state};
use crate::{files, output};

/// Makes the challenge for a machine that has introduced itself.
///
/// Only the TPM that has both keys of the introduction can answer it, and only with a quote that it makes now.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap attest challenge introduction.json --out challenge.json --state state.json
The state is for `attest verify`, once; who has it could answer the challenge. It prints one line of JSON: the challenge's
id and the name of the endorsement key.")]
pub struct Args {
    /// What the machine says of itself
    #[arg(value_name = "INTRODUCTION")]
    introduction: PathBuf,
    /// File for the challenge; there must be none of that name
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// File for what the answer is judged by; there must be none of that name
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    /// The PCRs that are to be quoted
    #[arg(long, value_name = "LIST", default_value = DEFAULT, value_parser = Pcrs::parse)]
    pcrs: Pcrs,
}

impl Args {
    /// Writes both files.
    ///
    /// # Errors
    /// The introduction is none, or a file cannot be written; neither is left then but the state, which is of no use.
    pub fn run(self) -> Result<()> {
        let introduction = Introduction::parse(&read(&self.introduction, "introduction")?)
            .with_context(|| format!("checking {}", self.introduction.display()))?;
        let ek = introduction.ek()?.id();
        let pending = Pending::begin(introduction, self.pcrs.0)?;
        let mut challenge = serde_json::to_vec_pretty(&pending.challenge).context("encoding the challenge")?;
        challenge.push(b'\n');
        state::keep(&self.state, &pending)?;
        files::create(&self.out, &challenge, 0o644)?;
        output::print(&json!({"id": pending.challenge.id, "ek": ek, "pcrs": pending.challenge.pcrs}))
    }
}
