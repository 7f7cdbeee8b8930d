//! Room on the disk: who runs out of it after an hour and a half has measured nothing of the largest images.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use nix::sys::statvfs::statvfs;

/// Bytes that everything below `out/bench` takes at the end of a run of all cases with images of the default size.
const ALL: u64 = 56_000_000_000;

/// Checks that `out` has room for a run of all cases; what an earlier one has left there counts, as it is used again or replaced.
///
/// # Errors
/// There is too little; or the disk does not say.
pub fn check(out: &Path) -> Result<()> {
    let asking = || format!("asking how much room {} has", out.display());
    let disk = statvfs(out).with_context(asking)?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    let taken = taken(out).with_context(asking)?;
    enough(free, taken).with_context(|| format!("looking for room below {}", out.display()))
}

fn enough(free: u64, taken: u64) -> Result<()> {
    let more = ALL.saturating_sub(taken);
    ensure!(
        free >= more,
        "all cases take {:.0} GB more there, and {:.0} GB are free: nothing was measured. Make room, or measure some of them (--cases)",
        more as f64 / 1e9,
        free as f64 / 1e9
    );
    Ok(())
}

/// Bytes that the files below a directory take on the disk.
fn taken(directory: &Path) -> Result<u64> {
    let mut sum = 0_u64;
    for entry in fs::read_dir(directory).with_context(|| format!("listing {}", directory.display()))? {
        let entry = entry.with_context(|| format!("listing {}", directory.display()))?;
        let metadata = entry.metadata().with_context(|| format!("looking at {}", entry.path().display()))?;
        let below = if metadata.is_dir() { taken(&entry.path())? } else { 0 };
        // stat(2): blocks are of 512 bytes, whatever the file system has.
        sum = sum.saturating_add(metadata.blocks().saturating_mul(512)).saturating_add(below);
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_already_needs_no_room() {
        enough(ALL, 0).unwrap();
        enough(6_000_000_000, 50_000_000_000).unwrap();
        enough(0, ALL + 1).unwrap();
        assert_eq!(
            enough(14_000_000_000, 20_000_000_000).unwrap_err().to_string(),
            "all cases take 36 GB more there, and 14 GB are free: nothing was measured. Make room, or measure some of them (--cases)"
        );
        let directory = tempfile::tempdir().unwrap();
        let before = taken(directory.path()).unwrap();
        fs::create_dir(directory.path().join("a")).unwrap();
        fs::write(directory.path().join("a/b"), vec![1; 100_000]).unwrap();
        let more = taken(directory.path()).unwrap() - before;
        assert!((100_000..200_000).contains(&more), "{more}");
    }
}
