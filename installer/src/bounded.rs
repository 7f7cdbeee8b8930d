//! Files that are read whole, or not if they are longer than they may be.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// A file of at most so many bytes; `None` if it is not there.
///
/// # Errors
/// It cannot be read, or is longer.
pub fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    let what = || format!("reading {}", path.display());
    if !path.exists() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(what)?;
    file.take(most.saturating_add(1)).read_to_end(&mut bytes).with_context(what)?;
    if u64::try_from(bytes.len())? > most {
        bail!("{} has more than {most} bytes", path.display());
    }
    Ok(Some(bytes))
}
