//! The disk as a seam: a block device, a plain file, and in tests a recording or a failing one.

use std::io;

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

    /// Returns when all that was written is on stable storage, the drive's cache included.
    ///
    /// # Errors
    /// The device's error: what was written before may be lost.
    fn flush(&self) -> io::Result<()>;

    /// How the disk is called in messages: kernel name and serial, or a path.
    fn describe(&self) -> String;
}
