//! A FAT file system that is only read: its label, and a file of its root directory by its short name. It is any of the three
//! kinds with clusters of any size, as people and BMCs make them; `crate::fat` takes only those that it can write.
//!
//! Source: Microsoft, "FAT32 File System Specification" 1.03 (fatgen103), named `fatgen` below.

use std::io;

use super::ReadAt;

/// Bytes of a directory entry.
const SLOT: usize = 32;
/// fatgen: a directory has at most 65536 entries.
const MOST_DIRECTORY: u64 = 65_536 * 32;
/// fatgen: with fewer clusters it is FAT12.
const FEWEST_FAT16: u64 = 4085;
const ATTRIBUTE_VOLUME_LABEL: u8 = 0x08;
const ATTRIBUTE_DIRECTORY: u8 = 0x10;
/// All attributes that a part of a long name has.
const LONG_NAME: u8 = 0x0F;
/// First byte of a free entry, and of the entry behind the last.
const FREE: u8 = 0xE5;
const LAST: u8 = 0;

type Slot = [u8; SLOT];

/// Bits of an entry of the FAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fat12,
    Fat16,
    Fat32,
}

/// Where the root directory lies.
#[derive(Debug, Clone, Copy)]
enum Root {
    /// Before the clusters.
    Place { at: u64, bytes: u64 },
    /// In a chain of clusters.
    Chain(u32),
}

/// A FAT file system.
pub(super) struct Volume<'a> {
    read: ReadAt<'a>,
    kind: Kind,
    root: Root,
    /// The label of the boot sector.
    label: [u8; 11],
    fat_at: u64,
    data_at: u64,
    /// Bytes of a cluster.
    cluster: u64,
    clusters: u64,
}

impl<'a> Volume<'a> {
    /// From the boot sector (fatgen, "Boot Sector and BPB Structure"); `None` where there is none.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn open(read: ReadAt<'a>) -> io::Result<Option<Self>> {
        let mut boot = [0; 512];
        match read(0, &mut boot) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            done => done?,
        }
        Ok(Self::geometry(read, &boot))
    }

    fn geometry(read: ReadAt<'a>, boot: &[u8; 512]) -> Option<Self> {
        let byte = |at: usize| boot.get(at).copied().unwrap_or_default();
        let word = |at: usize| u64::from(u16::from_le_bytes([byte(at), byte(at + 1)]));
        let long = |at: usize| word(at) | word(at + 2) << 16;
        let (sector, reserved, fats) = (word(11), word(14), u64::from(byte(16)));
        let sound = matches!(sector, 512 | 1024 | 2048 | 4096) && byte(13).is_power_of_two() && reserved > 0;
        if word(510) != 0xAA55 || !sound || !matches!(fats, 1 | 2) {
            return None;
        }
        // As Linux tells them apart (`fat_read_bpb` in fs/fat/inode.c): small file systems may be FAT32 too.
        let is_32 = word(22) == 0;
        let fat_sectors = if is_32 { long(36) } else { word(22) };
        let sectors = if word(19) == 0 { long(32) } else { word(19) };
        let (fat_at, cluster) = (reserved * sector, u64::from(byte(13)) * sector);
        let root_at = fat_at + fats * fat_sectors * sector;
        let root_bytes = word(17) * 32;
        let data_at = root_at + root_bytes.next_multiple_of(sector);
        let clusters = (sectors * sector).checked_sub(data_at)? / cluster;
        let kind = match is_32 {
            true => Kind::Fat32,
            false if clusters < FEWEST_FAT16 => Kind::Fat12,
            false => Kind::Fat16,
        };
        let root = match (is_32, root_bytes) {
            (true, 0) => Root::Chain(u32::try_from(long(44)).ok()?),
            (false, 1..) => Root::Place { at: root_at, bytes: root_bytes },
            _ => return None,
        };
        // 0x29: "the next three fields are there".
        let extended = if is_32 { 66 } else { 38 };
        let label = boot.get(extended + 5..)?.first_chunk().filter(|_| byte(extended) == 0x29);
        let label = label.copied().unwrap_or([b' '; 11]);
        Some(Self { read, kind, root, label, fat_at, data_at, cluster, clusters })
    }

    /// The label: that of the root directory, which everybody changes, else that of the boot sector.
    ///
    /// # Errors
    /// The device's, and a root directory that cannot be followed.
    pub(super) fn label(&self) -> io::Result<String> {
        let is_label =
            |slot: &Slot| attributes(slot) & (ATTRIBUTE_VOLUME_LABEL | ATTRIBUTE_DIRECTORY) == ATTRIBUTE_VOLUME_LABEL;
        let own = self.find(&is_label)?.and_then(|slot| slot.first_chunk().copied());
        Ok(String::from_utf8_lossy(&own.unwrap_or(self.label)).trim_end().to_owned())
    }

    /// The bytes of the file of the root directory with this short name, as it is stored: padded with spaces, without the dot.
    ///
    /// # Errors
    /// The device's, a file of more than `most` bytes, and one that cannot be followed.
    pub(super) fn file(&self, name: &[u8; 11], most: u32) -> io::Result<Option<Vec<u8>>> {
        let is_file = |slot: &Slot| {
            slot.starts_with(name) && attributes(slot) & (ATTRIBUTE_VOLUME_LABEL | ATTRIBUTE_DIRECTORY) == 0
        };
        let Some(slot) = self.find(&is_file)? else { return Ok(None) };
        let [.., h0, h1, _, _, _, _, l0, l1, s0, s1, s2, s3] = slot;
        let size = u32::from_le_bytes([s0, s1, s2, s3]);
        if size > most {
            return Err(damaged(format!("it has {size} bytes, more than the {most} allowed")));
        }
        // The upper half is something else where numbers have 16 bits.
        let [h0, h1] = if self.kind == Kind::Fat32 { [h0, h1] } else { [0, 0] };
        let mut next = Some(u32::from_le_bytes([l0, l1, h0, h1]));
        let mut bytes = Vec::new();
        let mut left = u64::from(size);
        while left > 0 {
            let Some(cluster) = next else { return Err(damaged("its clusters break off")) };
            let length = left.min(self.cluster);
            let mut piece = vec![0; usize::try_from(length).unwrap_or_default()];
            (self.read)(self.offset_of(cluster)?, &mut piece)?;
            bytes.extend(piece);
            left -= length;
            next = if left > 0 { self.next(cluster)? } else { None };
        }
        Ok(Some(bytes))
    }

    /// The first entry of the root directory that is looked for.
    fn find(&self, wanted: &dyn Fn(&Slot) -> bool) -> io::Result<Option<Slot>> {
        let (mut next, mut at, piece) = match self.root {
            Root::Place { at, bytes } => (None, at, bytes),
            Root::Chain(first) => (Some(first), self.offset_of(first)?, self.cluster),
        };
        let mut looked = 0;
        while looked < MOST_DIRECTORY {
            let mut bytes = vec![0; usize::try_from(piece).unwrap_or_default()];
            (self.read)(at, &mut bytes)?;
            for slot in bytes.as_chunks::<SLOT>().0 {
                match slot.first() {
                    Some(&LAST) | None => return Ok(None),
                    Some(&FREE) => {}
                    _ if attributes(slot) & 0x3F == LONG_NAME => {}
                    _ if wanted(slot) => return Ok(Some(*slot)),
                    _ => {}
                }
            }
            looked += piece;
            next = match next {
                Some(cluster) => self.next(cluster)?,
                None => None,
            };
            let Some(cluster) = next else { break };
            at = self.offset_of(cluster)?;
        }
        Ok(None)
    }

    /// The cluster behind `cluster`; `None` behind the last (fatgen, "FAT Data Structure").
    fn next(&self, cluster: u32) -> io::Result<Option<u32>> {
        let number = u64::from(cluster);
        let (at, end) = match self.kind {
            Kind::Fat12 => (number + number / 2, 0xFF8),
            Kind::Fat16 => (number * 2, 0xFFF8),
            Kind::Fat32 => (number * 4, 0x0FFF_FFF8),
        };
        let mut low = [0; 2];
        (self.read)(self.fat_at + at, &mut low)?;
        let low = u32::from(u16::from_le_bytes(low));
        let value = match self.kind {
            Kind::Fat12 if number.is_multiple_of(2) => low & 0xFFF,
            Kind::Fat12 => low >> 4,
            Kind::Fat16 => low,
            Kind::Fat32 => {
                let mut high = [0; 2];
                (self.read)(self.fat_at + at + 2, &mut high)?;
                (low | u32::from(u16::from_le_bytes(high)) << 16) & 0x0FFF_FFFF
            }
        };
        Ok(Some(value).filter(|value| *value < end))
    }

    fn offset_of(&self, cluster: u32) -> io::Result<u64> {
        match u64::from(cluster).checked_sub(2).filter(|index| *index < self.clusters) {
            Some(index) => Ok(self.data_at + index * self.cluster),
            None => Err(damaged(format!("there is no cluster {cluster}"))),
        }
    }
}

fn attributes(slot: &Slot) -> u8 {
    slot.get(11).copied().unwrap_or_default()
}

fn damaged(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}
