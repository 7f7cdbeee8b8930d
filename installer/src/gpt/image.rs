//! A table's bytes: the crate lays them out in memory, and we write them.

use std::io::{self, Read, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result};

use ::gpt::disk::LogicalBlockSize;
use ::gpt::header::HeaderBuilder;
use ::gpt::mbr::ProtectiveMBR;
use ::gpt::partition::Partition;

use super::table::{Table, block_size};
use super::{ENTRIES, backup_bytes};
use crate::disk::{Disk, Memory};

/// The bytes of both copies of a table, for a disk of one size.
#[derive(Debug)]
pub struct Image {
    backup: Copy,
    primary: Copy,
    protective_mbr: Vec<u8>,
}

/// One copy: where its parts go, and their bytes.
#[derive(Debug)]
struct Copy {
    entries: (u64, Vec<u8>),
    header: (u64, Vec<u8>),
}

impl Image {
    /// Lays `table` out for a disk of `size` bytes.
    ///
    /// # Errors
    /// When the table does not fit the disk or holds what a table cannot.
    pub fn new(table: &Table, size: u64, sector_size: u32) -> Result<Self> {
        let sectors = size / u64::from(sector_size);
        // The size of the disk less sector 0, or as much as fits (UEFI specification 2.10, table 5.4).
        let protected = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
        let mut protective_mbr = ProtectiveMBR::with_lb_size(protected).to_bytes().to_vec();
        protective_mbr.resize(usize::try_from(sector_size)?, 0);
        Ok(Self {
            backup: Copy::new(table, size, sector_size, false)?,
            primary: Copy::new(table, size, sector_size, true)?,
            protective_mbr,
        })
    }

    /// Writes the copy at the end, flushes, writes the copy at the start and the protective MBR, flushes. At the end, a
    /// flush parts entries and header: a header without its entries would look like somebody's damaged table.
    ///
    /// # Errors
    /// The device's.
    pub fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        self.write_backup(disk)?;
        self.write_primary(disk)
    }

    /// Writes the copy at the end.
    pub(super) fn write_backup(&self, disk: &dyn Disk) -> io::Result<()> {
        disk.write_at(self.backup.entries.0, &self.backup.entries.1)?;
        disk.flush()?;
        disk.write_at(self.backup.header.0, &self.backup.header.1)?;
        disk.flush()
    }

    /// Writes the copy at the start and the protective MBR.
    pub(super) fn write_primary(&self, disk: &dyn Disk) -> io::Result<()> {
        disk.write_at(self.primary.entries.0, &self.primary.entries.1)?;
        disk.write_at(self.primary.header.0, &self.primary.header.1)?;
        disk.write_at(0, &self.protective_mbr)?;
        disk.flush()
    }
}

impl Copy {
    fn new(table: &Table, size: u64, sector_size: u32, primary: bool) -> Result<Self> {
        let block = block_size(sector_size)?;
        let memory = Memory::new(size, sector_size);
        let last = (size / u64::from(sector_size)).checked_sub(1).context("the disk has no sectors")?;
        let mut builder = HeaderBuilder::new();
        builder.disk_guid(table.disk_guid).backup_lba(last).num_parts(ENTRIES).primary(primary);
        let mut header = builder.build(block)?;
        let mut entries = vec![0; usize::try_from(backup_bytes(sector_size))? - block.as_usize()];
        for entry in &table.partitions {
            anyhow::ensure!((1..=ENTRIES).contains(&entry.index), "partition {} has no entry", entry.index);
            let place = u64::from(entry.index - 1);
            partition(entry, block).write_to_device(&mut io::Cursor::new(&mut entries), place, 0, block, 128)?;
        }
        let position = |lba: u64| lba.checked_mul(block.as_u64()).context("a sector beyond the disk");
        memory.write_at(position(header.part_start)?, &entries)?;
        // This computes both checksums, the one over the entries from what is in memory.
        let mut cursor = Cursor { disk: &memory, position: 0 };
        if primary { header.write_primary(&mut cursor, block) } else { header.write_backup(&mut cursor, block) }?;
        let mut sector = vec![0; block.as_usize()];
        memory.read_at(position(header.current_lba)?, &mut sector)?;
        Ok(Self { entries: (position(header.part_start)?, entries), header: (position(header.current_lba)?, sector) })
    }
}

fn partition(entry: &super::Entry, block: LogicalBlockSize) -> Partition {
    let first = entry.start / block.as_u64();
    Partition {
        part_type_guid: entry.type_guid.into(),
        part_guid: entry.uuid,
        first_lba: first,
        last_lba: first + (entry.size / block.as_u64()).saturating_sub(1),
        flags: entry.attributes,
        name: entry.label.clone(),
    }
}

/// A disk in memory as the crate wants it.
#[derive(Debug)]
struct Cursor<'a> {
    disk: &'a Memory,
    position: u64,
}

impl Read for Cursor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.read_at(self.position, buffer)?;
        self.position += u64::try_from(buffer.len()).map_err(io::Error::other)?;
        Ok(buffer.len())
    }
}

impl Write for Cursor<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.write_at(self.position, bytes)?;
        self.position += u64::try_from(bytes.len()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Cursor<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.disk.size().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
