//! A disk that remembers every write and flush in order: for tests that ask what was written and when, and that play
//! the writes back up to a power cut.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Disk, Memory};

/// One thing that was done to a [`Recording`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// Bytes written at an offset.
    Write {
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// A flush that succeeded.
    Flush,
}

/// Passes everything to another disk, and remembers what changed it.
#[derive(Debug)]
pub struct Recording {
    inner: Arc<dyn Disk>,
    log: Mutex<Vec<Recorded>>,
}

impl Recording {
    /// Records what is done to `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        Self { inner, log: Mutex::default() }
    }

    /// Records what is done to an empty disk in memory.
    #[must_use]
    pub fn memory(size: u64, sector_size: u32) -> Self {
        Self::new(Arc::new(Memory::new(size, sector_size)))
    }

    /// What was done so far, in order.
    #[must_use]
    pub fn log(&self) -> Vec<Recorded> {
        self.lock().clone()
    }

    /// What was done since the last call; the record is empty afterwards.
    #[must_use]
    pub fn take(&self) -> Vec<Recorded> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Recorded>> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, what: Recorded) {
        self.lock().push(what);
    }
}

/// Does to `disk` what was recorded: with a part of a log, the disk as a power cut at that point leaves it.
///
/// # Errors
/// The disk's.
pub fn replay(log: &[Recorded], disk: &dyn Disk) -> io::Result<()> {
    log.iter().try_for_each(|what| match what {
        Recorded::Write { offset, bytes } => disk.write_at(*offset, bytes),
        Recorded::Flush => disk.flush(),
    })
}

impl Disk for Recording {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buffer)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, bytes)?;
        self.note(Recorded::Write { offset, bytes: bytes.to_vec() });
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inner.write_zeroes(offset, length)?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        self.note(Recorded::Write { offset, bytes: vec![0; length] });
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        // What is written while the device flushes may come too late for it.
        let before = self.lock().len();
        self.inner.flush()?;
        let mut log = self.lock();
        let place = before.min(log.len());
        log.insert(place, Recorded::Flush);
        Ok(())
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn forget_cache(&self) -> io::Result<()> {
        self.inner.forget_cache()
    }

    fn reread_table(&self) -> io::Result<()> {
        self.inner.reread_table()
    }
}
