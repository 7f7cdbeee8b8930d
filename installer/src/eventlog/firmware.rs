//! The event log of the machine's firmware, as the kernel has it.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::bounded;

/// Where it is.
pub const LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// Where the installed OS has what the installer had of it: after a kexec the kernel's is not always whole.
pub const HANDED_OVER: &str = "/run/metalstrap/binary_bios_measurements";

/// The whole of it, at `path`; `None` where the kernel has none, or an empty one. Nothing relies on that it is there.
///
/// # Errors
/// It cannot be read, or has more than `most` bytes: how many, the text says.
pub fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
    let read = bounded::read(path, most);
    if read.is_err() {
        // The kernel does not say how long it is, so that its bytes are counted.
        let length = File::open(path).and_then(|mut log| io::copy(&mut log, &mut io::sink()));
        let length = length.with_context(|| format!("reading {}", path.display()))?;
        ensure!(length <= most, "{} has {length} bytes, more than {most}", path.display());
    }
    Ok(read?.filter(|log| !log.is_empty()))
}

/// The longest of those at `paths` that can be had, of equally long ones the first.
#[must_use]
pub fn longest(paths: &[PathBuf], most: u64) -> Option<Vec<u8>> {
    let read_or_warn = |path: &PathBuf| {
        read(path, most).unwrap_or_else(|error| {
            log::warn!("{error:#}");
            None
        })
    };
    let logs = paths.iter().filter_map(read_or_warn);
    logs.reduce(|longest, log| if log.len() > longest.len() { log } else { longest })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn of_several_logs_the_longest_counts() {
        let at = tempfile::tempdir().unwrap();
        let paths = ["kernel", "copy"].map(|name| at.path().join(name));
        let longest = |kernel: Option<&str>, copy: Option<&str>| {
            for (path, text) in paths.iter().zip([kernel, copy]) {
                drop(fs::remove_file(path));
                if let Some(text) = text {
                    fs::write(path, text).unwrap();
                }
            }
            super::longest(&paths, 7).map(|log| String::from_utf8(log).unwrap())
        };
        assert_eq!(longest(None, None), None);
        assert_eq!(longest(Some(""), None), None);
        assert_eq!(longest(Some("kernel"), None).as_deref(), Some("kernel"));
        assert_eq!(longest(None, Some("copy")).as_deref(), Some("copy"));
        assert_eq!(longest(Some(""), Some("copy")).as_deref(), Some("copy"));
        assert_eq!(longest(Some("ker"), Some("copy")).as_deref(), Some("copy"));
        assert_eq!(longest(Some("kernel"), Some("copy")).as_deref(), Some("kernel"));
        assert_eq!(longest(Some("kern"), Some("copy")).as_deref(), Some("kern"));
        // One that cannot be had, here since it is too long, takes nothing from the other.
        assert_eq!(longest(Some("kern"), Some("too long")).as_deref(), Some("kern"));
    }
    #[test]
    fn one_that_is_too_long_is_an_error_with_both_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        assert_eq!(read(&path, 4).unwrap(), None);
        fs::write(&path, b"1234").unwrap();
        assert_eq!(read(&path, 4).unwrap().unwrap(), b"1234");
        fs::write(&path, b"123456").unwrap();
        let text = format!("{} has 6 bytes, more than 4", path.display());
        assert_eq!(format!("{:#}", read(&path, 4).unwrap_err()), text);
        let text = format!("reading {}: Is a directory (os error 21)", directory.path().display());
        assert_eq!(format!("{:#}", read(directory.path(), 4).unwrap_err()), text);
    }
}
