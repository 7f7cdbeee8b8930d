//! A disk of which some sectors cannot be read. Where something of it is to stay, that is an error if they are among those that
//! say what there is; a wipe goes by what the others say, as whether it has happened already.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::contents::inspect_with;
use super::{Contents, inspect};
use crate::disk::Disk;
use crate::gpt;

/// With more bad sectors than this a disk says nothing: each of them may cost seconds.
const MOST_BAD: usize = 32;

/// What is on `disk`, read as the drive has it.
pub(crate) fn look(disk: &dyn Disk) -> Contents {
    // As long as a partition is in use, the kernel keeps what it has read of the disk, whatever is written to partitions.
    match disk.forget_cache().and_then(|()| inspect(disk)) {
        Ok(contents) => contents,
        Err(error) => unreadable(error, readable(disk)),
    }
}

/// What there is to say of a disk that failed with `error`.
pub(super) fn unreadable(error: io::Error, otherwise: Option<Box<Contents>>) -> Contents {
    Contents::Unreadable { error: format!("{:#}", anyhow::Error::new(error)), otherwise }
}

/// Whether `disk` still holds what it held when it was looked at.
///
/// # Errors
/// The device's, if it could be read then.
pub(super) fn still_holds(disk: &dyn Disk, held: &Contents) -> io::Result<bool> {
    match (inspect(disk), held) {
        (Err(_), Contents::Unreadable { otherwise: Some(otherwise), .. }) => {
            Ok(readable(disk).is_some_and(|now| now == *otherwise))
        }
        (found, _) => Ok(found? == *held),
    }
}

/// What the sectors say that can be read. `None` where too many cannot, or where neither copy of a partition table can: then
/// nobody knows whether the disk has been installed to.
fn readable(disk: &dyn Disk) -> Option<Box<Contents>> {
    if gpt::read(disk).is_err() && gpt::read_backup(disk).is_err() {
        return None;
    }
    let partly = Partly::new(disk);
    inspect_with(&partly, &partly).ok().map(Box::new)
}

/// A disk whose bad sectors read as zeroes, as long as they are few.
#[derive(Debug)]
pub(super) struct Partly<'a> {
    disk: &'a dyn Disk,
    /// Numbers of the bad sectors, which are not tried again.
    bad: Mutex<BTreeSet<u64>>,
}

impl<'a> Partly<'a> {
    pub(super) fn new(disk: &'a dyn Disk) -> Self {
        Self { disk, bad: Mutex::default() }
    }

    /// Whether a sector of these `size` bytes from `start` on is known to be bad.
    pub(super) fn has_bad_in(&self, start: u64, size: u64) -> bool {
        let sector = u64::from(self.disk.sector_size()).max(1);
        let end = start.saturating_add(size).div_ceil(sector);
        self.bad().range(start / sector..end).next().is_some()
    }

    fn bad(&self) -> MutexGuard<'_, BTreeSet<u64>> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fills `piece`, which lies in `sector`, from `offset`.
    fn read_piece(&self, sector: u64, offset: u64, piece: &mut [u8]) -> io::Result<()> {
        let is_known = self.bad().contains(&sector);
        if !is_known {
            let Err(error) = self.disk.read_at(offset, piece) else { return Ok(()) };
            let mut bad = self.bad();
            if bad.len() >= MOST_BAD {
                return Err(error);
            }
            bad.insert(sector);
        }
        piece.fill(0);
        Ok(())
    }
}

impl Disk for Partly<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn sector_size(&self) -> u32 {
        self.disk.sector_size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let length = u64::try_from(buffer.len()).map_err(io::Error::other)?;
        let Some(end) = offset.checked_add(length).filter(|end| *end <= self.size()) else {
            return self.disk.read_at(offset, buffer);
        };
        let sector = u64::from(self.sector_size()).max(1);
        if !self.has_bad_in(offset, length) && self.disk.read_at(offset, buffer).is_ok() {
            return Ok(());
        }
        let (mut rest, mut at) = (buffer, offset);
        while !rest.is_empty() {
            let next = (at / sector + 1).saturating_mul(sector).min(end);
            let (piece, more) = rest.split_at_mut(usize::try_from(next - at).map_err(io::Error::other)?);
            self.read_piece(at / sector, at, piece)?;
            rest = more;
            at = next;
        }
        Ok(())
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn write_zeroes(&self, _: u64, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn describe(&self) -> String {
        self.disk.describe()
    }
}

#[cfg(test)]
mod tests;
