//! Erasing by reads and writes alone: zeroes, and discards.

use std::io;

use super::{Method, Outcome};
use crate::disk::Disk;
use crate::progress::Progress;

/// Zeroes and discards go in pieces of this many bytes, from the end of the disk to its start, where everybody looks first:
/// what is interrupted does not look like a blank disk.
const PIECE: u64 = 256 << 20;
/// What is zeroed at both ends when all is erased: a new key makes noise of the old content, where a blank disk has zeroes.
const ENDS: u64 = 1 << 20;

/// Zeroes or discards the whole disk.
///
/// # Errors
/// The device's.
pub(super) fn erase(disk: &dyn Disk, method: Method, progress: &Progress) -> io::Result<Outcome> {
    progress.expect(disk.size());
    let mut end = disk.size();
    while end > 0 {
        let start = (end - 1) / PIECE * PIECE;
        if start == 0 {
            // Everything behind it is gone for good before it goes.
            disk.flush()?;
        }
        match method {
            Method::Discard if !disk.discard(start, end - start)? => {
                return Ok(Outcome::Refused("it takes no discards".to_owned()));
            }
            Method::Discard => {}
            _ => disk.write_zeroes(start, end - start)?,
        }
        progress.advance(end - start);
        end = start;
    }
    disk.flush()?;
    Ok(Outcome::Done)
}

/// Makes both ends of the disk what a blank one has there.
///
/// # Errors
/// The device's.
pub(super) fn clear_ends(disk: &dyn Disk) -> io::Result<()> {
    let size = disk.size();
    let length = ENDS.min(size);
    disk.write_zeroes(size - length, length)?;
    disk.flush()?;
    disk.write_zeroes(0, length)?;
    disk.flush()
}
