//! `metalstrap attest verify`: judges a machine's answer.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use metalstrap_installer::escapes;
use metalstrap_release::attest::{self, Evidence, Outcome, Verdict};

use super::expect::ExpectArgs;
use super::{read, state};
use crate::output;

/// How the verdict is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a person.
    Text,
    /// One line of JSON.
    Json,
}

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
        let verdict = attest::verify(&pending, &evidence, &expected);
        match self.format {
            Format::Json => println!("{}", output::line(&verdict)?),
            Format::Text => print!("{}", escapes::lines(&text(&verdict))),
        }
        Ok(if verdict.accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// A line for each finding, and what follows from them.
fn text(verdict: &Verdict) -> String {
    let line = |finding: &attest::Finding| {
        let outcome = match finding.outcome {
            Outcome::Proved => "proved",
            Outcome::Refuted => "REFUTED",
            Outcome::Unknown => "unknown",
        };
        format!("{outcome:<8} {:<15} {}\n", finding.what, finding.text)
    };
    let findings: String = verdict.findings.iter().map(line).collect();
    let conclusion = if verdict.accepted { "accepted" } else { "NOT accepted" };
    format!("{findings}{conclusion}\n")
}

#[cfg(test)]
mod tests {
    use metalstrap_release::attest::Finding;
    use metalstrap_release::host::Secrets;

    use super::*;

    #[test]
    fn a_person_reads_a_line_for_each_finding() {
        let findings = vec![
            Finding::new("ak", Outcome::Proved, "it is"),
            Finding::new("quote", Outcome::Refuted, "it is not"),
            Finding::new("secure-boot", Outcome::Unknown, "who knows"),
        ];
        let verdict =
            Verdict { format: 1, id: "id".to_owned(), accepted: false, findings, secrets: Secrets::default() };
        let expected = "proved   ak              it is\n\
                        REFUTED  quote           it is not\n\
                        unknown  secure-boot     who knows\n\
                        NOT accepted\n";
        assert_eq!(text(&verdict), expected);
    }
}
