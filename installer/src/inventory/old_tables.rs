//! What further tables say of where partitions were: a copy that differs from the one that counts, or lies where the disk ended
//! once, and GPTs that make no valid table: damaged, made for another sector size, or with a header longer than ours. Nobody is
//! sure of what they say, but on a disk that is wiped it costs little to believe them: what they name is wiped as well. So no
//! checksum is asked for.

use std::io;

use uuid::Uuid;

use super::{OldArea, SECTOR_SIZES};
use crate::disk::Disk;
use crate::plan::ESP_TYPE;

/// No table has more entries than this, so a header that says so is none.
const MOST_ENTRIES: u64 = 1024;
/// Bytes of a header that mean something.
const HEADER: usize = 92;

/// A header (UEFI specification 2.10, table 5.5).
struct Header {
    /// The sector of the other copy's header.
    other: u64,
    /// The sector of the first entry, how many there are, and the bytes of each.
    first: u64,
    entries: usize,
    bytes: usize,
}

/// Where the partitions of such tables lie, beside those of a table that is `known`; in whole sectors of the disk.
///
/// # Errors
/// The device's.
pub(super) fn areas(disk: &dyn Disk, known: Option<Vec<OldArea>>) -> io::Result<Vec<OldArea>> {
    let mut areas = known.unwrap_or_default();
    for sector in SECTOR_SIZES {
        for lba in [1, (disk.size() / sector).saturating_sub(1)] {
            let Some(header) = header(disk, sector, lba)? else { continue };
            add(&mut areas, partitions(disk, sector, &header)?);
            // The disk has ended there: behind another adapter, or before it was a larger one. Elsewhere it need not be read.
            add(&mut areas, moved(disk, sector, &header).unwrap_or_default());
        }
    }
    Ok(areas)
}

/// Adds those that are not there yet.
pub(super) fn add(areas: &mut Vec<OldArea>, more: Vec<OldArea>) {
    for area in more {
        if !areas.contains(&area) {
            areas.push(area);
        }
    }
}

/// The other copy of the table with this `header`: its partitions, and itself.
fn moved(disk: &dyn Disk, sector: u64, of: &Header) -> io::Result<Vec<OldArea>> {
    let ends = [1, (disk.size() / sector).saturating_sub(1)];
    let Some(start) = of.other.checked_mul(sector).filter(|_| !ends.contains(&of.other)) else {
        return Ok(Vec::new());
    };
    let Some(other) = header(disk, sector, of.other)? else { return Ok(Vec::new()) };
    let mut areas = partitions(disk, sector, &other)?;
    let entries = other.first.saturating_mul(sector);
    let bytes = u64::try_from(other.entries.saturating_mul(other.bytes)).map_err(io::Error::other)?;
    areas.extend(table(disk, entries, bytes).into_iter().chain(table(disk, start, sector)));
    Ok(areas)
}

/// The header in sector `lba`, with sectors of `sector` bytes; `None` if there is none.
fn header(disk: &dyn Disk, sector: u64, lba: u64) -> io::Result<Option<Header>> {
    let mut header = vec![0; HEADER];
    Ok(if read(disk, lba.checked_mul(sector), &mut header)? { parse(&header, lba) } else { None })
}

/// The partitions that a table's entries name.
fn partitions(disk: &dyn Disk, sector: u64, header: &Header) -> io::Result<Vec<OldArea>> {
    let mut table = vec![0; header.entries.checked_mul(header.bytes).unwrap_or_default()];
    if !read(disk, header.first.checked_mul(sector), &mut table)? {
        return Ok(Vec::new());
    }
    Ok(table.chunks_exact(header.bytes).filter_map(|entry| area(disk, sector, entry)).collect())
}

/// Fills `bytes` from `offset`; `false` if that is not on the disk.
pub(super) fn read(disk: &dyn Disk, offset: Option<u64>, bytes: &mut [u8]) -> io::Result<bool> {
    let length = u64::try_from(bytes.len()).map_err(io::Error::other)?;
    let end = offset.and_then(|offset| offset.checked_add(length));
    match (offset, end) {
        (Some(offset), Some(end)) if end <= disk.size() => disk.read_at(offset, bytes).map(|()| true),
        _ => Ok(false),
    }
}

/// What is in a header, if this is that of sector `lba`.
fn parse(header: &[u8], lba: u64) -> Option<Header> {
    let (entries, bytes) = (word(header, 80)?, word(header, 84)?);
    let is_header = header.starts_with(b"EFI PART") && long(header, 24)? == lba;
    let is_sane = (1..=MOST_ENTRIES).contains(&entries) && (128..=4096).contains(&bytes) && bytes.is_power_of_two();
    let number = |number: u64| usize::try_from(number).ok();
    if !is_header || !is_sane {
        return None;
    }
    let (other, first) = (long(header, 32)?, long(header, 72)?);
    Some(Header { other, first, entries: number(entries)?, bytes: number(bytes)? })
}

/// The partition of an entry (table 5.6), as far as it lies on the disk.
fn area(disk: &dyn Disk, sector: u64, entry: &[u8]) -> Option<OldArea> {
    let kind = Uuid::from_bytes_le(*entry.first_chunk()?);
    let (first, last) = (long(entry, 32)?, long(entry, 40)?);
    if kind.is_nil() || last < first {
        return None;
    }
    let (start, end) = (first.checked_mul(sector)?, last.saturating_add(1).saturating_mul(sector));
    in_sectors(disk, start, end, kind == ESP_TYPE)
}

/// The bytes from `start` to `end`, as far as they lie on the disk, in whole sectors of it.
pub(super) fn in_sectors(disk: &dyn Disk, start: u64, end: u64, boots: bool) -> Option<OldArea> {
    let own = u64::from(disk.sector_size()).max(1);
    let whole = disk.size() - disk.size() % own;
    let (start, end) = (start - start % own, end.min(whole).next_multiple_of(own));
    let size = end.checked_sub(start).filter(|size| *size > 0)?;
    Some(OldArea { start, size, boots, is_table: false })
}

/// A table, or a part of one, in the `size` bytes from `start` on.
pub(super) fn table(disk: &dyn Disk, start: u64, size: u64) -> Option<OldArea> {
    let area = in_sectors(disk, start, start.saturating_add(size), false)?;
    Some(OldArea { is_table: true, ..area })
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Memory;
    use crate::gpt::{Entry, Image, Table};
    use crate::inventory::{Contents, inspect};

    const MIB: u64 = 1 << 20;

    fn entry(index: u32, type_guid: Uuid, start: u64, size: u64) -> Entry {
        let (uuid, label) = (Uuid::from_u128(index.into()), "old".to_owned());
        Entry { index, type_guid, uuid, label, start, size, attributes: 0 }
    }

    /// The first and the last MiB of a disk with these partitions.
    fn ends(size: u64, sector: u32, partitions: Vec<Entry>) -> [Vec<u8>; 2] {
        let table = Table { disk_guid: Uuid::from_u128(9), partitions };
        let made = Memory::new(size, sector);
        Image::new(&table, size, sector).unwrap().write(&made).unwrap();
        [0, size - MIB].map(|start| {
            let mut piece = vec![0; 1 << 20];
            made.read_at(start, &mut piece).unwrap();
            piece
        })
    }

    /// A disk with sectors of `own` bytes and a table that was made for sectors of `sector` bytes.
    fn disk(own: u32, sector: u32) -> Memory {
        let step = u64::from(sector);
        let partitions = vec![
            entry(1, Uuid::from_u128(1), 9 * MIB, 4 * MIB),
            entry(2, ESP_TYPE, MIB, 8 * MIB),
            // Whole sectors of the size that the table was made for.
            entry(3, Uuid::from_u128(1), 20 * MIB + step, 3 * step),
        ];
        let disk = Memory::new(64 * MIB, own);
        let [first, last] = ends(64 * MIB, sector, partitions);
        disk.write_at(0, &first).unwrap();
        disk.write_at(63 * MIB, &last).unwrap();
        disk
    }

    fn found(disk: &Memory) -> Vec<(u64, u64, bool)> {
        let Contents::Foreign { what, areas } = inspect(disk).unwrap() else { panic!("not foreign") };
        assert_eq!(what, ["a GPT that is damaged or made for another sector size"]);
        areas.iter().map(|area| (area.start, area.size, area.boots)).collect()
    }

    /// Makes a byte another one.
    fn flip(disk: &Memory, at: u64) {
        let mut piece = [0; 4096];
        disk.read_at(at - at % 4096, &mut piece).unwrap();
        piece[usize::try_from(at % 4096).unwrap()] ^= 0xff;
        disk.write_at(at - at % 4096, &piece).unwrap();
    }

    #[test]
    fn a_table_for_another_sector_size_says_where_partitions_were() {
        let whole = [(9 * MIB, 4 * MIB, false), (MIB, 8 * MIB, true)];
        let last = |start: u64, size: u64| [whole[0], whole[1], (20 * MIB + start, size, false)];
        assert_eq!(found(&disk(4096, 512)), last(0, 4096));
        assert_eq!(found(&disk(512, 4096)), last(4096, 3 * 4096));
        // One copy is enough, as while it is wiped from its end to its start.
        let half = disk(4096, 512);
        half.write_at(63 * MIB, &vec![0; 1 << 20]).unwrap();
        assert_eq!(found(&half), last(0, 4096));
        half.write_at(0, &vec![0; 1 << 20]).unwrap();
        assert_eq!(inspect(&half).unwrap(), Contents::Blank);
    }

    #[test]
    fn a_table_whose_checksums_are_wrong_says_it_too_and_nonsense_says_nothing() {
        let both = |offset: u64| [512 + offset, 64 * MIB - 512 + offset];
        let damaged = |offset: u64| {
            let disk = disk(512, 512);
            both(offset).into_iter().for_each(|at| flip(&disk, at));
            found(&disk)
        };
        // The header's checksum, and its length.
        assert!(damaged(16).len() == 3 && damaged(12).len() == 3);
        // Its own place, where the entries are, how many there are, and how long each is.
        assert!([24, 79, 83, 84].into_iter().all(|offset| damaged(offset).is_empty()));
    }

    #[test]
    fn another_copy_of_a_table_that_counts_says_where_partitions_were_too() {
        let linux = Uuid::from_u128(1);
        let now = || vec![entry(1, linux, 2 * MIB, 4 * MIB)];
        let before = || {
            let gone = [entry(1, linux, 9 * MIB, 4 * MIB), entry(3, ESP_TYPE, 20 * MIB, 8 * MIB)];
            now().into_iter().map(|entry| Entry { index: 2, ..entry }).chain(gone).collect::<Vec<_>>()
        };
        let others = |disk: &Memory| -> Vec<_> {
            let Contents::Gpt { table, others, .. } = inspect(disk).unwrap() else { panic!("no table") };
            assert_eq!(table.partitions, now());
            assert!(others.iter().all(|area| area.is_table == (area.start >= 31 * MIB)), "{others:?}");
            others.iter().map(|area| (area.start, area.size, area.boots)).collect()
        };
        let gone = [(9 * MIB, 4 * MIB, false), (20 * MIB, 8 * MIB, true)];
        for sector in [512, 4096] {
            // The disk may have ended elsewhere: then the table that is left there goes as well.
            let (entries, header) = (128 * 128, u64::from(sector));
            let left = [(32 * MIB - header - entries, entries, false), (32 * MIB - header, header, false)];
            for (end, left) in [(64 * MIB, &[][..]), (32 * MIB, &left[..])] {
                let ([first, own], [_, other]) = (ends(end, sector, now()), ends(end, sector, before()));
                let disk = Memory::new(64 * MIB, sector);
                disk.write_at(0, &first).unwrap();
                disk.write_at(end - MIB, &own).unwrap();
                assert_eq!(others(&disk), left);
                disk.write_at(end - MIB, &other).unwrap();
                assert_eq!(others(&disk), [&gone[..], left].concat());
            }
        }
    }
}
