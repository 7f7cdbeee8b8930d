//! A file of a file system that is there, read from any of its bytes on.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;

use super::listing::Listed;
use super::volume::{ReadAt, Volume, VolumeError};

/// The bytes of a file, wherever its clusters are.
pub struct Reader<'a> {
    /// Where they lie on the partition, in order.
    runs: Vec<Range<u64>>,
    size: u64,
    at: u64,
    read: ReadAt<'a>,
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader")
            .field("runs", &self.runs)
            .field("size", &self.size)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl Volume {
    /// Opens a file that a directory lists.
    ///
    /// # Errors
    /// Its clusters are no chain of its length.
    pub fn reader<'a>(&self, file: &Listed, read: ReadAt<'a>) -> Result<Reader<'a>, VolumeError> {
        let size = u64::from(file.size);
        Ok(Reader { runs: self.runs(file.cluster, size)?, size, at: 0, read })
    }
}

impl Reader<'_> {
    /// The next bytes that lie in a row on the partition: where they begin, and how many they are.
    fn piece(&self) -> Option<(u64, u64)> {
        let mut before = 0_u64;
        for run in &self.runs {
            let length = run.end.saturating_sub(run.start);
            let end = before.saturating_add(length).min(self.size);
            if self.at < end {
                return Some((run.start.saturating_add(self.at - before), end - self.at));
            }
            before = before.saturating_add(length);
        }
        None
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((start, length)) = self.piece() else { return Ok(0) };
        let length = usize::try_from(length).map_or(buffer.len(), |length| length.min(buffer.len()));
        let Some(buffer) = buffer.get_mut(..length) else { return Ok(0) };
        (self.read)(start, buffer)?;
        self.at = self.at.saturating_add(u64::try_from(length).unwrap_or_default());
        Ok(length)
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.size.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
