//! Standard output: one line of JSON.

use std::io::{Write as _, stdout};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Prints the result of a verb.
///
/// # Errors
/// When nobody takes it.
pub fn print(result: &Value) -> Result<()> {
    writeln!(stdout(), "{result}").context("writing the result")
}
