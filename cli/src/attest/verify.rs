//! `metalstrap attest verify`: judges a machine's answer.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use metalstrap_release::attest::{self, Evidence};

use super::expect::ExpectArgs;
use super::verdict::{self, Format};
use super::{read, state};

/// Judges a machine's answer to a challenge, which answers it once. Nothing is asked over the network.
///
/// Each finding is `proved`, `refuted` or `unknown`. The machine is accepted if nothing is refuted, and its endorsement key, its
/// attestation key, its quote, the installer's log and all that is expected are proved.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  metalstrap attest verify evidence.json --state state.json --ek-roots tpm-roots
  metalstrap attest verify evidence.json --state state.json --ek-roots tpm-roots --release manifest.json \\
      --host-config host.json --secure-boot on --format json
Have the machine answer in the OS that the installer's kexec has started: after a boot from the disk nothing is left of what
--release and --host-config expect. After the kexec what --netboot expects is never proved: have the installer ask an
endpoint for that (attest serve).
Exit code: 0 the machine is accepted, 1 it is not.")]
pub struct Args {
    /// The machine's answer
    #[arg(value_name = "EVIDENCE")]
    evidence: PathBuf,
    /// What `attest challenge` has kept of the exchange
    #[arg(long, value_name = "FILE")]
    state: PathBuf,
    #[command(flatten)]
    expect: ExpectArgs,
    /// For a person, or one line of JSON
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

impl Args {
    /// Prints the verdict.
    ///
    /// # Errors
    /// A file cannot be read; the state was used before, or is of another exchange. It is used up only once all else is at hand.
    pub fn run(self) -> Result<ExitCode> {
        let evidence = Evidence::parse(&read(&self.evidence, "evidence")?)
            .with_context(|| format!("checking {}", self.evidence.display()))?;
        let expectations = self.expect.read()?;
        let pending = state::take(&self.state, &evidence)?;
        let expected = expectations.of(&pending.introduction, &[])?;
        verdict::print(&attest::verify(&pending, &evidence, &expected), self.format)
    }
}
