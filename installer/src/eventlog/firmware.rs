//! The event log of the machine's firmware, as the kernel has it.

use std::path::{Path, PathBuf};

use crate::bounded;

/// Where it is.
pub const LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// Where the installed OS has what the installer had of it: after a kexec the kernel's is not always whole.
pub const HANDED_OVER: &str = "/run/metalstrap/binary_bios_measurements";

/// The whole of it, at `path`, if it has at most so many bytes; `None` where it cannot be had: nothing relies on that it is there.
#[must_use]
pub fn read(path: &Path, most: u64) -> Option<Vec<u8>> {
    bounded::read(path, most).unwrap_or_else(|error| {
        log::warn!("{error:#}");
        None
    })
}

/// The longest of those at `paths`, or the first of them; `None` also where all are empty.
#[must_use]
pub fn longest(paths: &[PathBuf], most: u64) -> Option<Vec<u8>> {
    let logs = paths.iter().filter_map(|path| read(path, most));
    logs.reduce(|longest, log| if log.len() > longest.len() { log } else { longest }).filter(|log| !log.is_empty())
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
}
