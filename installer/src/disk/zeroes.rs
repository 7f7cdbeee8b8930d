//! Zeroes that are written as such, for disks that have no other way to get them.

use std::io;

use super::{Buffer, Disk, WRITING, as_u64, at};

/// Bytes of one write.
const AT_ONCE: u64 = 1 << 20;

/// Writes `length` zeroes at `offset`; nothing if the range leaves the disk.
pub(super) fn write<D: Disk + ?Sized>(disk: &D, offset: u64, length: u64) -> io::Result<()> {
    let Some(end) = offset.checked_add(length).filter(|end| *end <= disk.size()) else {
        let cause = io::Error::new(io::ErrorKind::InvalidInput, "the range is outside of the disk");
        return Err(at(WRITING, disk, offset, length, cause));
    };
    let mut zeroes = Buffer::new(usize::try_from(AT_ONCE.min(length)).map_err(io::Error::other)?);
    let mut start = offset;
    while start < end {
        zeroes.truncate(usize::try_from(end - start).unwrap_or(usize::MAX));
        disk.write_at(start, &zeroes)?;
        start += as_u64(zeroes.len());
    }
    Ok(())
}
