//! `metalstrap completions`: what a shell needs to complete our command lines.

use std::io::{Write as _, stdout};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::{Shell, generate};

/// Prints the script that makes a shell complete metalstrap's command lines.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap completions bash > /usr/share/bash-completion/completions/metalstrap
It prints the script, not JSON.")]
pub struct Args {
    /// Which shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

impl Args {
    /// Prints the script.
    ///
    /// # Errors
    /// When nobody takes it.
    pub fn run(self) -> Result<()> {
        let mut script = Vec::new();
        generate(self.shell, &mut crate::Cli::command(), "metalstrap", &mut script);
        stdout().write_all(&script).context("writing the script")
    }
}
