//! A fresh FAT32 file system as a value: where each file's bytes go, and which metadata is written when.
//!
//! Nothing here reads or writes: [`Layout`] is computed from sizes and names alone, so an ESP that cannot hold its
//! files is refused before the first write, and the caller decides the order of what reaches the disk. Clusters are
//! 4096 bytes at a 4096-byte boundary of the partition, so that a file consists of whole blocks of its hash tree.
//!
//! Source: Microsoft, "FAT32 File System Specification" 1.03 (fatgen103), named `fatgen` below.

mod boot_sector;
mod directory;
mod edit;
mod listing;
mod name;
mod reader;
mod refill;
#[cfg(test)]
mod tests;
mod volume;

use anyhow::{Result, bail, ensure};

use crate::failure::{Code, coded};
use boot_sector::BootSector;
use directory::Tree;
pub use edit::Steps;
pub use listing::{Directory, Listed};
pub use refill::Unnamed;
pub use volume::{ReadAt, Volume, VolumeError};

/// Bytes of a cluster: one block of a hash tree.
pub const CLUSTER: u64 = 4096;
/// Sectors before the first FAT, the value fatgen gives for FAT32.
pub(crate) const RESERVED_SECTORS: u16 = 32;
/// fatgen: a volume with fewer clusters is FAT16 to every reader, whatever its boot sector says.
const FEWEST_CLUSTERS: u64 = 65_525;
/// fatgen: cluster numbers have 28 bits, and those from 0x0FFFFFF7 on have meanings of their own.
const MOST_CLUSTERS: u64 = 0x0FFF_FFF5;
/// End of a chain; also the value of entry 1 on a volume that was left clean.
const END_OF_CHAIN: u32 = 0x0FFF_FFFF;
/// Entry 0: the media byte of the boot sector, then ones.
const MEDIA_ENTRY: u32 = 0x0FFF_FF00 | boot_sector::MEDIA as u32;
/// The number of the first cluster of the data region, which is the root directory's.
const FIRST_CLUSTER: u32 = 2;
/// How many bytes of a FAT are made at a time.
const FAT_PIECE: u64 = 128 << 10;

/// A file to be placed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Path from the root, parts separated by `/`; printable ASCII without `"*:<>?\|`.
    pub path: String,
    /// Bytes of the file.
    pub size: u64,
}

/// Where the bytes of a file go. They are contiguous; behind them, up to a multiple of [`CLUSTER`], is slack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The file's path, as given.
    pub path: String,
    /// First byte, from the start of the partition: a multiple of [`CLUSTER`].
    pub offset: u64,
    /// Bytes of the file.
    pub size: u64,
}

/// One write of metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// First byte, from the start of the partition.
    pub offset: u64,
    /// Whole sectors.
    pub bytes: Vec<u8>,
}

/// What is written between two flushes, in the order of this list. The files' data goes between the first and the
/// second, so that a cut at any point leaves no file system, or one in which every file that has a name is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Zeroes over the reserved sectors: whatever file system was there is none any more.
    Invalidate,
    /// Both FATs, and the directories with every file but the last.
    Tables,
    /// The one sector with the directory entry of the last file.
    Publish,
    /// FSInfo and the copies of the boot sector.
    Reserved,
    /// The boot sector, which is one write: the file system exists.
    BootSector,
}

/// A FAT32 file system, computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    boot: BootSector,
    extents: Vec<Extent>,
    /// First cluster and number of clusters of each directory and file, ascending and without gaps.
    chains: Vec<(u32, u32)>,
    directories: Vec<Write>,
    publish: Write,
}

impl Layout {
    /// Lays out `files` on a partition of `size` bytes. The last file is the one that [`Stage::Publish`] names.
    ///
    /// # Errors
    /// A size that FAT32 cannot have, names that FAT cannot hold, or files that do not fit
    /// ([`Code::DiskTooSmall`]).
    pub fn new(size: u64, sector_size: u32, volume_id: u32, label: &str, files: &[File]) -> Result<Self> {
        let mut boot = geometry(size, sector_size, volume_id, label)?;
        let Some(last) = files.last() else { bail!("laying out a FAT without files") };
        let mut tree = Tree::new(boot.label);
        for file in files {
            tree.add(file, u64::from(boot.sector_size))?;
        }
        let mut allocator = Allocator { next: FIRST_CLUSTER, chains: Vec::new(), clusters: boot.clusters };
        tree.place(|bytes| allocator.take(bytes))?;
        let mut extents = Vec::with_capacity(files.len());
        for (index, file) in files.iter().enumerate() {
            let first = if file.size == 0 { 0 } else { allocator.take(file.size)? };
            tree.set_cluster(index, first);
            let offset = if first == 0 { boot.data_offset() } else { boot.offset_of(first) };
            extents.push(Extent { path: file.path.clone(), offset, size: file.size });
        }
        boot.used_clusters = allocator.next - FIRST_CLUSTER;
        let (directories, publish) = tree.render(&boot);
        let Some(publish) = publish else {
            bail!("laying out {:?}: its directory entry does not fit one sector", last.path)
        };
        Ok(Self { boot, extents, chains: allocator.chains, directories, publish })
    }

    /// Where each file's bytes go, in the order the files were given in.
    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The writes of one stage, made as they are asked for.
    pub fn writes(&self, stage: Stage) -> Box<dyn Iterator<Item = Write> + Send + '_> {
        match stage {
            Stage::Invalidate => Box::new(std::iter::once(self.boot.erased())),
            Stage::Tables => Box::new(self.tables().chain(self.directories.iter().cloned())),
            Stage::Publish => Box::new(std::iter::once(self.publish.clone())),
            Stage::Reserved => Box::new(std::iter::once(self.boot.reserved().1)),
            Stage::BootSector => Box::new(std::iter::once(self.boot.reserved().0)),
        }
    }

    /// Both FATs, piece by piece.
    fn tables(&self) -> impl Iterator<Item = Write> + '_ {
        let bytes = self.boot.fat_bytes();
        let first = self.boot.reserved_bytes();
        [first, first + bytes].into_iter().flat_map(move |fat| {
            (0..bytes.div_ceil(FAT_PIECE)).map(move |piece| {
                let start = piece * FAT_PIECE;
                let length = FAT_PIECE.min(bytes - start);
                Write { offset: fat + start, bytes: self.fat_entries(start / 4, length / 4) }
            })
        })
    }

    /// `count` entries of the FAT from entry `first` on. Every chain is contiguous, so an entry names the next
    /// cluster or ends the chain.
    fn fat_entries(&self, first: u64, count: u64) -> Vec<u8> {
        (first..first + count).flat_map(|entry| self.fat_entry(entry).to_le_bytes()).collect()
    }

    fn fat_entry(&self, entry: u64) -> u32 {
        let Ok(entry) = u32::try_from(entry) else { return 0 };
        match entry {
            0 => return MEDIA_ENTRY,
            1 => return END_OF_CHAIN,
            _ => {}
        }
        let after = self.chains.partition_point(|(first, _)| *first <= entry);
        match after.checked_sub(1).and_then(|index| self.chains.get(index)) {
            Some((first, count)) if entry + 1 < first + count => entry + 1,
            Some((first, count)) if entry + 1 == first + count => END_OF_CHAIN,
            _ => 0,
        }
    }
}

/// The boot sector that [`Layout::new`] gives a partition of `size` bytes, apart from serial number and label; `None` where it
/// makes no file system.
pub(crate) fn first_sector(size: u64, sector_size: u32) -> Option<Vec<u8>> {
    let boot = geometry(size, sector_size, 0, "NO NAME").ok()?;
    Some(boot.reserved().0.bytes)
}

/// Checks the size and derives where the FATs and the data region lie.
///
/// A FAT is rounded up to whole clusters: with `RESERVED_SECTORS` a multiple of 4096 bytes at both sector sizes,
/// FATs and data region then start at a multiple of 4096 bytes.
fn geometry(size: u64, sector_size: u32, volume_id: u32, label: &str) -> Result<BootSector> {
    let sectors_per_cluster = match sector_size {
        512 => 8,
        4096 => 1,
        other => bail!("laying out a FAT for sectors of {other} bytes, not 512 or 4096"),
    };
    let reserved = u64::from(RESERVED_SECTORS) / u64::from(sectors_per_cluster);
    let blocks = (size / CLUSTER).saturating_sub(reserved);
    // A FAT block maps 1024 clusters: clusters + 2 <= 1024 n and clusters + 2 n = blocks.
    let fat_blocks = (blocks + 2).div_ceil(1026);
    let clusters = blocks.saturating_sub(2 * fat_blocks);
    if !(FEWEST_CLUSTERS..=MOST_CLUSTERS).contains(&clusters) {
        let message = format!(
            "a FAT32 file system of {size} bytes has {clusters} clusters of {CLUSTER} bytes, not {FEWEST_CLUSTERS} to \
             {MOST_CLUSTERS}"
        );
        return Err(coded(Code::DiskTooSmall, message));
    }
    Ok(BootSector {
        sector_size: u16::try_from(sector_size)?,
        sectors_per_cluster,
        total_sectors: u32::try_from((reserved + blocks) * u64::from(sectors_per_cluster))?,
        fat_sectors: u32::try_from(fat_blocks * u64::from(sectors_per_cluster))?,
        clusters: u32::try_from(clusters)?,
        used_clusters: 0,
        volume_id,
        label: volume_label(label)?,
    })
}

/// The label padded to the 11 bytes of its field.
fn volume_label(label: &str) -> Result<[u8; 11]> {
    let plain = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || b"_- ".contains(&byte);
    ensure!(
        !label.starts_with(' ') && (1..=11).contains(&label.len()) && label.bytes().all(plain),
        "the volume label {label:?} is not 1 to 11 of A-Z, 0-9, '_', '-' and space"
    );
    let mut field = [b' '; 11];
    field.iter_mut().zip(label.bytes()).for_each(|(to, from)| *to = from);
    Ok(field)
}

/// Hands out clusters in ascending order.
#[derive(Debug)]
struct Allocator {
    next: u32,
    chains: Vec<(u32, u32)>,
    /// Clusters of the volume.
    clusters: u32,
}

impl Allocator {
    /// The first of as many contiguous clusters as `bytes` fill.
    fn take(&mut self, bytes: u64) -> Result<u32> {
        let first = self.next;
        let free = u64::from(self.clusters + FIRST_CLUSTER - first);
        let wanted = bytes.div_ceil(CLUSTER);
        match u32::try_from(wanted) {
            Ok(count) if wanted <= free => {
                self.chains.push((first, count));
                self.next += count;
                Ok(first)
            }
            _ => Err(coded(
                Code::DiskTooSmall,
                format!(
                    "a file of {bytes} bytes does not fit the EFI system partition: {} bytes are free of {}",
                    free * CLUSTER,
                    u64::from(self.clusters) * CLUSTER
                ),
            )),
        }
    }
}
