//! A disk that takes writes only where the plan says so: whatever goes wrong above it, nothing else is hit.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::{DISCARDING, Disk, WRITING, as_u64, at, check};

/// Passes everything to another disk but writes outside of what is allowed.
#[derive(Debug)]
pub struct Guarded {
    inner: Arc<dyn Disk>,
    /// Sorted, and neither touching nor overlapping.
    allowed: Vec<Range<u64>>,
    /// What may be discarded.
    discardable: Vec<Range<u64>>,
}

impl Guarded {
    /// Allows writes that lie within `ranges` (bytes of the disk), together where they touch or overlap.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>, ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut ranges: Vec<_> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        ranges.sort_by_key(|range| range.start);
        let mut allowed: Vec<Range<u64>> = Vec::with_capacity(ranges.len());
        for range in ranges {
            match allowed.last_mut().filter(|last| range.start <= last.end) {
                Some(last) => last.end = last.end.max(range.end),
                None => allowed.push(range),
            }
        }
        Self { inner, allowed, discardable: Vec::new() }
    }

    /// Allows discards that lie within one of `ranges`.
    #[must_use]
    pub fn discarding(self, ranges: impl IntoIterator<Item = Range<u64>>) -> Self {
        Self { discardable: ranges.into_iter().collect(), ..self }
    }

    fn allows(&self, offset: u64, length: u64) -> bool {
        let end = offset.saturating_add(length);
        self.allowed.iter().any(|range| range.start <= offset && end <= range.end)
    }

    /// Refuses a write outside of the plan.
    fn check(&self, offset: u64, length: u64) -> io::Result<()> {
        check(self, WRITING, offset, length)?;
        if !self.allows(offset, length) {
            let cause = io::Error::new(io::ErrorKind::PermissionDenied, "the plan does not write there");
            return Err(at(WRITING, self, offset, length, cause));
        }
        Ok(())
    }
}

impl Disk for Guarded {
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
        self.check(offset, as_u64(bytes.len()))?;
        self.inner.write_at(offset, bytes)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check(offset, length)?;
        self.inner.write_zeroes(offset, length)
    }

    fn direct_file(&self, offset: u64, length: u64) -> Option<Arc<File>> {
        self.check(offset, length).ok()?;
        self.inner.direct_file(offset, length)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<bool> {
        check(self, DISCARDING, offset, length)?;
        let end = offset.saturating_add(length);
        if length > 0 && !self.discardable.iter().any(|range| range.start <= offset && end <= range.end) {
            let cause = io::Error::new(io::ErrorKind::PermissionDenied, "the plan discards nothing there");
            return Err(at(DISCARDING, self, offset, length, cause));
        }
        self.inner.discard(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
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
