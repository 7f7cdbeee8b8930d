//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::cases::{self, Case};
use crate::peers::Tool;
use crate::{docs, inside, run};

/// Measures metalstrap against its peers: same machine, same server, same images, tools in turn, medians.
#[derive(Debug, Parser)]
#[command(
    name = "bench",
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  bench                                                                    # all of it: two to three hours, as root
  bench --cases fresh --tools metalstrap,curl-zstd-dd --runs 1 --size 256M
  bench --docs                                                             # docs/performance.md from result.json"
)]
struct Command {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    options: Options,
}

/// What is measured, and how often.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Only these cases
    #[arg(long, value_name = "CASE,…", value_delimiter = ',', value_enum)]
    pub cases: Vec<Case>,
    /// Only these tools
    #[arg(long, value_name = "TOOL,…", value_delimiter = ',', value_enum)]
    pub tools: Vec<Tool>,
    /// Repetitions of each; medians are told
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=99))]
    pub runs: u32,
    /// Bytes of real files in the image
    #[arg(long, value_name = "SIZE", default_value = "2200M", value_parser = size)]
    pub size: u64,
    /// Where images, payloads and results go
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../out/bench"))]
    pub out: PathBuf,
    /// What `make images` has made
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../out"))]
    pub built: PathBuf,
    /// The installer [default: the release build]
    #[arg(long, value_name = "FILE")]
    pub installer: Option<PathBuf>,
    /// Writes the table and the plot of docs/performance.md from result.json, and measures nothing
    #[arg(long)]
    pub docs: bool,
}

impl Options {
    /// Whether it is all cases, with all tools.
    pub fn is_all(&self) -> bool {
        self.cases.is_empty() && self.tools.is_empty()
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Runs a command and writes what it used to a file.
    #[command(hide = true)]
    Exec {
        #[arg(long)]
        report: PathBuf,
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// Parses a number of bytes, with K, M or G for powers of 1024.
fn size(text: &str) -> Result<u64, String> {
    let shift = [('K', 10_u32), ('M', 20), ('G', 30)].into_iter().find(|(unit, _)| text.ends_with(*unit));
    let (digits, shift) = shift.map_or((text, 0), |(unit, shift)| (text.trim_end_matches(unit), shift));
    let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.ok_or_else(|| "not a number of bytes, as 4096, 256M or 2G".to_owned())
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let command = Command::parse();
    let done = match command.verb {
        Some(Verb::Exec { report, command }) => run::exec(&report, &command),
        None => bench(command.options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(mut options: Options) -> Result<()> {
    std::fs::create_dir_all(&options.out).with_context(|| format!("making {}", options.out.display()))?;
    for path in [&mut options.out, &mut options.built] {
        *path = path.canonicalize().with_context(|| format!("finding {}", path.display()))?;
    }
    if options.docs {
        return docs::write(&options.out);
    }
    inside::enter(&options.out)?;
    cases::run(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bytes_or_powers_of_1024() {
        assert_eq!(["4096", "1K", "256M", "2G"].map(|text| size(text).unwrap()), [4096, 1024, 256 << 20, 2 << 30]);
        assert_eq!(size("2T").unwrap_err(), "not a number of bytes, as 4096, 256M or 2G");
        assert_eq!(size("99999999999G").unwrap_err(), "not a number of bytes, as 4096, 256M or 2G");
    }
}
