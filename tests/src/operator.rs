//! Runs the operator's command and shows what was typed.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::artifacts::program;

/// Runs the operator's command; what it prints on standard output. What it says beside that goes to standard error.
///
/// # Errors
/// It was not built, or failed.
pub fn metalstrap(arguments: &[&OsStr]) -> Result<Vec<u8>> {
    let shown: Vec<_> = arguments.iter().map(|word| word.to_string_lossy()).collect();
    println!("$ metalstrap {}", shown.join(" "));
    let output = Command::new(program("debug", "metalstrap")?)
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .context("running metalstrap")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "metalstrap {} ended with {}: {printed}", shown.join(" "), output.status);
    Ok(output.stdout)
}

/// The same, where it prints one line of JSON.
///
/// # Errors
/// It was not built, failed, or printed something else.
pub fn metalstrap_json(arguments: &[&OsStr]) -> Result<Value> {
    serde_json::from_slice(&metalstrap(arguments)?).context("reading what metalstrap printed as JSON")
}

/// `name=path`.
#[must_use]
pub fn assigned(name: &str, path: &Path) -> OsString {
    let mut word = OsString::from(format!("{name}="));
    word.push(path);
    word
}
