//! A partition table as a value, and reading one from a disk. Nothing on the disk is believed before it is checked.

use std::io::{self, Cursor};

use ::gpt::disk::LogicalBlockSize;
use ::gpt::header::{Header, read_header_from_arbitrary_device};
use serde::{Serialize, Serializer};
use uuid::Uuid;

use crate::disk::Disk;

/// No table has more entries than this; ours has 128.
const MOST_ENTRIES: u32 = 1024;

/// A partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Table {
    /// GUID of the disk.
    pub disk_guid: Uuid,
    /// The used entries, by index.
    pub partitions: Vec<Entry>,
}

/// A used entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Number of the partition, counted from 1.
    pub index: u32,
    /// What it is for.
    pub type_guid: Uuid,
    /// Its own UUID (`PARTUUID`).
    pub uuid: Uuid,
    /// Its name (`PARTLABEL`).
    pub label: String,
    /// First byte on the disk.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Attribute bits; as text in JSON, since they reach beyond what JSON numbers hold.
    #[serde(serialize_with = "hexadecimal")]
    pub attributes: u64,
}

pub(crate) fn hexadecimal<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format!("{value:#018x}"))
}

/// The sector size as the crate has it.
///
/// # Errors
/// For a size other than 512 and 4096.
pub(super) fn block_size(sector_size: u32) -> io::Result<LogicalBlockSize> {
    LogicalBlockSize::try_from(u64::from(sector_size))
}

/// Reads the table that Linux uses: the one at the start, behind a protective MBR (`find_valid_gpt` in the kernel's
/// block/partitions/efi.c). `None` when there is no valid one.
///
/// # Errors
/// The device's.
pub fn read(disk: &dyn Disk) -> io::Result<Option<Table>> {
    let mut mbr = vec![0; disk.sector_size().try_into().map_err(io::Error::other)?];
    if disk.size() < 3 * u64::from(disk.sector_size()) {
        return Ok(None);
    }
    disk.read_at(0, &mut mbr)?;
    if is_protective(&mbr) { read_copy(disk, 1) } else { Ok(None) }
}

/// Reads the table at the end of the disk. `None` when there is no valid one.
///
/// # Errors
/// The device's.
pub fn read_backup(disk: &dyn Disk) -> io::Result<Option<Table>> {
    let sectors = disk.size() / u64::from(disk.sector_size());
    if sectors < 3 { Ok(None) } else { read_copy(disk, sectors - 1) }
}

/// A protective MBR: signature, and an entry of type EEh that starts at sector 1 (`is_pmbr_valid` in efi.c).
pub(crate) fn is_protective(mbr: &[u8]) -> bool {
    let entries = mbr.get(446..510).unwrap_or_default().chunks_exact(16);
    mbr.get(510..512) == Some(&[0x55, 0xaa])
        && entries.into_iter().any(|entry| entry.get(4) == Some(&0xee) && entry.get(8..12) == Some(&[1, 0, 0, 0]))
}

fn read_copy(disk: &dyn Disk, lba: u64) -> io::Result<Option<Table>> {
    let sector = usize::try_from(disk.sector_size()).map_err(io::Error::other)?;
    let position = |lba: u64| lba.checked_mul(u64::from(disk.sector_size()));
    // The crate reads the header at sector 1.
    let mut start = vec![0; 2 * sector];
    let Some(offset) = position(lba) else { return Ok(None) };
    disk.read_at(offset, start.get_mut(sector..).unwrap_or_default())?;
    let Ok(header) = read_header_from_arbitrary_device(&mut Cursor::new(start), block_size(disk.sector_size())?) else {
        return Ok(None);
    };
    if !is_sane(&header, lba, disk) {
        return Ok(None);
    }
    let mut entries = vec![0; usize::try_from(header.num_parts * header.part_size).map_err(io::Error::other)?];
    let Some(offset) = position(header.part_start) else { return Ok(None) };
    disk.read_at(offset, &mut entries)?;
    parse(header, entries, disk)
}

/// The checks of `is_gpt_valid` in efi.c that the crate does not make; it panics on other sizes of entries and takes
/// whatever memory the header asks for.
fn is_sane(header: &Header, lba: u64, disk: &dyn Disk) -> bool {
    let sector = u64::from(disk.sector_size());
    let last = disk.size() / sector - 1;
    let entries = u64::from(header.num_parts) * 128;
    let end = header.part_start.checked_mul(sector).and_then(|start| start.checked_add(entries));
    header.current_lba == lba
        && header.header_size_le == 92
        && header.part_size == 128
        && (1..=MOST_ENTRIES).contains(&header.num_parts)
        && header.first_usable <= header.last_usable
        && header.last_usable <= last
        && end.is_some_and(|end| end <= disk.size())
}

/// The used entries; `None` if their checksum is not the header's.
fn parse(header: Header, entries: Vec<u8>, disk: &dyn Disk) -> io::Result<Option<Table>> {
    let sector = u64::from(disk.sector_size());
    let sectors = disk.size() / sector;
    let block_size = block_size(disk.sector_size())?;
    let header = Header { part_start: 0, ..header };
    // Reading from memory cannot fail, so what fails is the checksum.
    let Ok(found) = ::gpt::partition::file_read_partitions(&mut Cursor::new(entries), &header, block_size) else {
        return Ok(None);
    };
    // What reaches beyond the disk the kernel leaves out too (`is_pte_valid` in efi.c).
    let used = found
        .into_iter()
        .filter(|(_, entry)| entry.is_used() && entry.first_lba <= entry.last_lba && entry.last_lba < sectors);
    let partitions = used.map(|(index, entry)| Entry {
        index,
        type_guid: entry.part_type_guid.guid,
        uuid: entry.part_guid,
        start: entry.first_lba * sector,
        size: (entry.last_lba - entry.first_lba + 1) * sector,
        attributes: entry.flags,
        label: entry.name,
    });
    Ok(Some(Table { disk_guid: header.disk_guid, partitions: partitions.collect() }))
}
