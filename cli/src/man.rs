//! `metalstrap man`: the manual pages, from the same text as the help.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use serde_json::json;

use crate::output;

/// Writes the manual pages of metalstrap and its verbs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap man --output /usr/share/man/man1
It prints one line of JSON with the names of the pages.")]
pub struct Args {
    /// Directory of the pages; made if there is none
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
}

impl Args {
    /// Writes the pages and prints their names.
    ///
    /// # Errors
    /// When one cannot be written.
    pub fn run(self) -> Result<()> {
        fs::create_dir_all(&self.output).with_context(|| format!("making {}", self.output.display()))?;
        let mut command = crate::Cli::command().disable_help_subcommand(true);
        command.build();
        let mut pages = Vec::new();
        write(&self.output, &command, &mut pages)?;
        pages.sort();
        output::print(&json!({"man": self.output, "pages": pages}))
    }
}

/// The page of a command, and those of the commands in it.
fn write(directory: &Path, command: &Command, pages: &mut Vec<String>) -> Result<()> {
    let man = Man::new(command.clone());
    let page = man.get_filename();
    let path = directory.join(&page);
    let writing = || format!("writing {}", path.display());
    let mut bytes = Vec::new();
    man.render(&mut bytes).with_context(writing)?;
    fs::write(&path, bytes).with_context(writing)?;
    pages.push(page);
    command.get_subcommands().try_for_each(|verb| write(directory, verb, pages))
}
