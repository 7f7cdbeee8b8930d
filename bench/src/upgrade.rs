//! Two neighbouring releases of the demo OS.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// Checks that `old.raw` and `new.raw` are in `dir`, and returns what was upgraded, one package a line.
///
/// # Errors
/// They are not: they come from Debian's mirrors, which cannot be reached from where the bench runs.
pub fn releases(dir: &Path) -> Result<String> {
    let is_there = |name: &str| dir.join(name).exists();
    ensure!(["old.raw", "new.raw"].into_iter().all(is_there), "no releases in {}: run `make bench`", dir.display());
    let list = dir.join("packages");
    fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))
}
