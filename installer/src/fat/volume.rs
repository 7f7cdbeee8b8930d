//! A FAT32 file system that is on a partition already: where its clusters lie, and which of them are free.
//!
//! The FAT is kept in memory (4 bytes a cluster: 512 KiB for an ESP of 512 MiB). Changes are made there, and become writes
//! when they are asked for; the caller says in which order they reach the disk, and flushes.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;

use super::{CLUSTER, END_OF_CHAIN, FEWEST_CLUSTERS, FIRST_CLUSTER, MOST_CLUSTERS, Write};

/// Reads bytes at an offset of the partition.
pub type ReadAt<'a> = &'a dyn Fn(u64, &mut [u8]) -> io::Result<()>;

/// The bits of a FAT entry that count (fatgen, "FAT data structure").
const ENTRY: u32 = 0x0FFF_FFFF;
/// Entries from here on end a chain.
const END: u32 = 0x0FFF_FFF8;
/// An ESP whose FAT is larger is none of ours: that of the largest that a manifest can have has almost as many.
const MOST_FAT_BYTES: u64 = 16 << 20;

/// Why a file system is not used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// It cannot be read.
    #[error("reading the EFI system partition")]
    Read(#[from] io::Error),
    /// There is none.
    #[error("the EFI system partition holds no file system")]
    Absent,
    /// It is none that can be changed.
    #[error("the EFI system partition {0}")]
    Unusable(String),
    /// It has no room.
    #[error("the EFI system partition has no {wanted} bytes free, but {free}")]
    Full {
        /// What was asked for.
        wanted: u64,
        /// What there is.
        free: u64,
    },
}

/// `VolumeError::Unusable`, as a result.
pub(super) fn unusable<T>(problem: impl Into<String>) -> Result<T, VolumeError> {
    Err(VolumeError::Unusable(problem.into()))
}

/// A file system that is there.
#[derive(Debug, Clone)]
pub struct Volume {
    pub(super) sector: u64,
    /// Bytes of a cluster.
    pub(super) cluster: u64,
    fat_at: u64,
    fat_bytes: u64,
    fats: u64,
    data_at: u64,
    pub(super) root: u32,
    fs_info: u64,
    /// The first FAT.
    entries: Vec<u32>,
    /// Sectors of the FAT that differ from the disk's, or in which its copies differ.
    dirty: BTreeSet<u64>,
}

impl Volume {
    /// Opens the file system on a partition of `size` bytes, whose sectors have `sector` bytes.
    ///
    /// # Errors
    /// It cannot be read, or is none that files can be added to in whole blocks.
    pub fn open(size: u64, sector: u32, read: ReadAt<'_>) -> Result<Self, VolumeError> {
        let mut boot = vec![0; usize::try_from(sector).unwrap_or(512)];
        read(0, &mut boot)?;
        let mut volume = Self::geometry(&boot, size, sector)?;
        volume.load(read)?;
        Ok(volume)
    }

    /// From the boot sector (fatgen, "Boot Sector and BPB Structure").
    fn geometry(boot: &[u8], size: u64, sector: u32) -> Result<Self, VolumeError> {
        let byte = |at: usize| boot.get(at).copied().unwrap_or_default();
        let word = |at: usize| u64::from(u16::from_le_bytes([byte(at), byte(at + 1)]));
        let long = |at: usize| word(at) | word(at + 2) << 16;
        if (byte(510), byte(511)) != (0x55, 0xAA) {
            return Err(VolumeError::Absent);
        }
        if word(11) != u64::from(sector) {
            return unusable(format!("holds no FAT32 file system with sectors of {sector} bytes"));
        }
        if word(17) != 0 || word(22) != 0 || word(19) != 0 || word(42) != 0 {
            return unusable("holds another FAT than FAT32");
        }
        // Bit 7: only one of the FATs is kept up.
        if byte(40) & 0x80 != 0 || !matches!(byte(16), 1 | 2) {
            return unusable("has FATs that are not copies of each other");
        }
        let sector = u64::from(sector);
        let (cluster, reserved, fats) = (u64::from(byte(13)) * sector, word(14) * sector, u64::from(byte(16)));
        let (fat_bytes, total) = (long(36) * sector, long(32) * sector);
        let data_at = reserved + fats * fat_bytes;
        let whole = |bytes: u64| bytes != 0 && bytes.is_multiple_of(CLUSTER);
        if !byte(13).is_power_of_two() || !whole(cluster) || !whole(data_at) || fat_bytes > MOST_FAT_BYTES {
            return unusable("has clusters that are not whole blocks of 4096 bytes");
        }
        let clusters = total.checked_sub(data_at).map_or(0, |bytes| bytes / cluster);
        let fits = total <= size && fat_bytes / 4 >= clusters + 2 && reserved >= 2 * sector;
        if !fits || !(FEWEST_CLUSTERS..=MOST_CLUSTERS).contains(&clusters) {
            return unusable("has a boot sector whose numbers contradict each other");
        }
        let count = usize::try_from(clusters + 2).unwrap_or_default();
        let root = u32::try_from(long(44)).unwrap_or_default();
        let volume = Self {
            sector,
            cluster,
            fat_at: reserved,
            fat_bytes,
            fats,
            data_at,
            root,
            fs_info: word(48) * sector,
            entries: vec![0; count],
            dirty: BTreeSet::new(),
        };
        if volume.is_cluster(root) { Ok(volume) } else { unusable("has no root directory") }
    }

    /// Reads the FATs; where they differ, the first one counts, as for every reader.
    fn load(&mut self, read: ReadAt<'_>) -> Result<(), VolumeError> {
        let length = self.entries.len().saturating_mul(4).next_multiple_of(usize::try_from(self.sector).unwrap_or(512));
        let mut first = vec![0; length];
        read(self.fat_at, &mut first)?;
        for copy in 1..self.fats {
            let mut other = vec![0; length];
            read(self.fat_at + copy * self.fat_bytes, &mut other)?;
            let sectors = usize::try_from(self.sector).unwrap_or(512);
            let differing = (0..).zip(first.chunks(sectors).zip(other.chunks(sectors))).filter(|(_, (a, b))| a != b);
            self.dirty.extend(differing.map(|(number, _)| number));
        }
        for (entry, bytes) in self.entries.iter_mut().zip(first.as_chunks::<4>().0) {
            *entry = u32::from_le_bytes(*bytes);
        }
        Ok(())
    }

    fn is_cluster(&self, cluster: u32) -> bool {
        cluster >= FIRST_CLUSTER && usize::try_from(cluster).is_ok_and(|index| index < self.entries.len())
    }

    fn entry(&self, cluster: u32) -> Option<u32> {
        let index = usize::try_from(cluster).ok().filter(|_| self.is_cluster(cluster))?;
        self.entries.get(index).map(|entry| entry & ENTRY)
    }

    pub(super) fn set(&mut self, cluster: u32, value: u32) {
        let Some(entry) = usize::try_from(cluster).ok().and_then(|index| self.entries.get_mut(index)) else { return };
        // The upper four bits are nobody's and stay.
        *entry = *entry & !ENTRY | value & ENTRY;
        self.dirty.insert(u64::from(cluster) * 4 / self.sector);
    }

    /// First byte of a cluster on the partition.
    pub(super) fn offset_of(&self, cluster: u32) -> u64 {
        self.data_at + u64::from(cluster.saturating_sub(FIRST_CLUSTER)) * self.cluster
    }

    /// The clusters of the file or directory that begins at `first`; none for an empty file.
    ///
    /// # Errors
    /// A chain that leads nowhere or in a circle.
    pub(super) fn chain(&self, first: u32) -> Result<Vec<u32>, VolumeError> {
        let mut chain = Vec::new();
        let mut next = first;
        while next != 0 && next < END {
            let Some(entry) = self.entry(next).filter(|_| chain.len() < self.entries.len()) else {
                return unusable(format!("has a chain of clusters that leads to {next}"));
            };
            chain.push(next);
            // A free or a bad cluster within a chain.
            if entry == 0 || entry == 0x0FFF_FFF7 {
                return unusable(format!("has a chain of clusters that breaks off at {next}"));
            }
            next = entry;
        }
        Ok(chain)
    }

    /// The clusters that are given back when the file that begins at `first` goes: what is no chain, as after a power cut, is
    /// nobody's to give back.
    pub(super) fn freed_with(&self, first: u32) -> Vec<u32> {
        self.chain(first).unwrap_or_default()
    }

    /// Bytes of the clusters of the file that begins at `first`, which are free when it goes.
    pub fn taken_from(&self, first: u32) -> u64 {
        u64::try_from(self.freed_with(first).len()).unwrap_or_default().saturating_mul(self.cluster)
    }

    /// Where the bytes of the file of `size` bytes that begins at `first` lie on the partition, in order, in whole clusters.
    ///
    /// # Errors
    /// Its chain is broken, or not as long as the file.
    pub fn runs(&self, first: u32, size: u64) -> Result<Vec<Range<u64>>, VolumeError> {
        let chain = self.chain(first)?;
        if u64::try_from(chain.len()).ok() != Some(size.div_ceil(self.cluster)) {
            return unusable(format!("has a file of {size} bytes in {} clusters", chain.len()));
        }
        let in_a_row = chain.chunk_by(|a, b| a.checked_add(1) == Some(*b));
        let run = |run: &[u32]| {
            let start = run.first().map(|first| self.offset_of(*first))?;
            Some(start..start + u64::try_from(run.len()).ok()? * self.cluster)
        };
        Ok(in_a_row.filter_map(run).collect())
    }

    /// Takes clusters for `size` bytes, at least one, and gives the first of them: in a row where there are as many, else
    /// the first that are free.
    ///
    /// # Errors
    /// [`VolumeError::Full`].
    pub fn take(&mut self, size: u64) -> Result<u32, VolumeError> {
        let full = |volume: &Self| VolumeError::Full { wanted: size, free: volume.free_bytes() };
        let Ok(count) = u32::try_from(size.div_ceil(self.cluster).max(1)) else { return Err(full(self)) };
        let row = self.free_runs().find(|run| run.end - run.start >= count).map(|run| run.start..run.start + count);
        let wanted = usize::try_from(count).unwrap_or(usize::MAX);
        let taken: Vec<u32> = match row {
            Some(row) => row.collect(),
            None => self.free_runs().flatten().take(wanted).collect(),
        };
        let Some(first) = taken.first().copied().filter(|_| taken.len() == wanted) else { return Err(full(self)) };
        let next = taken.iter().skip(1).copied().chain(std::iter::once(END_OF_CHAIN));
        taken.iter().zip(next).for_each(|(cluster, next)| self.set(*cluster, next));
        Ok(first)
    }

    /// Bytes of the clusters that are free.
    pub fn free_bytes(&self) -> u64 {
        self.free_runs().map(|run| u64::from(run.end - run.start)).sum::<u64>().saturating_mul(self.cluster)
    }

    /// Bytes of a cluster: files take whole ones.
    pub fn cluster_bytes(&self) -> u64 {
        self.cluster
    }

    /// Whether the FATs on the disk are not this one.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Gives the clusters of a chain back.
    pub fn give_back(&mut self, chain: &[u32]) {
        chain.iter().for_each(|cluster| self.set(*cluster, 0));
    }

    fn free_runs(&self) -> impl Iterator<Item = Range<u32>> {
        let end = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let is_free = |cluster: u32| self.entry(cluster) == Some(0);
        let mut next = FIRST_CLUSTER;
        std::iter::from_fn(move || {
            let start = (next..end).find(|cluster| is_free(*cluster))?;
            next = (start..end).find(|cluster| !is_free(*cluster)).unwrap_or(end);
            Some(start..next)
        })
    }

    /// Clusters that some chain has, though no file in `used` does: what an interrupted run left. They become free.
    pub(super) fn free_all_but(&mut self, used: &BTreeSet<u32>) {
        let end = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let lost =
            |cluster: &u32| !used.contains(cluster) && !matches!(self.entry(*cluster), None | Some(0 | 0x0FFF_FFF7));
        let lost: Vec<u32> = (FIRST_CLUSTER..end).filter(lost).collect();
        self.give_back(&lost);
    }

    /// What has to be written for the FATs on the disk to be this one: the first FAT, then its copy.
    pub fn fat_writes(&mut self) -> Vec<Write> {
        let dirty: Vec<u64> = std::mem::take(&mut self.dirty).into_iter().collect();
        let per_sector = usize::try_from(self.sector / 4).unwrap_or(128);
        let mut writes = Vec::new();
        for copy in 0..self.fats {
            // Sectors in a row are one write.
            for run in dirty.chunk_by(|a, b| a + 1 == *b) {
                let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
                let index = |sector: u64| usize::try_from(sector).unwrap_or(usize::MAX).saturating_mul(per_sector);
                let entries =
                    self.entries.get(index(*first)..index(last + 1).min(self.entries.len())).unwrap_or_default();
                let mut bytes: Vec<u8> = entries.iter().flat_map(|entry| entry.to_le_bytes()).collect();
                bytes.resize(bytes.len().next_multiple_of(usize::try_from(self.sector).unwrap_or(512)), 0);
                writes.push(Write { offset: self.fat_at + copy * self.fat_bytes + first * self.sector, bytes });
            }
        }
        writes
    }

    /// FSInfo says from now on that nobody has counted the free clusters (fatgen, "FAT32 FSInfo Sector Structure"); nothing
    /// if it does already, or is none.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn uncount(&self, read: ReadAt<'_>) -> Result<Option<Write>, VolumeError> {
        if self.fs_info == 0 || self.fs_info >= self.fat_at {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(self.sector).unwrap_or(512)];
        read(self.fs_info, &mut bytes)?;
        let unknown = [0xFF; 8];
        let Some(counts) = bytes.get_mut(488..496).filter(|counts| **counts != unknown) else { return Ok(None) };
        counts.copy_from_slice(&unknown);
        Ok(bytes.starts_with(b"RRaA").then_some(Write { offset: self.fs_info, bytes }))
    }
}
