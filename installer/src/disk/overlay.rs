//! A disk that looks as if it had been written to, while nothing on it changes.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::{Disk, Memory, as_u64};

/// Reads another disk, except where something was written: that is kept in memory. To look at a disk with code that
/// repairs what it finds.
#[derive(Debug)]
pub struct Overlay {
    inner: Arc<dyn Disk>,
    written: Memory,
    /// Which pages of 4096 bytes are in memory.
    pages: std::sync::Mutex<std::collections::BTreeSet<u64>>,
}

const PAGE: u64 = 4096;

impl Overlay {
    /// Over `inner`. Memory grows with what is written.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        let written = Memory::new(inner.size(), inner.sector_size());
        Self { inner, written, pages: std::sync::Mutex::default() }
    }

    /// What was written of the `length` bytes from `start` on: blocks of 4096 bytes, counted from there, in runs. `start` is at
    /// the start of such a block of the disk.
    #[must_use]
    pub fn written(&self, start: u64, length: u64) -> Vec<Range<u64>> {
        let pages = self.pages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let first = start / PAGE;
        let mut runs: Vec<Range<u64>> = Vec::new();
        for page in pages.range(first..first.saturating_add(length / PAGE)) {
            let block = page.saturating_sub(first);
            match runs.last_mut().filter(|run| run.end == block) {
                Some(run) => run.end = block.saturating_add(1),
                None => runs.push(block..block.saturating_add(1)),
            }
        }
        runs
    }

    /// Brings the pages that a write touches into memory.
    fn cover(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut pages = self.pages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for page in offset / PAGE..offset.saturating_add(length).div_ceil(PAGE) {
            if !pages.contains(&page) {
                let start = page.saturating_mul(PAGE);
                let length = PAGE.min(self.size().saturating_sub(start));
                let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
                // A page that cannot be read is about to be replaced, or its rest stays unreadable as zeroes in memory.
                if self.inner.read_at(start, &mut bytes).is_ok() {
                    self.written.write_at(start, &bytes)?;
                }
                pages.insert(page);
            }
        }
        Ok(())
    }
}

impl Disk for Overlay {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = offset.saturating_add(as_u64(buffer.len()));
        let covered: Vec<u64> = {
            let pages = self.pages.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            pages.range(offset / PAGE..end.div_ceil(PAGE)).copied().collect()
        };
        let all = end.div_ceil(PAGE).saturating_sub(offset / PAGE);
        if covered.len() as u64 == all {
            return self.written.read_at(offset, buffer);
        }
        self.inner.read_at(offset, buffer)?;
        for page in covered {
            let (start, stop) = ((page * PAGE).max(offset), (page * PAGE + PAGE).min(end));
            let part = usize::try_from(start - offset).ok().zip(usize::try_from(stop - offset).ok());
            if let Some(part) = part.and_then(|(from, to)| buffer.get_mut(from..to)) {
                self.written.read_at(start, part)?;
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.cover(offset, as_u64(bytes.len()))?;
        self.written.write_at(offset, bytes)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}
