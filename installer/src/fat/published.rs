//! Whether a partition has the layout's file system already, with its files where the layout puts them.
//!
//! An OS that boots from an ESP changes it: systemd-boot renames the UKI as it counts attempts, and refreshes the random
//! seed; others add files. So nothing is compared that may change: what counts is that the file system is this one, and
//! that each file that is asked for has a name that the root leads to, its length, and its clusters.

use std::io;

use super::{CLUSTER, FIRST_CLUSTER, Layout, Stage, Write};

/// Bytes of a directory entry.
const SLOT: usize = 32;
/// The part of a boot sector that says where everything lies (fatgen, "BPB structure"), the byte with the dirty mark apart.
const GEOMETRY: usize = 0x41;

impl Layout {
    /// Whether the file system that `read` reads, by offset from the start of the partition, is this one with the files at
    /// `paths`.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn is_published(&self, paths: &[&str], read: &dyn Fn(u64, &mut [u8]) -> io::Result<()>) -> io::Result<bool> {
        let mut sector = vec![0; usize::from(self.boot.sector_size)];
        read(0, &mut sector)?;
        let same = self.writes(Stage::BootSectors).next().is_some_and(|write| {
            let bytes = write.bytes.get(..GEOMETRY);
            write.offset == 0 && bytes.is_some() && bytes == sector.get(..GEOMETRY)
        });
        if !same {
            return Ok(false);
        }
        // The way to them: every directory has its clusters, and its name in the one above. It may have grown.
        for Write { offset, bytes } in &self.directories {
            let first = self.cluster_at(*offset);
            let count = (bytes.len() as u64).div_ceil(CLUSTER);
            let is_root = first == u64::from(FIRST_CLUSTER);
            if !self.has_chain(first, count.saturating_sub(1), read)? || !(is_root || self.has_name(first, 0, read)?) {
                return Ok(false);
            }
        }
        for path in paths {
            let Some(extent) = self.extents.iter().find(|extent| extent.path == *path) else { return Ok(false) };
            let first = self.cluster_at(extent.offset);
            let count = extent.size.div_ceil(CLUSTER);
            if !self.has_chain(first, count.saturating_sub(1), read)? || !self.has_name(first, extent.size, read)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The cluster that begins at an offset of the partition.
    fn cluster_at(&self, offset: u64) -> u64 {
        offset.saturating_sub(self.boot.data_offset()) / CLUSTER + u64::from(FIRST_CLUSTER)
    }

    /// Whether the first FAT, which is the one that counts, has these clusters in a row as one file.
    fn has_chain(&self, first: u64, count: u64, read: &dyn Fn(u64, &mut [u8]) -> io::Result<()>) -> io::Result<bool> {
        let sector = u64::from(self.boot.sector_size);
        let fat = self.boot.reserved_bytes();
        let (start, end) = (first * 4 / sector * sector, ((first + count) * 4).next_multiple_of(sector));
        let mut found = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
        read(fat + start, &mut found)?;
        let skipped = usize::try_from(first - start / 4).map_err(io::Error::other)?;
        let entries = found.as_chunks::<4>().0.iter().skip(skipped);
        // The upper four bits are nobody's (fatgen, "FAT data structure").
        let mut same = (first..first + count)
            .zip(entries)
            .map(|(number, entry)| u32::from_le_bytes(*entry) & 0x0FFF_FFFF == self.fat_entry(number) & 0x0FFF_FFFF);
        Ok(same.all(|same| same))
    }

    /// Whether a directory of the layout still has a name for the file at this cluster.
    fn has_name(&self, first: u64, size: u64, read: &dyn Fn(u64, &mut [u8]) -> io::Result<()>) -> io::Result<bool> {
        let wanted = (first, size);
        let homes = self.directories.iter().chain(std::iter::once(&self.publish));
        for Write { offset, bytes } in homes.filter(|home| entries(&home.bytes).any(|entry| entry == wanted)) {
            // A name that was changed may have moved within its cluster.
            let (start, end) = (offset / CLUSTER * CLUSTER, (offset + bytes.len() as u64).next_multiple_of(CLUSTER));
            let mut found = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
            read(start, &mut found)?;
            if entries(&found).any(|entry| entry == wanted) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// First cluster and size of each file or directory that has a name (fatgen, "FAT directory structure").
fn entries(directory: &[u8]) -> impl Iterator<Item = (u64, u64)> {
    directory.as_chunks::<SLOT>().0.iter().filter_map(|slot| {
        let [name, .., s0, s1, s2, s3] = *slot;
        let attributes = *slot.get(11)?;
        // Free, deleted, a directory's name for itself or the one above, part of a long name, or a volume label.
        if matches!(name, 0 | 0xE5 | b'.') || attributes & 0x08 != 0 {
            return None;
        }
        let (high, low) = (slot.get(20..22)?, slot.get(26..28)?);
        let cluster = u32::from(u16::from_le_bytes(high.try_into().ok()?)) << 16
            | u32::from(u16::from_le_bytes(low.try_into().ok()?));
        Some((u64::from(cluster), u64::from(u32::from_le_bytes([s0, s1, s2, s3]))))
    })
}
