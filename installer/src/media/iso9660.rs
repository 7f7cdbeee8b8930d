//! ISO 9660, as optical discs and BMCs' images of them have it: the volume identifier, and a file of the root directory by
//! its plain name. Names of Rock Ridge and Joliet stand beside the plain ones and are not looked at.
//!
//! Source: ECMA-119, 2nd edition.

use std::io;

use super::ReadAt;

/// Bytes of a logical sector (section 6.1.2).
const SECTOR: usize = 2048;
/// The first sector with a volume descriptor (section 6.2.1), and the first that is not looked at any more.
const DESCRIPTORS: std::ops::Range<u64> = 16..48;
/// Types of volume descriptors (section 8.1.1).
const PRIMARY: u8 = 1;
const TERMINATOR: u8 = 255;
/// A root directory is not longer, or it is not read.
const MOST_DIRECTORY: u64 = 1 << 20;
/// Flags of a directory record (section 9.1.6): directory, associated file, more extents.
const NO_PLAIN_FILE: u8 = 1 << 1 | 1 << 2 | 1 << 7;

/// An ISO 9660 file system.
pub(super) struct Volume<'a> {
    read: ReadAt<'a>,
    /// The volume identifier.
    pub(super) label: String,
    /// Bytes of a logical block.
    block: u64,
    root_at: u64,
    root_bytes: u64,
}

impl<'a> Volume<'a> {
    /// From the primary volume descriptor (section 8.4); `None` where there is none.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn open(read: ReadAt<'a>) -> io::Result<Option<Self>> {
        let mut sector = [0; SECTOR];
        for number in DESCRIPTORS {
            match read(number * 2048, &mut sector) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                done => done?,
            }
            match sector {
                [PRIMARY, b'C', b'D', b'0', b'0', b'1', 1, ..] => return Ok(Self::primary(read, &sector)),
                [kind, b'C', b'D', b'0', b'0', b'1', ..] if kind != TERMINATOR => {}
                _ => return Ok(None),
            }
        }
        Ok(None)
    }

    fn primary(read: ReadAt<'a>, sector: &[u8; SECTOR]) -> Option<Self> {
        let label = String::from_utf8_lossy(sector.get(40..72)?).trim_end().to_owned();
        let block = u64::from(u16::from_le_bytes(*sector.get(128..)?.first_chunk()?));
        let root = Record::read(sector.get(156..190)?)?;
        let sound = matches!(block, 512 | 1024 | 2048);
        sound.then(|| Self { read, label, block, root_at: root.first * block, root_bytes: root.size.into() })
    }

    /// The bytes of the file of the root directory with this name, whatever its case and version.
    ///
    /// # Errors
    /// The device's, a file of more than `most` bytes, and one whose bytes are not in one piece.
    pub(super) fn file(&self, name: &str, most: u32) -> io::Result<Option<Vec<u8>>> {
        if self.root_bytes > MOST_DIRECTORY {
            return Err(damaged(format!("the root directory has {} bytes", self.root_bytes)));
        }
        let directory = self.bytes(self.root_at, self.root_bytes)?;
        let Some(file) = records(&directory).find(|record| record.is_named(name)) else { return Ok(None) };
        if !file.is_plain {
            return Err(damaged("it is no file in one piece"));
        }
        if file.size > most {
            return Err(damaged(format!("it has {} bytes, more than the {most} allowed", file.size)));
        }
        self.bytes(file.first * self.block, file.size.into()).map(Some)
    }

    fn bytes(&self, at: u64, length: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        (self.read)(at, &mut bytes)?;
        Ok(bytes)
    }
}

/// What a directory says of a file (section 9.1).
struct Record<'a> {
    /// The first block of its bytes.
    first: u64,
    size: u32,
    /// Whether it is a file whose bytes lie in one piece.
    is_plain: bool,
    name: &'a [u8],
}

impl<'a> Record<'a> {
    fn read(record: &'a [u8]) -> Option<Self> {
        let byte = |at: usize| record.get(at).copied();
        let long = |at: usize| Some(u32::from_le_bytes(*record.get(at..)?.first_chunk()?));
        // Behind the extended attributes, if it has any.
        let first = u64::from(long(2)?) + u64::from(byte(1)?);
        // Interleaved files have a unit and a gap.
        let is_plain = byte(25)? & NO_PLAIN_FILE == 0 && (byte(26)?, byte(27)?) == (0, 0);
        let name = record.get(33..)?.get(..usize::from(byte(32)?))?;
        Some(Self { first, size: long(10)?, is_plain, name })
    }

    /// Behind the name stands `;` with a version (section 7.5.1).
    fn is_named(&self, name: &str) -> bool {
        let plain = self.name.split(|byte| *byte == b';').next().unwrap_or_default();
        plain.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// The records of a directory. None crosses the end of a sector; behind a sector's last one are zeroes (section 6.8.1.1).
fn records(directory: &[u8]) -> impl Iterator<Item = Record<'_>> {
    directory.chunks(SECTOR).flat_map(|sector| {
        let mut rest = sector;
        std::iter::from_fn(move || {
            let length = usize::from(*rest.first()?);
            // A zero is no length, and the end.
            let (record, behind) = rest.split_at_checked(length.max(1))?;
            rest = behind;
            Record::read(record)
        })
    })
}

fn damaged(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}
