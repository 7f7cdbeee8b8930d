//! `metalstrap attest`: whether a machine is the one, and in the state, that it says.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Subcommand;

mod challenge;
mod ek_certificate;
mod expect;
mod pcrs;
mod report;
mod serve;
mod state;
#[cfg(test)]
mod testing;
mod verdict;
mod verify;

/// Attests machines: asks what their TPMs prove, and judges the answers.
///
/// What is proved and what is not is in docs/attestation.md.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap attest challenge introduction.json --out challenge.json --state state.json
  metalstrap attest verify evidence.json --state state.json --ek-roots tpm-roots --release manifest.json
  metalstrap attest report events.ndjson --ek-roots tpm-roots --release manifest.json")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Challenge(challenge::Args),
    Verify(Box<verify::Args>),
    Report(Box<report::Args>),
    Serve(Box<serve::Args>),
}

impl Args {
    /// Runs the verb.
    ///
    /// # Errors
    /// The verb's.
    pub fn run(self) -> Result<ExitCode> {
        match self.verb {
            Verb::Challenge(args) => args.run().map(|()| ExitCode::SUCCESS),
            Verb::Verify(args) => args.run(),
            Verb::Report(args) => args.run(),
            Verb::Serve(args) => args.run().map(|()| ExitCode::SUCCESS),
        }
    }
}

/// Reads a file, which errors call `what`.
fn read(path: &Path, what: &str) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("reading the {what} {}", path.display()))
}
