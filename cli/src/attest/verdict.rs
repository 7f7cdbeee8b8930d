//! How a verdict is printed, and the exit code that it is.

use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use metalstrap_installer::escapes;
use metalstrap_release::attest::{self, Outcome, Verdict};

use crate::output;

/// How the verdict is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a person.
    Text,
    /// One line of JSON.
    Json,
}

/// Prints a verdict. The code is 0 if the machine is accepted, else 1.
///
/// # Errors
/// It has no form in JSON.
pub fn print(verdict: &Verdict, format: Format) -> Result<ExitCode> {
    match format {
        Format::Json => println!("{}", output::line(verdict)?),
        Format::Text => print!("{}", escapes::lines(&text(verdict))),
    }
    Ok(if verdict.accepted { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
