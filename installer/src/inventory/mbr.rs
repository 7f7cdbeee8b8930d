//! MBR partition tables, as far as knowing that there is one and where its partitions lie.

use std::io;

use super::OldArea;
use crate::disk::Disk;
use crate::gpt::is_protective;

/// No chain of logical partitions is followed farther.
const MOST_LOGICAL: usize = 128;

struct Slot {
    kind: u8,
    start: u64,
    sectors: u64,
}

/// Partitions of an MBR table; `None` when there is none (a protective one is none, nor is a boot sector of FAT or NTFS).
///
/// # Errors
/// The device's.
pub(super) fn read(disk: &dyn Disk) -> io::Result<Option<Vec<OldArea>>> {
    let Some(first) = sector(disk, 0)? else { return Ok(None) };
    let Some(slots) = slots(&first) else { return Ok(None) };
    if is_protective(&first) || slots.is_empty() || is_boot_sector(&first) {
        return Ok(None);
    }
    let mut areas = Vec::new();
    for slot in &slots {
        if is_extended(slot.kind) {
            logical(disk, slot.start, &mut areas)?;
        }
        areas.extend(area(disk, slot.start, slot));
    }
    Ok(Some(areas))
}

fn sector(disk: &dyn Disk, lba: u64) -> io::Result<Option<Vec<u8>>> {
    let size = u64::from(disk.sector_size());
    let offset = lba.checked_mul(size).filter(|offset| offset.checked_add(size).is_some_and(|end| end <= disk.size()));
    let Some(offset) = offset else { return Ok(None) };
    let mut bytes = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    disk.read_at(offset, &mut bytes)?;
    Ok(Some(bytes))
}

/// The used entries of a table's sector; `None` without the signature or with an entry that cannot be one.
fn slots(sector: &[u8]) -> Option<Vec<Slot>> {
    if sector.get(510..512) != Some(&[0x55, 0xaa]) {
        return None;
    }
    let mut slots = Vec::new();
    for entry in sector.get(446..510)?.chunks_exact(16) {
        let number = |at: usize| Some(u64::from(u32::from_le_bytes(*entry.get(at..at + 4)?.first_chunk()?)));
        let (active, kind, start, sectors) = (*entry.first()?, *entry.get(4)?, number(8)?, number(12)?);
        if !matches!(active, 0 | 0x80) {
            return None;
        }
        if kind != 0 && sectors != 0 {
            slots.push(Slot { kind, start, sectors });
        }
    }
    Some(slots)
}

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85)
}

/// FAT and NTFS have the same signature at their end and code where entries would be.
fn is_boot_sector(sector: &[u8]) -> bool {
    let at = |start: usize, text: &[u8]| sector.get(start..start + text.len()) == Some(text);
    at(0x36, b"FAT") || at(0x52, b"FAT32") || at(3, b"NTFS    ") || at(3, b"EXFAT   ")
}

fn area(disk: &dyn Disk, start: u64, slot: &Slot) -> Option<OldArea> {
    let size = u64::from(disk.sector_size());
    let start = start.checked_mul(size).filter(|start| *start < disk.size())?;
    let length = slot.sectors.checked_mul(size)?.min(disk.size() - start);
    Some(OldArea { start, size: length, boots: slot.kind == 0xef })
}

/// Follows the chain of extended boot records: the first entry of each is a partition (relative to its record), the
/// second the next record (relative to the first).
fn logical(disk: &dyn Disk, extended: u64, areas: &mut Vec<OldArea>) -> io::Result<()> {
    let mut record = extended;
    for _ in 0..MOST_LOGICAL {
        let Some(slots) = sector(disk, record)?.as_deref().and_then(slots) else { return Ok(()) };
        for slot in slots.iter().filter(|slot| !is_extended(slot.kind)) {
            areas.extend(record.checked_add(slot.start).and_then(|start| area(disk, start, slot)));
        }
        let next = slots.iter().find(|slot| is_extended(slot.kind)).and_then(|slot| extended.checked_add(slot.start));
        match next {
            Some(next) if next != record => record = next,
            _ => return Ok(()),
        }
    }
    Ok(())
}
