//! The note that a disk was erased for an installation that is not complete yet.
//!
//! A run that is interrupted after the erasure finds a blank disk, as it would find one that somebody has only wiped the
//! table of; by the note it knows that it need not erase again. It goes before the partition table is written: whatever
//! comes later on this disk is new content.

use std::io;

use uuid::Uuid;

use crate::disk::Disk;
use crate::plan::Area;

/// Where it lies: behind every signature that is known in the first 1 MiB (ZFS has labels up to 512 KiB, LUKS2 a header
/// there), and before the first partition.
pub const MARK: Area = Area { start: 768 << 10, size: 4096 };

const MAGIC: &[u8] = b"metalstrap-erased 1\n";
/// Length of a UUID as text.
const UUID: usize = 36;

/// The note for the disk whose table will have this GUID, which comes from the disk's identity: on a copy of the disk it
/// counts for nothing.
fn note(disk: Uuid) -> Vec<u8> {
    let mut bytes = [MAGIC, disk.hyphenated().to_string().as_bytes(), b"\n"].concat();
    bytes.resize(4096, 0);
    bytes
}

/// Writes the note, and flushes.
///
/// # Errors
/// The device's.
pub fn write_mark(disk: &dyn Disk, guid: Uuid) -> io::Result<()> {
    disk.write_at(MARK.start, &note(guid))?;
    disk.flush()
}

/// Takes it away, and flushes.
///
/// # Errors
/// The device's.
pub fn remove_mark(disk: &dyn Disk) -> io::Result<()> {
    disk.write_at(MARK.start, &[0; 4096])?;
    disk.flush()
}

/// Whether it is there.
///
/// # Errors
/// The device's.
pub fn has_mark(disk: &dyn Disk, guid: Uuid) -> io::Result<bool> {
    let mut bytes = vec![0; 4096];
    disk.read_at(MARK.start, &mut bytes)?;
    Ok(bytes == note(guid))
}

/// Makes zeroes of a note in the first bytes of a disk; all else stays.
pub(crate) fn without_mark(head: &mut [u8]) {
    let (start, size) = (usize::try_from(MARK.start), usize::try_from(MARK.size));
    let (Ok(start), Ok(size)) = (start, size) else { return };
    let Some(place) = head.get_mut(start..start.saturating_add(size)) else { return };
    let text = place.get(MAGIC.len()..MAGIC.len() + UUID).and_then(|text| str::from_utf8(text).ok());
    if text.and_then(|text| Uuid::try_parse(text).ok()).is_some_and(|disk| place == note(disk)) {
        place.fill(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Memory;
    use crate::inventory::{Contents, inspect};

    #[test]
    fn a_noted_disk_counts_as_blank_and_only_for_itself() {
        let disk = Memory::new(8 << 20, 512);
        let (this, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert!(!has_mark(&disk, this).unwrap());
        write_mark(&disk, this).unwrap();
        assert_eq!(inspect(&disk).unwrap(), Contents::Blank);
        assert!(has_mark(&disk, this).unwrap() && !has_mark(&disk, other).unwrap());
        // Anything beside it is content.
        disk.write_at(MARK.start + 3584, &[1; 512]).unwrap();
        assert!(!has_mark(&disk, this).unwrap());
        let what = vec!["unknown data in the first 1 MiB"];
        assert_eq!(inspect(&disk).unwrap(), Contents::Foreign { what, areas: Vec::new() });
        remove_mark(&disk).unwrap();
        assert!(!has_mark(&disk, this).unwrap());
        assert_eq!(inspect(&disk).unwrap(), Contents::Blank);
    }
}
