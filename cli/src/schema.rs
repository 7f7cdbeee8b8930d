//! `metalstrap schema`: prints the JSON Schema of a document.

use anyhow::{Context as _, Result};
use clap::builder::PossibleValuesParser;
use metalstrap_release::schema::{self, DOCUMENTS};

/// Prints the JSON Schema of the site config, the host config or the manifest, for editors and checks.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  metalstrap schema host > host.schema.json")]
pub struct Args {
    /// Which document
    #[arg(value_parser = PossibleValuesParser::new(DOCUMENTS))]
    document: String,
}

impl Args {
    /// Prints the schema.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub fn run(self) -> Result<()> {
        let schema =
            schema::of(&self.document).with_context(|| format!("looking for the schema of {}", self.document))?;
        println!("{}", serde_json::to_string_pretty(&schema).context("writing the schema")?);
        Ok(())
    }
}
