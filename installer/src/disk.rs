//! The disk as a seam: a block device, a plain file, and in tests a recording or a failing one.

mod block_device;
mod buffer;
mod direct;
mod faulty;
mod file_disk;
mod guarded;
mod identity;
mod memory;
mod overlay;
mod pieces;
mod read_only;
mod recording;
mod region;
mod writer;
mod zeroes;

use std::fs::File;
use std::io;
use std::sync::Arc;

pub use block_device::BlockDevice;
pub use buffer::{ALIGNMENT, Buffer, BufferPool};
pub use faulty::{Faulty, Operation};
pub use file_disk::FileDisk;
pub use guarded::Guarded;
pub use identity::Identity;
pub(crate) use identity::text as sysfs_text;
pub use memory::Memory;
pub use overlay::Overlay;
pub use pieces::Pieces;
pub use read_only::ReadOnly;
pub use recording::{Recorded, Recording, replay};
pub use region::Region;
pub use writer::Writer;

/// Where the installation goes. Offsets and lengths are bytes; every write is whole logical sectors.
pub trait Disk: Send + Sync + std::fmt::Debug {
    /// Bytes of the disk.
    fn size(&self) -> u64;

    /// Logical sector size in bytes: 512 or 4096.
    fn sector_size(&self) -> u32;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// The device's error; end of the disk inside the range is one too.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// The device's error.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Makes `length` bytes from `offset` on read as zeroes, by the fastest way that guarantees it.
    ///
    /// # Errors
    /// The device's error: what the range holds then is unknown.
    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        zeroes::write(self, offset, length)
    }

    /// The open file through which whole aligned buffers may be written past [`Self::write_at`], at the same offsets,
    /// if this disk has one and everything that `write_at` checks permits a write of `length` bytes at `offset` right
    /// now. `None` means: write by `write_at`, which does it or says why not. With `length` 0 it only asks whether there
    /// is such a file.
    ///
    /// A disk that looks at what is written (records it, fails it, counts it) has none: that is the default.
    fn direct_file(&self, offset: u64, length: u64) -> Option<Arc<File>> {
        let _ = (offset, length);
        None
    }

    /// Returns when all that was written is on stable storage, the drive's cache included, whichever way it was written:
    /// by `write_at`, by `write_zeroes` or through the `direct_file`.
    ///
    /// # Errors
    /// The device's error: what was written before may be lost.
    fn flush(&self) -> io::Result<()>;

    /// Tells the drive that the range is of no use any more; what it reads as afterwards is unknown. `false` if the drive
    /// cannot be told: that is the default. With `length` 0 it only asks whether it can.
    ///
    /// # Errors
    /// The device's error: what the range holds then is unknown.
    fn discard(&self, offset: u64, length: u64) -> io::Result<bool> {
        let _ = (offset, length);
        Ok(false)
    }

    /// The open file of the drive itself, for commands that are neither reads nor writes; `None` where there is no drive,
    /// or where all that is done to it is looked at: that is the default.
    ///
    /// # Errors
    /// It is no longer the disk that was opened.
    fn control(&self) -> io::Result<Option<File>> {
        Ok(None)
    }

    /// How the disk is called in messages: kernel name and serial, or a path.
    fn describe(&self) -> String;

    /// Drops what the kernel keeps of the disk in memory, so that the next reads come from the drive. Flush first.
    ///
    /// # Errors
    /// The device's error.
    fn forget_cache(&self) -> io::Result<()> {
        Ok(())
    }

    /// Has the kernel read the partition table anew, where there is a kernel view of it.
    ///
    /// # Errors
    /// The device's error, as `EBUSY` when a partition is in use. The table on the disk is good all the same.
    fn reread_table(&self) -> io::Result<()> {
        Ok(())
    }
}

/// An I/O error with the disk and the bytes it happened at; its source is the device's error.
#[derive(Debug, thiserror::Error)]
#[error("{doing} bytes {start} to {end} of {disk}")]
struct Failed {
    doing: &'static str,
    start: u64,
    end: u64,
    disk: String,
    #[source]
    cause: io::Error,
}

/// Adds disk and byte range to a device's error; its kind stays.
fn at<D: Disk + ?Sized>(doing: &'static str, disk: &D, start: u64, length: u64, cause: io::Error) -> io::Error {
    let end = start.saturating_add(length);
    io::Error::new(cause.kind(), Failed { doing, start, end, disk: disk.describe(), cause })
}

/// Refuses a range that leaves the disk or, but for a read, is not whole sectors: the devices would take it otherwise,
/// or grow.
fn check<D: Disk + ?Sized>(disk: &D, doing: &'static str, offset: u64, length: u64) -> io::Result<()> {
    let refuse = |text| Err(at(doing, disk, offset, length, io::Error::new(io::ErrorKind::InvalidInput, text)));
    if offset.checked_add(length).is_none_or(|end| end > disk.size()) {
        return refuse("the range is outside of the disk");
    }
    let sector = u64::from(disk.sector_size()).max(1);
    if doing != READING && (!offset.is_multiple_of(sector) || !length.is_multiple_of(sector)) {
        return refuse("the range is not whole sectors");
    }
    Ok(())
}

/// Is this offset or length right for direct I/O?
fn aligned(bytes: u64) -> bool {
    bytes.is_multiple_of(as_u64(ALIGNMENT))
}

/// Runs `work` on a thread that may wait for the disk.
///
/// # Errors
/// Those of `work`.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    use anyhow::Context as _;
    tokio::task::spawn_blocking(work).await.context("a thread that waits for the disk ended without a result")?
}

const READING: &str = "reading";
const WRITING: &str = "writing";
const DISCARDING: &str = "discarding";

/// A length of memory as a number of bytes: `usize` is at most 64 bits wide on every platform Rust has.
fn as_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
