//! File systems of this machine's own files.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

/// Where the files come from.
const FROM: &str = "/usr";

/// Puts files of /usr, in the order of their names, below `to` until they are `least` bytes: hard links where that is
/// possible.
///
/// # Errors
/// There are not enough files, or no room.
pub fn collect(to: &Path, least: u64) -> Result<()> {
    let mut bytes = 0;
    fill(Path::new(FROM), &to.join("usr"), least, &mut bytes)?;
    ensure!(bytes >= least, "{FROM} has only {bytes} bytes of files, not {least}: choose a smaller --size");
    Ok(())
}

fn fill(from: &Path, to: &Path, least: u64, bytes: &mut u64) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("making {}", to.display()))?;
    let listing = || format!("listing {}", from.display());
    let entries = fs::read_dir(from).with_context(listing)?.collect::<Result<Vec<_>, _>>().with_context(listing)?;
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if *bytes >= least {
            break;
        }
        // Whoever installs packages meanwhile may have taken it away.
        let (Some(name), Ok(metadata)) = (path.file_name(), path.symlink_metadata()) else { continue };
        let at = to.join(name);
        let placing = || format!("placing {}", at.display());
        if metadata.is_dir() {
            fill(&path, &at, least, bytes)?;
        } else if metadata.is_symlink() {
            symlink(fs::read_link(&path).with_context(placing)?, &at).with_context(placing)?;
        } else if metadata.is_file() && metadata.len() <= least.saturating_sub(*bytes).saturating_add(least / 16) {
            // A large file at the end would make a small image much larger than asked for.
            fs::hard_link(&path, &at).or_else(|_| fs::copy(&path, &at).map(drop)).with_context(placing)?;
            *bytes = bytes.saturating_add(metadata.len());
        }
    }
    Ok(())
}
