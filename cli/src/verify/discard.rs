//! A disk that keeps nothing: what would be written to it was checked before.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use metalstrap_installer::disk::{Disk, Region};

/// The disk.
#[derive(Debug)]
pub struct Discard {
    size: u64,
}

impl Discard {
    /// A part of `size` bytes of such a disk.
    pub fn region(size: u64) -> Region {
        Region { disk: Arc::new(Self { size }), start: 0, size }
    }
}

impl Disk for Discard {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        512
    }

    fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> io::Result<()> {
        Err(io::Error::new(ErrorKind::Unsupported, "nothing is kept"))
    }

    fn write_at(&self, _offset: u64, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn write_zeroes(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn describe(&self) -> String {
        "nowhere".to_owned()
    }
}
