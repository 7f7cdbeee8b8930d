//! The reserved sectors: boot sector, FSInfo, and their copies (fatgen, "Boot Sector and BPB Structure").

use super::{CLUSTER, FIRST_CLUSTER, RESERVED_SECTORS, Write};

/// Media byte: a fixed disk.
pub(super) const MEDIA: u8 = 0xF8;
/// Sector of FSInfo.
const FS_INFO: u16 = 1;
/// First sector of the copies; fatgen: no value other than 6 is recommended.
const BACKUP: u16 = 6;

/// The numbers of a volume that its boot sector and FSInfo tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootSector {
    pub sector_size: u16,
    pub sectors_per_cluster: u8,
    pub total_sectors: u32,
    pub fat_sectors: u32,
    /// Clusters of the data region.
    pub clusters: u32,
    /// Those that a directory or file has.
    pub used_clusters: u32,
    pub volume_id: u32,
    pub label: [u8; 11],
}

impl BootSector {
    /// Bytes before the first FAT.
    pub fn reserved_bytes(&self) -> u64 {
        u64::from(RESERVED_SECTORS) * u64::from(self.sector_size)
    }

    /// Bytes of one FAT.
    pub fn fat_bytes(&self) -> u64 {
        u64::from(self.fat_sectors) * u64::from(self.sector_size)
    }

    /// First byte of the data region.
    pub fn data_offset(&self) -> u64 {
        self.reserved_bytes() + 2 * self.fat_bytes()
    }

    /// First byte of a cluster.
    pub fn offset_of(&self, cluster: u32) -> u64 {
        self.data_offset() + u64::from(cluster.saturating_sub(FIRST_CLUSTER)) * CLUSTER
    }

    /// Zeroes over the reserved sectors.
    pub fn erased(&self) -> Write {
        Write { offset: 0, bytes: vec![0; usize::from(RESERVED_SECTORS) * usize::from(self.sector_size)] }
    }

    /// The reserved sectors, boot sector and FSInfo, twice: the first one apart from the others.
    pub fn reserved(&self) -> (Write, Write) {
        let sector = usize::from(self.sector_size);
        let mut bytes = Vec::with_capacity(usize::from(RESERVED_SECTORS) * sector);
        for start in [0, BACKUP] {
            bytes.resize(usize::from(start) * sector, 0);
            bytes.extend(self.boot_sector());
            bytes.extend(self.fs_info());
        }
        bytes.resize(usize::from(RESERVED_SECTORS) * sector, 0);
        let others = bytes.split_off(sector);
        (Write { offset: 0, bytes }, Write { offset: u64::from(self.sector_size), bytes: others })
    }

    fn boot_sector(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(usize::from(self.sector_size));
        bytes.extend([0xEB, 0x58, 0x90]); // jump over the BPB
        bytes.extend(b"MSWIN4.1"); // the OEM name that fatgen recommends, since some readers look at it
        bytes.extend(self.sector_size.to_le_bytes());
        bytes.push(self.sectors_per_cluster);
        bytes.extend(RESERVED_SECTORS.to_le_bytes());
        bytes.push(2); // FATs
        bytes.extend([0; 4]); // root entries and 16-bit sector count: 0 on FAT32
        bytes.push(MEDIA);
        bytes.extend([0; 2]); // 16-bit FAT size: 0 on FAT32
        bytes.extend(32_u16.to_le_bytes()); // sectors per track; a MiB is whole tracks at both sector sizes
        bytes.extend(64_u16.to_le_bytes()); // heads
        bytes.extend([0; 4]); // hidden sectors: only a BIOS boot program would read them
        bytes.extend(self.total_sectors.to_le_bytes());
        bytes.extend(self.fat_sectors.to_le_bytes());
        bytes.extend([0; 4]); // both FATs are kept alike; version 0.0
        bytes.extend(FIRST_CLUSTER.to_le_bytes()); // root directory
        bytes.extend(FS_INFO.to_le_bytes());
        bytes.extend(BACKUP.to_le_bytes());
        bytes.extend([0; 12]);
        bytes.extend([0x80, 0, 0x29]); // drive number, reserved, "the next three fields are there"
        bytes.extend(self.volume_id.to_le_bytes());
        bytes.extend(self.label);
        bytes.extend(b"FAT32   ");
        self.signed(bytes, &[0x55, 0xAA])
    }

    fn fs_info(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(usize::from(self.sector_size));
        bytes.extend(b"RRaA");
        bytes.resize(484, 0);
        bytes.extend(b"rrAa");
        bytes.extend((self.clusters - self.used_clusters).to_le_bytes());
        let last_used = (self.used_clusters + FIRST_CLUSTER).saturating_sub(1);
        bytes.extend(last_used.to_le_bytes());
        self.signed(bytes, &[0x55, 0xAA])
    }

    /// Puts the signature at the end of the first 512 bytes, whatever the sector size, and fills the sector.
    fn signed(&self, mut bytes: Vec<u8>, signature: &[u8; 2]) -> Vec<u8> {
        bytes.resize(510, 0);
        bytes.extend(signature);
        bytes.resize(usize::from(self.sector_size), 0);
        bytes
    }
}
