//! A part of a disk, such as a partition, with offsets that count from its start.

use std::io;
use std::sync::Arc;

use metalstrap_release::verity::{BLOCK, Block, BlockStore};

use super::{Disk, READING, WRITING, as_u64, at};

/// `size` bytes of a disk from `start` on. Nothing outside of them can be reached through it.
#[derive(Debug, Clone)]
pub struct Region {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// First byte on the disk.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

impl Region {
    /// Fills `buffer` from `offset`, counted from the region's start.
    ///
    /// # Errors
    /// The disk's; a range outside of the region is one too.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.disk.read_at(self.position(READING, offset, as_u64(buffer.len()))?, buffer)
    }

    /// Writes all of `bytes` at `offset`, counted from the region's start.
    ///
    /// # Errors
    /// The disk's; a range outside of the region is one too, and nothing is written then.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write_at(self.position(WRITING, offset, as_u64(bytes.len()))?, bytes)
    }

    /// Makes `length` bytes from `offset` on, counted from the region's start, read as zeroes.
    ///
    /// # Errors
    /// The disk's; a range outside of the region is one too, and nothing is written then.
    pub fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.disk.write_zeroes(self.position(WRITING, offset, length)?, length)
    }

    /// The offset on the disk of `length` bytes at `offset`, which must lie in the region.
    pub(super) fn position(&self, doing: &'static str, offset: u64, length: u64) -> io::Result<u64> {
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.size);
        let position = self.start.checked_add(offset).filter(|_| inside);
        position.ok_or_else(|| {
            let text =
                format!("the range is outside of bytes {} to {}", self.start, self.start.saturating_add(self.size));
            let cause = io::Error::new(io::ErrorKind::InvalidInput, text);
            at(doing, self.disk.as_ref(), self.start.saturating_add(offset), length, cause)
        })
    }
}

impl BlockStore for Region {
    fn read_block(&self, index: u64, block: &mut Block) -> io::Result<()> {
        self.read_at(index.saturating_mul(BLOCK), block)
    }

    fn write_block(&self, index: u64, block: &Block) -> io::Result<()> {
        self.write_at(index.saturating_mul(BLOCK), block)
    }
}
