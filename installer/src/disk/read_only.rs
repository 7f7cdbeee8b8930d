//! A disk that is only looked at: neither opened for writing nor locked. Aligned reads go past the page cache, which is
//! another one for the whole disk than for its partitions, and may be older than either.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::direct::{self, Descriptors};
use super::{Disk, READING, WRITING, as_u64, at, check};

/// A block device or plain file, opened for reading.
#[derive(Debug)]
pub struct ReadOnly {
    files: Descriptors,
    path: PathBuf,
    size: u64,
    sector_size: u32,
}

impl ReadOnly {
    /// Opens the disk at `path`, of which size and sector size are known.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path, size: u64, sector_size: u32) -> io::Result<Self> {
        Ok(Self { files: Descriptors::read_only(File::open(path)?), path: path.to_owned(), size, sector_size })
    }
}

impl Disk for ReadOnly {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let length = as_u64(buffer.len());
        check(self, READING, offset, length)?;
        self.files.read_exact_at(buffer, offset).map_err(|error| at(READING, self, offset, length, error))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        Err(at(WRITING, self, offset, as_u64(bytes.len()), io::ErrorKind::ReadOnlyFilesystem.into()))
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        Err(at(WRITING, self, offset, length, io::ErrorKind::ReadOnlyFilesystem.into()))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn forget_cache(&self) -> io::Result<()> {
        direct::forget(self.files.file(), 0, self.size);
        Ok(())
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }
}
