//! Writes of up to 1 MiB made of neighbours: what a drive takes at its full rate.

use anyhow::Result;

use crate::disk::Region;
use crate::failure::{Code, WithCode as _};

/// The longest write, in bytes.
const LONGEST: usize = 1 << 20;

/// Collects verified bytes and writes them.
#[derive(Debug)]
pub(super) struct Merge {
    region: Region,
    /// Where `pending` starts in the region.
    start: u64,
    pending: Vec<u8>,
    written: u64,
}

impl Merge {
    pub fn new(region: Region) -> Self {
        Self { region, start: 0, pending: Vec::with_capacity(LONGEST), written: 0 }
    }

    /// Takes `bytes` for `offset` of the region. They were verified.
    pub fn push(&mut self, offset: u64, mut bytes: &[u8]) -> Result<()> {
        if self.start + u64::try_from(self.pending.len())? != offset {
            self.finish()?;
            self.start = offset;
        }
        while !bytes.is_empty() {
            let room = LONGEST.saturating_sub(self.pending.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.pending.extend_from_slice(now);
            bytes = later;
            if self.pending.len() >= LONGEST {
                self.finish()?;
            }
        }
        Ok(())
    }

    /// Writes what is still pending.
    pub fn finish(&mut self) -> Result<()> {
        let length = u64::try_from(self.pending.len())?;
        if length > 0 {
            self.region
                .write_at(self.start, &self.pending)
                .code(Code::DiskIo, || "writing verified blocks".to_owned())?;
            self.start += length;
            self.written += length;
            self.pending.clear();
        }
        Ok(())
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }
}
