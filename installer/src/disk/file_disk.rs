//! A plain file as a disk: an image that is made without a machine, and what tests write to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use super::block_device::{flushing, lock};
use super::direct::Descriptors;
use super::{Disk, READING, WRITING, as_u64, at, check, zeroes};
use crate::failure::{Code, WithCode as _, coded};

/// A plain file, locked like a block device. Its length is the disk's size and never changes.
#[derive(Debug)]
pub struct FileDisk {
    files: Descriptors,
    path: PathBuf,
    size: u64,
    sector_size: u32,
}

impl FileDisk {
    /// Opens `path`, an existing plain file, as a disk with sectors of `sector_size` bytes.
    ///
    /// # Errors
    /// [`Code::DiskInUse`] if it is locked; [`Code::DiskIo`] if it cannot be opened, is no plain file or is not whole
    /// sectors.
    pub fn open(path: &Path, sector_size: u32) -> Result<Self> {
        let name = path.display().to_string();
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let file = opened.code(Code::DiskIo, || format!("opening disk {name}"))?;
        let metadata = file.metadata().code(Code::DiskIo, || format!("opening disk {name}"))?;
        let size = metadata.len();
        if !metadata.is_file() {
            return Err(coded(Code::DiskIo, format!("{name} is not a plain file")));
        }
        if !matches!(sector_size, 512 | 4096) || size % u64::from(sector_size) != 0 {
            return Err(coded(Code::DiskIo, format!("{name} has {size} bytes, not whole sectors of {sector_size}")));
        }
        lock(&file, &name, Duration::ZERO)?;
        Ok(Self { files: Descriptors::new(file), path: path.to_owned(), size, sector_size })
    }
}

impl Drop for FileDisk {
    /// Not left to the last close: a child that is between fork and exec has a copy of the descriptor, and the lock with it.
    fn drop(&mut self) {
        // If it fails, the close remains.
        let _ = self.files.file().unlock();
    }
}

impl Disk for FileDisk {
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
        let length = as_u64(bytes.len());
        check(self, WRITING, offset, length)?;
        self.files.write_all_at(bytes, offset).map_err(|error| at(WRITING, self, offset, length, error))
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        check(self, WRITING, offset, length)?;
        match self.files.zero(offset, length).map_err(|error| at(WRITING, self, offset, length, error))? {
            true => Ok(()),
            false => zeroes::write(self, offset, length),
        }
    }

    fn direct_file(&self, offset: u64, length: u64) -> Option<Arc<File>> {
        let direct = self.files.direct(offset, length)?;
        check(self, WRITING, offset, length).is_ok().then(|| Arc::clone(direct))
    }

    fn flush(&self) -> io::Result<()> {
        self.files.file().sync_all().map_err(|error| flushing(&self.describe(), error))
    }

    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn forget_cache(&self) -> io::Result<()> {
        use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
        Ok(posix_fadvise(self.files.file().as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
    }
}
