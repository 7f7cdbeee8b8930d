//! A disk in memory that holds only what was written: a partition table is laid out on one before it is written for
//! real, and tests have disks of any size.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Disk, READING, WRITING, as_u64, check};

/// Bytes of a piece, and the only sizes of sectors divide it.
const PAGE: u64 = 4096;
static ZEROES: [u8; 4096] = [0; 4096];

/// A disk in memory; what was never written reads as zeroes.
#[derive(Debug)]
pub struct Memory {
    size: u64,
    sector_size: u32,
    pages: Mutex<BTreeMap<u64, Vec<u8>>>,
}

impl Clone for Memory {
    fn clone(&self) -> Self {
        Self { size: self.size, sector_size: self.sector_size, pages: Mutex::new(self.lock().clone()) }
    }
}

impl Memory {
    /// An empty disk of `size` bytes.
    #[must_use]
    pub fn new(size: u64, sector_size: u32) -> Self {
        Self { size, sector_size, pages: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<u8>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Splits `length` bytes at `offset` into (page, start inside of the page, start inside of the bytes, length).
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let position = offset + u64::try_from(done).ok()?;
        let inside = usize::try_from(position % PAGE).ok()?;
        let here = (length - done).min(usize::try_from(PAGE).ok()? - inside);
        let piece = (position / PAGE, inside, done, here);
        done += here;
        (here > 0).then_some(piece)
    })
}

impl Disk for Memory {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check(self, READING, offset, as_u64(buffer.len()))?;
        let pages = self.lock();
        for (page, inside, done, length) in pieces(offset, buffer.len()) {
            let Some(target) = buffer.get_mut(done..done + length) else { continue };
            match pages.get(&page).and_then(|bytes| bytes.get(inside..inside + length)) {
                Some(bytes) => target.copy_from_slice(bytes),
                None => target.fill(0),
            }
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        check(self, WRITING, offset, as_u64(bytes.len()))?;
        let mut pages = self.lock();
        for (page, inside, done, length) in pieces(offset, bytes.len()) {
            let Some(source) = bytes.get(done..done + length) else { continue };
            if !pages.contains_key(&page) && ZEROES.get(..length) == Some(source) {
                continue;
            }
            let target = pages.entry(page).or_insert_with(|| vec![0; 4096]);
            if let Some(target) = target.get_mut(inside..inside + length) {
                target.copy_from_slice(source);
            }
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        check(self, WRITING, offset, length)?;
        let end = offset + length;
        self.lock().retain(|page, bytes| {
            let start = page.saturating_mul(PAGE);
            let inside = |position: u64| usize::try_from(position.clamp(start, start + PAGE) - start).unwrap_or(0);
            if let Some(gone) = bytes.get_mut(inside(offset)..inside(end)) {
                gone.fill(0);
            }
            start < offset || end < start + PAGE
        });
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
