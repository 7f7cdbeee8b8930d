//! The files of an ESP, read as firmware reads them (Microsoft, "FAT32 File System Specification" 1.03; EDK2's FatPkg). It
//! shares no code with what writes them, so that both cannot be wrong in the same way.

use crate::disk::Region;

/// Bytes of a directory entry.
const SLOT: usize = 32;
/// The bits of a FAT entry that count, and from where on an entry ends a chain.
const ENTRY: u32 = 0x0FFF_FFFF;
const END: u32 = 0x0FFF_FFF8;
/// No directory is longer.
const MOST_DIRECTORY_BYTES: u64 = 65_536 * 32;

/// A FAT32 file system that firmware accepts.
#[derive(Debug)]
pub struct Files {
    region: Region,
    cluster: u64,
    fat: u64,
    data: u64,
    clusters: u64,
    root: u32,
}

/// A name in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    first: u32,
    size: u64,
    is_directory: bool,
}

impl Named {
    /// An empty file with this name.
    pub fn called(name: &str) -> Self {
        Self { name: name.to_owned(), first: 0, size: 0, is_directory: false }
    }
}

impl Files {
    /// `None` where there is no file system.
    pub fn open(region: Region) -> Option<Self> {
        let mut boot = [0; 512];
        region.read_at(0, &mut boot).ok()?;
        let word = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let long = |at: usize| word(at) | word(at + 2) << 16;
        let (sector, per_cluster, reserved, fats) = (word(11), u64::from(boot[13]), word(14), u64::from(boot[16]));
        let is_fat32 = word(17) == 0 && word(22) == 0 && boot[510..] == [0x55, 0xAA];
        let is_sane = per_cluster.is_power_of_two() && fats > 0 && sector == u64::from(region.disk.sector_size());
        let data = (reserved + fats * long(36)) * sector;
        let total = long(32) * sector;
        if !is_fat32 || !is_sane || data >= total || total > region.size {
            return None;
        }
        let cluster = per_cluster * sector;
        let root = u32::try_from(long(44)).ok()?;
        Some(Self { region, cluster, fat: reserved * sector, data, clusters: (total - data) / cluster, root })
    }

    /// The file or directory at `path`, parts separated by `/`; cases do not count.
    pub fn find(&self, path: &str) -> Option<Named> {
        let mut at = Named { name: String::new(), first: self.root, size: 0, is_directory: true };
        for part in path.split('/') {
            at = self.list(&at)?.into_iter().find(|named| named.name.eq_ignore_ascii_case(part))?;
        }
        Some(at)
    }

    /// What is in a directory; `None` if it is none, or damaged.
    pub fn list(&self, directory: &Named) -> Option<Vec<Named>> {
        let bytes = if directory.is_directory { self.content(directory.first, None)? } else { return None };
        let mut names = Vec::new();
        // The parts of a long name, the last one first: number, checksum, UTF-16 units.
        let mut parts: Vec<(u8, u8, Vec<u16>)> = Vec::new();
        for slot in bytes.as_chunks::<SLOT>().0 {
            match (slot[0], slot[11]) {
                (0, _) => break,
                (0xE5, _) => parts.clear(),
                (number, 0x0F) => parts.push((number, slot[13], units(slot))),
                (_, attributes) => {
                    let name = long_name(&parts, slot).unwrap_or_else(|| short_name(slot));
                    parts.clear();
                    // Not the volume's label, nor the directory itself and the one above it.
                    if attributes & 0x08 == 0 && !name.chars().all(|c| c == '.') {
                        names.push(named(name, slot));
                    }
                }
            }
        }
        Some(names)
    }

    /// The bytes of a file; `None` if its clusters do not lead to its end.
    pub fn read(&self, file: &Named) -> Option<Vec<u8>> {
        if file.is_directory { None } else { self.content(file.first, Some(file.size)) }
    }

    /// The clusters from `first` on, up to `size` bytes where that is known.
    fn content(&self, first: u32, size: Option<u64>) -> Option<Vec<u8>> {
        let (mut bytes, mut next) = (Vec::new(), first);
        let wanted = size.unwrap_or(MOST_DIRECTORY_BYTES);
        while (bytes.len() as u64) < wanted {
            if next >= END && size.is_none() {
                break;
            }
            let number = u64::from(next).checked_sub(2).filter(|number| *number < self.clusters)?;
            let start = bytes.len();
            bytes.resize(start + usize::try_from(self.cluster).unwrap(), 0);
            self.region.read_at(self.data + number * self.cluster, &mut bytes[start..]).ok()?;
            let mut entry = [0; 4];
            self.region.read_at(self.fat + u64::from(next) * 4, &mut entry).ok()?;
            next = u32::from_le_bytes(entry) & ENTRY;
        }
        bytes.truncate(usize::try_from(wanted).unwrap());
        Some(bytes)
    }
}

fn named(name: String, slot: &[u8; SLOT]) -> Named {
    let word = |at: usize| u32::from(u16::from_le_bytes([slot[at], slot[at + 1]]));
    let size = u64::from(word(28) | word(30) << 16);
    Named { name, first: word(26) | word(20) << 16, size, is_directory: slot[11] & 0x10 != 0 }
}

/// The part of a name that is in an entry, without what fills it up.
fn units(slot: &[u8; SLOT]) -> Vec<u16> {
    let places = [&slot[1..11], &slot[14..26], &slot[28..32]];
    let units = places.into_iter().flat_map(|place| place.as_chunks::<2>().0).map(|unit| u16::from_le_bytes(*unit));
    units.take_while(|unit| *unit != 0).collect()
}

/// The name that `parts` have for the short entry behind them, if they are all there and belong to it.
fn long_name(parts: &[(u8, u8, Vec<u16>)], slot: &[u8; SLOT]) -> Option<String> {
    let sum = slot[..11].iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let count = u8::try_from(parts.len()).ok().filter(|count| *count > 0)?;
    let numbers = std::iter::once(count | 0x40).chain((1..count).rev());
    let fits = parts.iter().zip(numbers).all(|((number, checksum, _), wanted)| *number == wanted && *checksum == sum);
    let units: Vec<u16> = parts.iter().rev().flat_map(|(_, _, units)| units.clone()).collect();
    fits.then(|| String::from_utf16_lossy(&units))
}

fn short_name(slot: &[u8; SLOT]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    let (base, extension) = (text(&slot[..8]), text(&slot[8..11]));
    if extension.is_empty() { base } else { format!("{base}.{extension}") }
}
