//! A disk that fails where a test says so.

use std::fmt;
use std::fs::File;
use std::io;
use std::sync::Arc;

use super::{Disk, READING, WRITING, as_u64, at, block_device::flushing};

/// What is about to be done to a [`Faulty`] disk; offset and length in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A read of so many bytes at an offset.
    Read(u64, u64),
    /// A write of so many bytes at an offset.
    Write(u64, u64),
    /// A flush.
    Flush,
    /// What the kernel keeps is dropped.
    Forget,
}

/// Decides what fails: `None` lets the operation through.
type Judge = dyn Fn(Operation) -> Option<io::Error> + Send + Sync;

/// Passes to another disk what its judge lets through.
pub struct Faulty {
    inner: Arc<dyn Disk>,
    judge: Box<Judge>,
    tears: bool,
    passed_by: bool,
}

impl Faulty {
    /// `judge` is asked before every operation on `inner`; the error it returns is the operation's.
    pub fn new(inner: Arc<dyn Disk>, judge: impl Fn(Operation) -> Option<io::Error> + Send + Sync + 'static) -> Self {
        Self { inner, judge: Box::new(judge), tears: false, passed_by: false }
    }

    /// A write that fails leaves the first half of its sectors on the disk.
    #[must_use]
    pub fn tearing(self) -> Self {
        Self { tears: true, ..self }
    }

    /// Writes may go past it through the direct file of `inner`, where that has one: the judge is not asked about those, only
    /// about reads, flushes and what is written otherwise.
    #[must_use]
    pub fn passed_by(self) -> Self {
        Self { passed_by: true, ..self }
    }

    /// Bytes that a failing write of `length` leaves.
    fn torn(&self, length: usize) -> usize {
        let sector = usize::try_from(self.sector_size()).unwrap_or(usize::MAX).max(1);
        if self.tears { length / sector / 2 * sector } else { 0 }
    }
}

impl fmt::Debug for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faulty").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl Disk for Faulty {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match (self.judge)(Operation::Read(offset, as_u64(buffer.len()))) {
            Some(error) => Err(at(READING, self, offset, as_u64(buffer.len()), error)),
            None => self.inner.read_at(offset, buffer),
        }
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        match (self.judge)(Operation::Write(offset, as_u64(bytes.len()))) {
            Some(error) => {
                let torn = bytes.get(..self.torn(bytes.len())).unwrap_or_default();
                if !torn.is_empty() {
                    self.inner.write_at(offset, torn)?;
                }
                Err(at(WRITING, self, offset, as_u64(bytes.len()), error))
            }
            None => self.inner.write_at(offset, bytes),
        }
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        match (self.judge)(Operation::Write(offset, length)) {
            Some(error) => Err(at(WRITING, self, offset, length, error)),
            None => self.inner.write_zeroes(offset, length),
        }
    }

    fn direct_file(&self, offset: u64, length: u64) -> Option<Arc<File>> {
        self.inner.direct_file(offset, length).filter(|_| self.passed_by)
    }

    fn flush(&self) -> io::Result<()> {
        match (self.judge)(Operation::Flush) {
            Some(error) => Err(flushing(&self.describe(), error)),
            None => self.inner.flush(),
        }
    }

    fn forget_cache(&self) -> io::Result<()> {
        (self.judge)(Operation::Forget).map_or_else(|| self.inner.forget_cache(), Err)
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
