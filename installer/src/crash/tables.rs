//! Partition tables, read as firmware and as Linux read them (UEFI specification 2.10, section 5.3; Gpt.c of EDK2's
//! PartitionDxe; block/partitions/efi.c of Linux). It shares no code with what writes them.

use std::sync::Arc;

use uuid::Uuid;

use crate::disk::{Disk, Overlay};

/// Bytes of an entry, the only length that Linux takes.
const ENTRY: usize = 128;
/// No table of ours or of anybody's has more entries.
const MOST_ENTRIES: u32 = 1024;

/// A partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub uuid: Uuid,
    /// First byte on the disk, and bytes.
    pub start: u64,
    pub size: u64,
}

/// A copy of a table whose checksums are right.
struct Copy {
    /// The sector of the header.
    header: Vec<u8>,
    entries: Vec<u8>,
}

/// What firmware finds: the copy at the start, or the one at the end where that is damaged, both behind a protective MBR.
pub fn firmware(disk: &dyn Disk) -> Option<Vec<Part>> {
    let copy = is_protective(disk).then(|| Copy::read(disk, 1).or_else(|| Copy::read(disk, last_sector(disk))))?;
    copy.map(|copy| copy.parts(disk))
}

/// What a kernel with this command line finds: the copy at the start behind a protective MBR. With the word `gpt` it looks at
/// no MBR, and at the copy at the end where the first is damaged.
pub fn linux(disk: &dyn Disk, command_line: &str) -> Option<Vec<Part>> {
    let forced = command_line.split(' ').any(|word| word == "gpt");
    if !forced && !is_protective(disk) {
        return None;
    }
    let copy = Copy::read(disk, 1).or_else(|| Copy::read(disk, last_sector(disk)).filter(|_| forced))?;
    Some(copy.parts(disk))
}

/// The disk as firmware leaves it that mends a damaged copy from the good one, as EDK2 does before it starts anything; `None`
/// where there is nothing to mend.
pub fn mended(disk: &Arc<dyn Disk>) -> Option<Arc<dyn Disk>> {
    if !is_protective(disk.as_ref()) {
        return None;
    }
    let good = match Copy::read(disk.as_ref(), 1) {
        Some(first) if Copy::read(disk.as_ref(), first.long(32)).is_some() => return None,
        Some(first) => first,
        None => Copy::read(disk.as_ref(), last_sector(disk.as_ref()))?,
    };
    let mended = Overlay::new(Arc::clone(disk));
    for (lba, bytes) in good.other() {
        // A copy that lies behind the end of the disk is not written.
        let offset = lba.checked_mul(u64::from(disk.sector_size()))?;
        mended.write_at(offset, &bytes).ok()?;
    }
    Some(Arc::new(mended))
}

fn last_sector(disk: &dyn Disk) -> u64 {
    disk.size() / u64::from(disk.sector_size()) - 1
}

/// The signature of an MBR, and a partition of type EEh that begins at sector 1.
fn is_protective(disk: &dyn Disk) -> bool {
    let mut mbr = vec![0; 4096];
    disk.read_at(0, &mut mbr).unwrap();
    let mut entries = mbr[446..510].chunks(16);
    mbr[510..512] == [0x55, 0xAA] && entries.any(|entry| entry[4] == 0xEE && entry[8..12] == [1, 0, 0, 0])
}

impl Copy {
    /// The copy whose header is in sector `lba` (`is_gpt_valid` in efi.c).
    fn read(disk: &dyn Disk, lba: u64) -> Option<Self> {
        let sector = u64::from(disk.sector_size());
        let read = |lba: u64, length: u64| {
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            disk.read_at(lba.checked_mul(sector)?, &mut bytes).ok()?;
            Some(bytes)
        };
        let mut copy = Self { header: read(lba, sector)?, entries: Vec::new() };
        let (length, count) = (usize::try_from(copy.word(12)).unwrap(), copy.word(80));
        let is_header = copy.header.starts_with(b"EFI PART") && (92..=copy.header.len()).contains(&length);
        if !is_header || copy.word(16) != header_sum(&copy.header[..length]) || copy.long(24) != lba {
            return None;
        }
        let usable = copy.long(40) <= copy.long(48) && copy.long(48) <= last_sector(disk);
        if !usable || copy.word(84) != 128 || !(1..=MOST_ENTRIES).contains(&count) {
            return None;
        }
        copy.entries = read(copy.long(72), u64::from(count) * 128)?;
        (crc32(&copy.entries) == copy.word(88)).then_some(copy)
    }

    fn word(&self, at: usize) -> u32 {
        u32::from_le_bytes(*self.header[at..].first_chunk().unwrap())
    }

    fn long(&self, at: usize) -> u64 {
        u64::from_le_bytes(*self.header[at..].first_chunk().unwrap())
    }

    /// The used entries.
    fn parts(&self, disk: &dyn Disk) -> Vec<Part> {
        let sector = u64::from(disk.sector_size());
        let part = |entry: &[u8; ENTRY]| {
            let long = |at: usize| u64::from_le_bytes(*entry[at..].first_chunk().unwrap());
            let (first, last) = (long(32), long(40));
            // What reaches beyond the disk Linux leaves out (`is_pte_valid` in efi.c).
            let is_used = entry[..16] != [0; 16] && first <= last && last <= last_sector(disk);
            let uuid = Uuid::from_bytes_le(*entry[16..].first_chunk().unwrap());
            is_used.then(|| Part { uuid, start: first * sector, size: (last - first + 1) * sector })
        };
        self.entries.as_chunks::<ENTRY>().0.iter().filter_map(part).collect()
    }

    /// The other copy as firmware makes it from this one (`PartitionRestoreGptTable` of EDK2): where header and entries go.
    fn other(&self) -> [(u64, Vec<u8>); 2] {
        let (own, other, behind) = (self.long(24), self.long(32), self.long(48) + 1);
        let entries = if own == 1 { behind } else { 2 };
        let mut header = self.header.clone();
        for (at, lba) in [(24, other), (32, own), (72, entries)] {
            header[at..at + 8].copy_from_slice(&lba.to_le_bytes());
        }
        let length = usize::try_from(self.word(12)).unwrap();
        let sum = header_sum(&header[..length]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        [(other, header), (entries, self.entries.clone())]
    }
}

/// The checksum of a header, whose own place counts as zero.
fn header_sum(header: &[u8]) -> u32 {
    let mut header = header.to_vec();
    header[16..20].fill(0);
    crc32(&header)
}

/// CRC-32 as Ethernet has it.
fn crc32(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), shift))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::disk::Memory;

    const SIZE: u64 = 8 << 20;

    /// A disk with one partition, whose table sfdisk has made.
    fn made_by_sfdisk() -> Arc<dyn Disk> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
        let mut sfdisk = Command::new("sfdisk").arg("--quiet").arg(&path).stdin(Stdio::piped()).spawn().unwrap();
        let script = "label: gpt\nstart=1MiB, size=2MiB, uuid=00112233-4455-6677-8899-aabbccddeeff\n";
        sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(sfdisk.wait().unwrap().success());
        let disk = Memory::new(SIZE, 512);
        disk.write_at(0, &fs::read(&path).unwrap()).unwrap();
        Arc::new(disk)
    }

    fn flip(disk: &dyn Disk, at: u64) {
        let mut sector = [0; 512];
        let (start, inside) = (at / 512 * 512, usize::try_from(at % 512).unwrap());
        disk.read_at(start, &mut sector).unwrap();
        sector[inside] ^= 1;
        disk.write_at(start, &sector).unwrap();
    }

    fn all(disk: &dyn Disk) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(SIZE).unwrap()];
        disk.read_at(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_table_is_read_as_it_was_made() {
        let disk = made_by_sfdisk();
        let uuid = "00112233-4455-6677-8899-aabbccddeeff".parse().unwrap();
        let expected = vec![Part { uuid, start: 1 << 20, size: 2 << 20 }];
        assert_eq!(firmware(disk.as_ref()), Some(expected.clone()));
        assert_eq!(linux(disk.as_ref(), ""), Some(expected));
        assert!(mended(&disk).is_none());
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn either_copy_is_enough_for_firmware_and_is_mended_from_the_other() {
        // Header and entries of each copy.
        for (at, is_first) in
            [(512 + 60, true), (1024 + 40, true), (SIZE - 512 + 60, false), (SIZE - 33 * 512 + 40, false)]
        {
            let disk = made_by_sfdisk();
            let (whole, found) = (all(disk.as_ref()), firmware(disk.as_ref()));
            flip(disk.as_ref(), at);
            assert_eq!(firmware(disk.as_ref()), found);
            assert_eq!(linux(disk.as_ref(), "").is_none(), is_first);
            assert_eq!(linux(disk.as_ref(), "quiet gpt"), found);
            assert!(all(mended(&disk).unwrap().as_ref()) == whole, "byte {at}");
        }
    }

    #[test]
    fn without_a_protective_mbr_only_a_forced_kernel_finds_it() {
        let disk = made_by_sfdisk();
        flip(disk.as_ref(), 510);
        assert!(firmware(disk.as_ref()).is_none() && linux(disk.as_ref(), "gpt2").is_none() && mended(&disk).is_none());
        assert!(linux(disk.as_ref(), "gpt").is_some());
    }

    #[test]
    fn two_damaged_copies_are_no_table() {
        let disk = made_by_sfdisk();
        [512 + 60, SIZE - 512 + 60].into_iter().for_each(|at| flip(disk.as_ref(), at));
        assert!(firmware(disk.as_ref()).is_none() && linux(disk.as_ref(), "gpt").is_none() && mended(&disk).is_none());
    }
}
