//! The sections of a unified kernel image, which is a PE32+ file
//! (<https://uapi-group.org/specifications/specs/unified_kernel_image/>, Microsoft "PE Format"), and the boot header
//! of the kernel inside (Documentation/arch/x86/boot.rst).

use std::io::{self, Read, Seek, SeekFrom};

use crate::digest::{Digest, NotADigest};
use crate::manifest::MAX_BOOT_BYTES;

mod places;
mod split;

pub use split::{HANDED, MAX_HANDED, trim_cmdline};

/// The most bytes of a UKI that [`Sections::parse`] looks at; the headers lie well below.
pub const HEAD_BYTES: usize = 64 << 10;
/// The most sections: what the PE loader of Windows takes, and far more than any UKI has.
const MAX_SECTIONS: usize = 96;
/// `IMAGE_FILE_MACHINE_AMD64`.
const MACHINE_X86_64: u16 = 0x8664;
/// The most bytes of a command line that are looked at; no x86 kernel takes as many.
pub const MAX_CMDLINE: u64 = 64 << 10;
/// Magic of the optional header of PE32+.
const PE32_PLUS: u16 = 0x20b;
/// Bytes of the optional header of PE32+ without data directories.
const OPTIONAL_HEADER: usize = 112;
/// Bytes of a section header.
const SECTION_HEADER: usize = 40;
/// The section that begins a profile.
const PROFILE: &str = ".profile";
/// Sections that a UKI may hold several times; systemd-stub chooses among them by hardware.
const REPEATABLE: [&str; 3] = [".dtbauto", ".hwids", ".efifw"];

/// Why bytes are no UKI that can be started.
#[derive(Debug, thiserror::Error)]
pub enum UkiError {
    /// Not a PE file of this kind, or a section that cannot be.
    #[error("the UKI {0}")]
    Malformed(String),
    /// A section that must be there is missing.
    #[error("the UKI has no section {0}")]
    Missing(String),
    /// A section is larger than the reader takes.
    #[error("the UKI's section {name} has {size} bytes, more than {limit}")]
    TooLarge {
        /// Its name.
        name: String,
        /// Its bytes.
        size: u64,
        /// What the reader takes.
        limit: u64,
    },
    /// A section of which systemd-stub takes the one that fits the machine.
    #[error("the UKI has a section {0}, and whether systemd-stub measures it depends on the machine's hardware")]
    ByHardware(&'static str),
    /// The kernel's boot header is not one.
    #[error("the UKI's kernel {0}")]
    Kernel(String),
    /// Its command line does not name one root file system.
    #[error("its command line {0}")]
    CommandLine(&'static str),
    /// It names one by something that is no root hash.
    #[error("its command line's roothash=")]
    RootHash(#[source] NotADigest),
    /// Its command line is not what the release's manifest says.
    #[error("the UKI's command line is {found:?}, but the manifest says {said:?}")]
    OtherCommandLine {
        /// What it is.
        found: String,
        /// What the manifest says.
        said: String,
    },
    /// A section could not be read.
    #[error("reading the UKI's section {name}")]
    Read {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// One section of a UKI. Its content is `virtual_size` bytes: those in the file, then zeroes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name, as `.linux`.
    pub name: String,
    /// Where it starts in the file.
    pub file_offset: u64,
    /// Its bytes in the file; those behind `virtual_size` are padding.
    pub raw_size: u64,
    /// Bytes of its content.
    pub virtual_size: u64,
}

impl Section {
    /// Bytes of the content that lie in the file.
    #[must_use]
    pub fn stored_size(&self) -> u64 {
        self.raw_size.min(self.virtual_size)
    }
}

/// The sections that a profile of a UKI has, in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sections(Vec<Section>);

/// Little-endian numbers at offsets of a header.
struct Header<'a>(&'a [u8]);

impl Header<'_> {
    fn bytes<const N: usize>(&self, offset: usize) -> Result<[u8; N], UkiError> {
        let found = self.0.get(offset..).and_then(<[u8]>::first_chunk);
        found.copied().ok_or_else(|| UkiError::Malformed(format!("ends before its header does, at byte {offset}")))
    }

    fn u16(&self, offset: usize) -> Result<u16, UkiError> {
        self.bytes(offset).map(u16::from_le_bytes)
    }

    fn u32(&self, offset: usize) -> Result<u32, UkiError> {
        self.bytes(offset).map(u32::from_le_bytes)
    }
}

fn malformed<T>(problem: impl Into<String>) -> Result<T, UkiError> {
    Err(UkiError::Malformed(problem.into()))
}

impl Sections {
    /// Parses the headers in the first bytes of a UKI ([`HEAD_BYTES`] are enough): the sections that systemd-stub uses where
    /// it is told no profile. A UKI need not have any.
    ///
    /// # Errors
    /// Says what is not as in a UKI for x86-64.
    pub fn parse(head: &[u8]) -> Result<Self, UkiError> {
        Self::parse_profile(head, 0)
    }

    /// The same for the profile of this number, from 0: what comes before the first `.profile` belongs to all of them, and a
    /// profile's own sections replace those of the same name (systemd, `src/boot/stub.c`, find_sections).
    ///
    /// # Errors
    /// As [`Sections::parse`]; there is no such profile.
    pub fn parse_profile(head: &[u8], number: usize) -> Result<Self, UkiError> {
        let table = table(head)?;
        let groups: Vec<&[Section]> = table.chunk_by(|_, next| next.name != PROFILE).collect();
        groups.iter().try_for_each(|group| check(group))?;
        let is_profile = |group: &&[Section]| group.first().is_some_and(|section| section.name == PROFILE);
        let base = groups.first().copied().filter(|group| !is_profile(group)).unwrap_or_default();
        let own = match groups.iter().copied().filter(is_profile).nth(number) {
            Some(own) => own,
            None if number == 0 => &[],
            None => return malformed(format!("has no profile {number}")),
        };
        let replaced = |section: &&Section| own.iter().any(|other| other.name == section.name);
        Ok(Self(base.iter().filter(|section| !replaced(section)).chain(own).cloned().collect()))
    }

    /// The section of that name, the first one if there are several.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Section> {
        self.0.iter().find(|section| section.name == name)
    }

    /// The section of that name.
    ///
    /// # Errors
    /// [`UkiError::Missing`] when there is none.
    pub fn required(&self, name: &str) -> Result<&Section, UkiError> {
        self.get(name).ok_or_else(|| UkiError::Missing(name.to_owned()))
    }

    /// All sections in file order.
    pub fn iter(&self) -> std::slice::Iter<'_, Section> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a Sections {
    type Item = &'a Section;
    type IntoIter = std::slice::Iter<'a, Section>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// The section table of a PE file.
fn table(head: &[u8]) -> Result<Vec<Section>, UkiError> {
    let header = Header(head);
    if header.bytes(0)? != *b"MZ" {
        return malformed("is no PE file: it does not start with MZ");
    }
    let coff = header.u32(0x3c)? as usize;
    let Some(coff) = coff.checked_add(4).filter(|offset| *offset < HEAD_BYTES) else {
        return malformed(format!("has its PE header at byte {coff}, too far behind"));
    };
    if header.bytes(coff - 4)? != *b"PE\0\0" {
        return malformed("is no PE file: the PE signature is missing");
    }
    if header.u16(coff)? != MACHINE_X86_64 {
        return malformed(format!("is for machine {:#06x}, not x86-64", header.u16(coff)?));
    }
    if header.u16(coff + 20)? != PE32_PLUS {
        return malformed("is no PE32+ file");
    }
    let count = usize::from(header.u16(coff + 2)?);
    if count > MAX_SECTIONS {
        return malformed(format!("has {count} sections, more than {MAX_SECTIONS}"));
    }
    let size = usize::from(header.u16(coff + 16)?);
    if size < OPTIONAL_HEADER {
        return malformed("has its section table within its optional header");
    }
    let table = coff + 20 + size;
    let found: Vec<_> =
        (0..count).map(|index| section(&header, table + index * SECTION_HEADER)).collect::<Result<_, _>>()?;
    places::check(&found, (table + count * SECTION_HEADER) as u64)?;
    Ok(found.into_iter().map(|(section, _)| section).collect())
}

/// Checks the sections that all profiles have, or those of one.
fn check(group: &[Section]) -> Result<(), UkiError> {
    for (index, section) in group.iter().enumerate() {
        let name = section.name.as_str();
        if group.iter().take(index).any(|other| other.name == name) && !REPEATABLE.contains(&name) {
            return malformed(format!("has two sections {name}"));
        }
        if section.virtual_size > MAX_BOOT_BYTES {
            return malformed(format!("has a section {name} of {} bytes, too large", section.virtual_size));
        }
    }
    Ok(())
}

/// A section, and its address in memory.
fn section(header: &Header<'_>, offset: usize) -> Result<(Section, u64), UkiError> {
    let name: [u8; 8] = header.bytes(offset)?;
    let end = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let name = name.get(..end).filter(|name| name.iter().all(u8::is_ascii_graphic)).map(<[u8]>::to_vec);
    let Some(name) = name.and_then(|name| String::from_utf8(name).ok()) else {
        return malformed(format!("has a section name that is not ASCII, at byte {offset}"));
    };
    let section = Section {
        name,
        virtual_size: header.u32(offset + 8)?.into(),
        raw_size: header.u32(offset + 16)?.into(),
        file_offset: header.u32(offset + 20)?.into(),
    };
    Ok((section, header.u32(offset + 12)?.into()))
}

/// The one root hash that a command line names (systemd-veritysetup-generator, "roothash=").
///
/// # Errors
/// When it names none, several, or what is no SHA-256.
pub fn root_hash(cmdline: &str) -> Result<Digest, UkiError> {
    let mut hashes = cmdline.split([' ', '\n', '\0']).filter_map(|word| word.strip_prefix("roothash="));
    match (hashes.next(), hashes.next()) {
        (Some(hash), None) => hash.parse().map_err(UkiError::RootHash),
        (None, _) => Err(UkiError::CommandLine("has no roothash=, so it would not start from a verified root")),
        (Some(_), Some(_)) => Err(UkiError::CommandLine("has several roothash=")),
    }
}

/// Reads the content of `section`, zeroes at its end included.
///
/// # Errors
/// When it has more than `limit` bytes, or when the file ends before it does.
pub fn read_section(reader: &mut (impl Read + Seek), section: &Section, limit: u64) -> Result<Vec<u8>, UkiError> {
    let name = || section.name.clone();
    let too_large = || UkiError::TooLarge { name: name(), size: section.virtual_size, limit };
    if section.virtual_size > limit {
        return Err(too_large());
    }
    let size = usize::try_from(section.virtual_size).map_err(|_| too_large())?;
    let mut read = |content: &mut Vec<u8>| {
        reader.seek(SeekFrom::Start(section.file_offset))?;
        reader.by_ref().take(section.stored_size()).read_to_end(content)
    };
    let mut content = Vec::new();
    let stored = read(&mut content).map_err(|source| UkiError::Read { name: name(), source })?;
    if stored as u64 != section.stored_size() {
        return Err(UkiError::Read { name: name(), source: io::ErrorKind::UnexpectedEof.into() });
    }
    content.resize(size, 0);
    Ok(content)
}

/// Whether the first bytes of a kernel are not those of one that only EFI can unpack (Linux
/// drivers/firmware/efi/libstub/zboot-header.S): kexec starts what is inside, and nothing vouches for that.
///
/// # Errors
/// [`UkiError::Kernel`] if they are.
pub fn refuse_zboot(kernel_head: &[u8]) -> Result<(), UkiError> {
    if kernel_head.starts_with(b"MZ") && kernel_head.get(4..8) == Some(b"zimg") {
        return Err(UkiError::Kernel("is compressed for EFI (zboot), so kexec cannot start it".to_owned()));
    }
    Ok(())
}

/// The most bytes of command line that the kernel takes, terminating NUL not counted: `cmdline_size` of the boot
/// header in the first bytes (1 KiB is enough) of a bzImage.
///
/// # Errors
/// When they are not a bzImage of boot protocol 2.06 or later.
pub fn cmdline_limit(kernel_head: &[u8]) -> Result<u32, UkiError> {
    refuse_zboot(kernel_head)?;
    let refuse = |problem: &str| UkiError::Kernel(problem.to_owned());
    let header = Header(kernel_head);
    let short = |_| refuse("ends before its boot header does");
    if header.bytes(0x1fe).map_err(short)? != [0x55, 0xaa] || header.bytes(0x202).map_err(short)? != *b"HdrS" {
        return Err(refuse("has no boot header"));
    }
    let version = header.u16(0x206).map_err(short)?;
    if version < 0x206 {
        return Err(UkiError::Kernel(format!("has boot protocol {version:#06x}, older than 0x0206")));
    }
    header.u32(0x238).map_err(short)
}

#[cfg(test)]
pub(crate) mod tests;
