//! `metalstrap attest report`: judges what the final event of a run has of the machine's TPM.

mod event;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use metalstrap_release::attest::{self, Introduction};

use super::expect::ExpectArgs;
use super::read;
use super::verdict::{self, Format};

/// Judges the attestation in a run's final event, as the machine has posted it. Nothing is asked over the network.
///
/// Findings are those of `attest verify`. Nobody has challenged the machine: that its TPM has the attestation key is `unknown`, and
/// the machine not accepted, unless an exchange of the same run has proved it (--introduction).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  metalstrap attest report events.ndjson --ek-roots tpm-roots --release manifest.json --host-config host.json
  metalstrap attest report events.ndjson --run 5b9c2f7e-8a41-4f0e-9d3c-1f2a3b4c5d6e --secure-boot on --format json
Exit code: 0 the machine is accepted, 1 it is not.")]
pub struct Args {
    /// Events as they were posted to `report_url`, or the one event `run` `finished`
    #[arg(value_name = "FILE")]
    events: PathBuf,
    /// The run, where the file has events of several
    #[arg(long, value_name = "ID")]
    run: Option<String>,
    /// Introduction of this machine in an exchange of the same run that has proved `ak`, as `attest serve --keep` keeps it
    #[arg(long, value_name = "FILE")]
    introduction: Option<PathBuf>,
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
    /// A file cannot be read, or there is no attestation in the events.
    pub fn run(self) -> Result<ExitCode> {
        let checking = || format!("checking {}", self.events.display());
        let report = event::find(&read(&self.events, "events")?, self.run.as_deref()).with_context(checking)?;
        let introduction = |path: &PathBuf| {
            let checking = || format!("checking {}", path.display());
            Introduction::parse(&read(path, "introduction")?).with_context(checking)
        };
        let proved = self.introduction.as_ref().map(introduction).transpose()?;
        let expected = self.expect.read()?.of(&report.attestation.introduction, &[])?;
        verdict::print(&attest::verify_report(&report, proved.as_ref(), &expected), self.format)
    }
}
