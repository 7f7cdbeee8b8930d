//! MBR partition tables, as far as knowing that there is one and where its partitions lie.

use std::io;

use super::{OldArea, SECTOR_SIZES, old_tables};
use crate::disk::Disk;
use crate::gpt::is_protective;

/// No chain of logical partitions is followed farther.
const MOST_LOGICAL: usize = 128;
/// Bytes of a sector that mean something, whatever its size.
const RECORD: usize = 512;

struct Slot {
    kind: u8,
    start: u64,
    sectors: u64,
}

/// Partitions of an MBR table; `None` when there is none (a protective one is none, nor is a boot sector of FAT or NTFS). It
/// counts in sectors, and does not say of how many bytes: whoever wrote it may have seen others, behind another adapter or
/// bridge. So they are counted both ways, first in those of the disk: what is wrong of it costs a wipe little.
///
/// # Errors
/// The device's.
pub(super) fn read(disk: &dyn Disk) -> io::Result<Option<Vec<OldArea>>> {
    let Some(first) = record(disk, Some(0))? else { return Ok(None) };
    let Some(slots) = slots(&first) else { return Ok(None) };
    if is_protective(&first) || slots.is_empty() || is_boot_sector(&first) {
        return Ok(None);
    }
    let own = u64::from(disk.sector_size());
    let mut areas = Vec::new();
    for sector in std::iter::once(own).chain(SECTOR_SIZES.into_iter().filter(|size| *size != own)) {
        for slot in &slots {
            if is_extended(slot.kind) {
                old_tables::add(&mut areas, logical(disk, sector, slot.start)?);
            }
            old_tables::add(&mut areas, area(disk, sector, slot.start, slot).into_iter().collect());
        }
    }
    Ok(Some(areas))
}

/// The record at `offset`; `None` if that is not on the disk.
fn record(disk: &dyn Disk, offset: Option<u64>) -> io::Result<Option<[u8; RECORD]>> {
    let mut bytes = [0; RECORD];
    Ok(old_tables::read(disk, offset, &mut bytes)?.then_some(bytes))
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

fn area(disk: &dyn Disk, sector: u64, start: u64, slot: &Slot) -> Option<OldArea> {
    let end = start.saturating_add(slot.sectors).saturating_mul(sector);
    old_tables::in_sectors(disk, start.checked_mul(sector)?, end, slot.kind == 0xef)
}

/// The chain of extended boot records that begins in sector `extended`, and the partitions that they name: the first entry of each
/// is a partition (relative to its record), the second the next record (relative to the first).
fn logical(disk: &dyn Disk, sector: u64, extended: u64) -> io::Result<Vec<OldArea>> {
    let (mut areas, mut at) = (Vec::new(), extended);
    for _ in 0..MOST_LOGICAL {
        let Some(slots) = record(disk, at.checked_mul(sector))?.and_then(|record| slots(&record)) else { break };
        areas.extend(old_tables::table(disk, at.saturating_mul(sector), sector));
        for slot in slots.iter().filter(|slot| !is_extended(slot.kind)) {
            areas.extend(at.checked_add(slot.start).and_then(|start| area(disk, sector, start, slot)));
        }
        let next = slots.iter().find(|slot| is_extended(slot.kind)).and_then(|slot| extended.checked_add(slot.start));
        match next {
            Some(next) if next != at => at = next,
            _ => break,
        }
    }
    Ok(areas)
}
