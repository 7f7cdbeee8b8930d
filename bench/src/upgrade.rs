//! Two neighbouring releases of the demo OS.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::programs::run;

/// Makes `old.raw` and `new.raw` in `dir`, if they are not there, and returns what was upgraded, one package a line.
///
/// # Errors
/// The script's words: no network, or no target image.
pub fn releases(dir: &Path) -> Result<String> {
    let list = dir.join("packages");
    if !["old.raw", "new.raw", "packages"].iter().all(|name| dir.join(name).exists()) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/bench-releases");
        run("bash", [script.as_ref(), dir.as_os_str()])?;
    }
    fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))
}
