//! Signatures of file systems, volume managers and RAID on a disk or in a partition: enough to know that something is
//! there and what to call it. The places are those of libblkid.

use std::io;

use crate::disk::Disk;

/// Name, offset from the start, magic bytes.
const AT_START: &[(&str, u64, &[u8])] = &[
    ("LUKS", 0, b"LUKS\xba\xbe"),
    ("LUKS", 0x4000, b"SKUL\xba\xbe"),
    ("LUKS", 0x8000, b"SKUL\xba\xbe"),
    ("LUKS", 0x1_0000, b"SKUL\xba\xbe"),
    ("LUKS", 0x2_0000, b"SKUL\xba\xbe"),
    ("LUKS", 0x4_0000, b"SKUL\xba\xbe"),
    ("LUKS", 0x8_0000, b"SKUL\xba\xbe"),
    ("LUKS", 0x10_0000, b"SKUL\xba\xbe"),
    ("LUKS", 0x20_0000, b"SKUL\xba\xbe"),
    ("LUKS", 0x40_0000, b"SKUL\xba\xbe"),
    ("LVM2", 0, b"LABELONE"),
    ("LVM2", 512, b"LABELONE"),
    ("LVM2", 1024, b"LABELONE"),
    ("LVM2", 1536, b"LABELONE"),
    ("md RAID", 0, MD),
    ("md RAID", 4096, MD),
    ("ext", 0x438, b"\x53\xef"),
    ("XFS", 0, b"XFSB"),
    ("btrfs", 0x1_0040, b"_BHRfS_M"),
    ("FAT", 0x36, b"FAT12   "),
    ("FAT", 0x36, b"FAT16   "),
    ("FAT", 0x52, b"FAT32   "),
    ("exFAT", 3, b"EXFAT   "),
    ("NTFS", 3, b"NTFS    "),
    ("BitLocker", 3, b"-FVE-FS-"),
    ("EROFS", 1024, b"\xe2\xe1\xf5\xe0"),
    ("squashfs", 0, b"hsqs"),
    ("F2FS", 1024, b"\x10\x20\xf5\xf2"),
    ("ISO 9660", 0x8001, b"CD001"),
    ("dm-verity", 0, b"verity\0\0"),
    ("bcache", 4096 + 24, b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"),
    ("bcachefs", 4096 + 24, b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"),
    // At the end of a page, whose size is that of the machine that made it.
    ("swap", 0x1000 - 10, b"SWAPSPACE2"),
    ("swap", 0x2000 - 10, b"SWAPSPACE2"),
    ("swap", 0x4000 - 10, b"SWAPSPACE2"),
    ("swap", 0x1_0000 - 10, b"SWAPSPACE2"),
];

const MD: &[u8] = b"\xfc\x4e\x2b\xa9";

/// Names of what is in the `size` bytes of the disk from `start` on, each once.
///
/// # Errors
/// The device's.
pub(crate) fn signatures(disk: &dyn Disk, start: u64, size: u64) -> io::Result<Vec<&'static str>> {
    Area { disk, start, size, except: &[] }.signatures()
}

/// Names of what the disk holds as a whole beside its `partitions` (first byte and bytes): a place inside of one is its own.
///
/// # Errors
/// The device's.
pub(super) fn signatures_beside(disk: &dyn Disk, partitions: &[(u64, u64)]) -> io::Result<Vec<&'static str>> {
    Area { disk, start: 0, size: disk.size(), except: partitions }.signatures()
}

/// GPT headers that make no valid table: damaged, or made for another sector size.
///
/// # Errors
/// The device's.
pub(super) fn broken_tables(disk: &dyn Disk) -> io::Result<Option<&'static str>> {
    let area = Area { disk, start: 0, size: disk.size(), except: &[] };
    for sector in super::SECTOR_SIZES {
        if area.has(Some(sector), GPT)? || area.has(disk.size().checked_sub(sector), GPT)? {
            return Ok(Some("a GPT that is damaged or made for another sector size"));
        }
    }
    Ok(None)
}

const GPT: &[u8] = b"EFI PART";

struct Area<'a> {
    disk: &'a dyn Disk,
    start: u64,
    size: u64,
    /// First byte and bytes of parts that are no part of it.
    except: &'a [(u64, u64)],
}

impl Area<'_> {
    fn signatures(&self) -> io::Result<Vec<&'static str>> {
        let mut found = Vec::new();
        for (name, offset, magic) in AT_START {
            if self.has(Some(*offset), magic)? {
                found.push(*name);
            }
        }
        let size = self.size;
        let sectors = size / 512;
        let at_end: [(&str, Option<u64>, &[u8]); 4] = [
            // md 1.0: at least 8 KiB before the end, at a multiple of 4 KiB; md 0.90: the last whole 64 KiB.
            ("md RAID", sectors.checked_sub(16).map(|sector| (sector & !7) * 512), MD),
            ("md RAID", (size & !0xffff).checked_sub(0x1_0000), MD),
            ("Intel RAID", size.checked_sub(1024), b"Intel Raid ISM Cfg Sig. "),
            ("DDF RAID", size.checked_sub(512), b"\xde\x11\xde\x11"),
        ];
        for (name, offset, magic) in at_end {
            if self.has(offset, magic)? {
                found.push(name);
            }
        }
        if self.has_zfs()? {
            found.push("ZFS");
        }
        found.dedup();
        Ok(found)
    }

    /// Whether `magic` is at `offset`; what lies outside of the area is not there.
    fn has(&self, offset: Option<u64>, magic: &[u8]) -> io::Result<bool> {
        let mut bytes = [0; 32];
        let bytes = bytes.get_mut(..magic.len()).unwrap_or_default();
        Ok(match offset {
            Some(offset) => self.read(offset, bytes)? && bytes == magic,
            None => false,
        })
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<bool> {
        let length = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.size);
        let Some(position) = self.start.checked_add(offset).filter(|_| inside) else { return Ok(false) };
        let end = position.saturating_add(length);
        if self.except.iter().any(|(start, size)| *start < end && position < start.saturating_add(*size)) {
            return Ok(false);
        }
        self.disk.read_at(position, bytes)?;
        Ok(true)
    }

    /// ZFS has four labels of 256 KiB, two at each end; the second half of each is a ring of uberblocks, at least 1 KiB
    /// apart, that start with 00bab10ch in the byte order of the machine that wrote them.
    fn has_zfs(&self) -> io::Result<bool> {
        const LABEL: u64 = 256 << 10;
        let end = self.size & !(LABEL - 1);
        let labels = [Some(0), Some(LABEL), end.checked_sub(2 * LABEL), end.checked_sub(LABEL)];
        let mut ring = vec![0; 128 << 10];
        for label in labels.into_iter().flatten() {
            if !self.read(label + LABEL / 2, &mut ring)? {
                continue;
            }
            let magic = |block: &[u8]| {
                let magic = block.first_chunk::<8>();
                magic.is_some_and(|m| u64::from_le_bytes(*m) == 0x00ba_b10c || u64::from_be_bytes(*m) == 0x00ba_b10c)
            };
            if ring.chunks_exact(1024).any(magic) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests;
