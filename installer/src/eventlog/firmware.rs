//! The event log of the machine's firmware, as the kernel has it.

use std::fs::File;
use std::io;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use crate::bounded;

/// Where it is.
pub const LOG: &str = "/sys/kernel/security/tpm0/binary_bios_measurements";

/// The whole of it, at `path`; `None` where the kernel has none. Nothing relies on that it is there.
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
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_too_long_is_an_error_with_both_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        assert_eq!(read(&path, 4).unwrap(), None);
        std::fs::write(&path, b"1234").unwrap();
        assert_eq!(read(&path, 4).unwrap().unwrap(), b"1234");
        std::fs::write(&path, b"123456").unwrap();
        let text = format!("{} has 6 bytes, more than 4", path.display());
        assert_eq!(format!("{:#}", read(&path, 4).unwrap_err()), text);
        let text = format!("reading {}: Is a directory (os error 21)", directory.path().display());
        assert_eq!(format!("{:#}", read(directory.path(), 4).unwrap_err()), text);
    }
}
