//! Parts of a disk that are one behind the other for who reads and writes them: a file in a file system that has put it
//! into several gaps.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::{Disk, READING, WRITING, as_u64, check};

/// Ranges of another disk, joined.
#[derive(Debug)]
pub struct Pieces {
    inner: Arc<dyn Disk>,
    /// Bytes of the other disk, whole sectors of it.
    pieces: Vec<Range<u64>>,
    size: u64,
}

impl Pieces {
    /// Joins `pieces`, byte ranges of `inner`, in this order.
    #[must_use]
    pub fn new(inner: Arc<dyn Disk>, pieces: Vec<Range<u64>>) -> Self {
        let size = pieces.iter().map(|piece| piece.end.saturating_sub(piece.start)).sum();
        Self { inner, pieces, size }
    }

    /// Calls `each` with the offset on the other disk and the part of `0..length` for each piece that a range touches.
    fn each(
        &self,
        offset: u64,
        length: u64,
        mut each: impl FnMut(u64, Range<usize>) -> io::Result<()>,
    ) -> io::Result<()> {
        let end = offset.saturating_add(length);
        let mut start = 0_u64;
        for piece in &self.pieces {
            let behind = start.saturating_add(piece.end.saturating_sub(piece.start));
            let (from, to) = (offset.max(start), end.min(behind));
            if from < to {
                let part = usize::try_from(from - offset).ok().zip(usize::try_from(to - offset).ok());
                let (first, last) = part.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
                each(piece.start.saturating_add(from - start), first..last)?;
            }
            start = behind;
        }
        Ok(())
    }
}

impl Disk for Pieces {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        check(self, READING, offset, as_u64(buffer.len()))?;
        self.each(offset, as_u64(buffer.len()), |at, part| {
            self.inner.read_at(at, buffer.get_mut(part).unwrap_or_default())
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        check(self, WRITING, offset, as_u64(bytes.len()))?;
        self.each(offset, as_u64(bytes.len()), |at, part| self.inner.write_at(at, bytes.get(part).unwrap_or_default()))
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        check(self, WRITING, offset, length)?;
        self.each(offset, length, |at, part| self.inner.write_zeroes(at, as_u64(part.end.saturating_sub(part.start))))
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }

    fn forget_cache(&self) -> io::Result<()> {
        self.inner.forget_cache()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Memory;

    #[test]
    fn bytes_go_where_the_pieces_are() {
        let memory = Arc::new(Memory::new(1 << 20, 512));
        let pieces = Pieces::new(Arc::clone(&memory) as Arc<_>, vec![8192..12_288, 512..1024, 20_480..28_672]);
        assert_eq!((pieces.size(), pieces.sector_size()), (12_800, 512));
        let bytes: Vec<u8> = (0..12_800_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        pieces.write_at(0, &bytes).unwrap();
        let read = |offset, length| {
            let mut found = vec![0; length];
            memory.read_at(offset, &mut found).unwrap();
            found
        };
        assert!(read(8192, 4096) == bytes[..4096] && read(512, 512) == bytes[4096..4608]);
        assert!(read(20_480, 8192) == bytes[4608..]);
        pieces.write_zeroes(3584, 1536).unwrap();
        let mut found = vec![1; 12_800];
        pieces.read_at(0, &mut found).unwrap();
        assert!(found[..3584] == bytes[..3584] && found[3584..5120] == [0; 1536] && found[5120..] == bytes[5120..]);
        let outside = pieces.write_at(12_288, &[0; 1024]).unwrap_err();
        let text = "writing bytes 12288 to 13312 of memory: the range is outside of the disk";
        assert_eq!(format!("{:#}", anyhow::Error::new(outside)), text);
    }
}
