//! `EFI_LOAD_OPTION`, what a `Boot####` variable holds (UEFI 2.10 §3.1.3), the two device path nodes that make an
//! entry of ours (§10.3.5.1 hard drive, §10.3.5.4 file path), and those that tell the network from a local medium (§10.3.4,
//! §10.3.5, §10.3.6).

use uuid::Uuid;

/// `LOAD_OPTION_ACTIVE`.
pub const ACTIVE: u32 = 1;

/// The partition an entry points to. LBAs count logical sectors of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// Its number in the GPT, from 1.
    pub number: u32,
    /// Its first sector.
    pub start_lba: u64,
    /// Its sectors.
    pub size_lba: u64,
    /// Its unique GUID, textual byte order.
    pub guid: Uuid,
}

/// A boot entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOption {
    /// `LOAD_OPTION_*` bits.
    pub attributes: u32,
    /// What the firmware's menu shows.
    pub title: String,
    /// Device paths as they are, end nodes included.
    pub device_path: Vec<u8>,
    /// What the started program is handed.
    pub data: Vec<u8>,
}

/// Where the firmware gets what an entry starts, as far as its device path tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A network.
    Network,
    /// A disk, a stick, a disc: of this machine, or one that a BMC or a storage network makes of something else.
    Local,
    /// The path has names of the vendor's own, or is damaged: it may be either.
    Unknown,
}

impl LoadOption {
    /// An active entry that starts `path` (with backslashes) on a GPT partition.
    ///
    /// `None` if `path` is longer than a device path node holds.
    #[must_use]
    pub fn new(title: &str, partition: &Partition, path: &str) -> Option<Self> {
        let mut drive = Vec::with_capacity(38);
        drive.extend(partition.number.to_le_bytes());
        drive.extend(partition.start_lba.to_le_bytes());
        drive.extend(partition.size_lba.to_le_bytes());
        drive.extend(partition.guid.to_bytes_le());
        // Format: GPT. Signature: GUID.
        drive.extend([2, 2]);
        let mut device_path = Vec::new();
        push_node(&mut device_path, HARD_DRIVE, &drive)?;
        push_node(&mut device_path, FILE_PATH, &utf16(path))?;
        push_node(&mut device_path, END, &[])?;
        Some(Self { attributes: ACTIVE, title: title.replace('\0', ""), device_path, data: Vec::new() })
    }

    /// The variable's bytes; `None` if the device path is longer than its length field holds.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let mut bytes = self.attributes.to_le_bytes().to_vec();
        bytes.extend(u16::try_from(self.device_path.len()).ok()?.to_le_bytes());
        bytes.extend(utf16(&self.title));
        bytes.extend(&self.device_path);
        bytes.extend(&self.data);
        Some(bytes)
    }

    /// Reads a variable's bytes; `None` if they are no load option.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (attributes, rest) = bytes.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let units: Vec<u16> =
            rest.chunks_exact(2).map_while(|unit| unit.try_into().ok().map(u16::from_le_bytes)).collect();
        let title = units.get(..units.iter().position(|&unit| unit == 0)?)?;
        let rest = rest.get((title.len() + 1) * 2..)?;
        let (device_path, data) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
        Some(Self {
            attributes: u32::from_le_bytes(*attributes),
            title: String::from_utf16_lossy(title),
            device_path: device_path.to_vec(),
            data: data.to_vec(),
        })
    }

    /// The GPT partition and the file it points to; `None` for entries of another kind (network, legacy, built in).
    #[must_use]
    pub fn target(&self) -> Option<(Uuid, String)> {
        let mut partition = None;
        let mut path = String::new();
        let mut rest = self.device_path.as_slice();
        while let Some((kind, content, after)) = split_node(rest) {
            match kind {
                // From 20 on: the signature, and of the last two bytes the second says that it is a GUID.
                HARD_DRIVE if content.get(37) == Some(&2) => {
                    partition = content.get(20..36).and_then(|guid| guid.try_into().ok()).map(Uuid::from_bytes_le);
                }
                FILE_PATH => {
                    let units = content.chunks_exact(2).map_while(|unit| unit.try_into().ok().map(u16::from_le_bytes));
                    let part = String::from_utf16_lossy(&units.take_while(|&unit| unit != 0).collect::<Vec<_>>());
                    // A path may be cut into several nodes, with or without a backslash between them.
                    if !path.is_empty() && !path.ends_with('\\') && !part.starts_with('\\') {
                        path.push('\\');
                    }
                    path.push_str(&part);
                }
                (0x7f, _) => break,
                _ => {}
            }
            rest = after;
        }
        Some((partition?, path)).filter(|(_, path)| !path.is_empty())
    }

    /// Where the firmware gets what it starts, by the last node that tells: behind the address of an iSCSI target comes its disk,
    /// behind the USB port of an adapter its network. The bytes are firmware's or anybody's: a path without an end tells nothing.
    #[must_use]
    pub fn origin(&self) -> Origin {
        let mut origin = Origin::Unknown;
        let mut rest = self.device_path.as_slice();
        // A node has at least its header of 4 bytes, or there is none: so this ends.
        while let Some((kind, content, after)) = split_node(rest) {
            match kind {
                (0x7f, _) => return origin,
                // MAC address, IPv4, IPv6, URI.
                (MESSAGING, 0x0b | 0x0c | 0x0d | 0x18) => origin = Origin::Network,
                (MESSAGING, bus) if STORAGE.contains(&bus) => origin = Origin::Local,
                // Hard drive, CD-ROM.
                (MEDIA, 1 | 2) => origin = Origin::Local,
                // The short form of a removable medium. What a network path names a file for is still on the network.
                FILE_PATH if origin == Origin::Unknown => origin = Origin::Local,
                BBS => origin = bbs_origin(content),
                _ => {}
            }
            rest = after;
        }
        Origin::Unknown
    }
}

/// Type and subtype of a node.
type Kind = (u8, u8);
const HARD_DRIVE: Kind = (4, 1);
const FILE_PATH: Kind = (4, 4);
const END: Kind = (0x7f, 0xff);
const BBS: Kind = (5, 1);
/// Types whose subtypes are looked at.
const MESSAGING: u8 = 3;
const MEDIA: u8 = 4;
/// Messaging nodes of what holds disks: ATAPI, SCSI, Fibre Channel, IEEE 1394, USB, USB class, USB WWID, logical unit, SATA,
/// iSCSI, Fibre Channel Ex, SAS Ex, NVMe, UFS, SD, eMMC, NVDIMM, NVMe over fabrics.
const STORAGE: [u8; 18] =
    [0x01, 0x02, 0x03, 0x04, 0x05, 0x0f, 0x10, 0x11, 0x12, 0x13, 0x15, 0x16, 0x17, 0x19, 0x1a, 0x1d, 0x20, 0x22];

/// Of a device that a legacy BIOS boots: its type (UEFI 2.10 §10.3.6).
fn bbs_origin(content: &[u8]) -> Origin {
    match content.first_chunk().map(|kind| u16::from_le_bytes(*kind)) {
        // Floppy, hard drive, CD-ROM, PCMCIA, USB.
        Some(1..=5) => Origin::Local,
        // Embedded network.
        Some(6) => Origin::Network,
        // Among them 80h, an option ROM, which is often the network's.
        _ => Origin::Unknown,
    }
}

fn push_node(path: &mut Vec<u8>, (kind, subkind): Kind, content: &[u8]) -> Option<()> {
    let length = u16::try_from(content.len().checked_add(4)?).ok()?;
    path.extend([kind, subkind]);
    path.extend(length.to_le_bytes());
    path.extend(content);
    Some(())
}

/// (kind, content, what follows the node)
fn split_node(path: &[u8]) -> Option<(Kind, &[u8], &[u8])> {
    let (&[kind, subkind, low, high], _) = path.split_first_chunk::<4>()?;
    let (node, after) = path.split_at_checked(usize::from(u16::from_le_bytes([low, high])))?;
    Some(((kind, subkind), node.get(4..)?, after))
}

/// UTF-16LE with NUL, which is the encoding of every text here.
pub(crate) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}
