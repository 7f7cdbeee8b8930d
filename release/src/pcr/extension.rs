//! What systemd-stub extends PCR 11 with: for each section of the UKI its name, then its content.

use std::io::{self, Read, Seek, SeekFrom};

use super::{Bank, BankDigest, Hasher};
use crate::uki::{Section, Sections, UkiError};

/// The sections that are measured, in the order in which they are, wherever they lie in the file. `.pcrsig` is not: it
/// holds signatures of the result.
pub const MEASURED: [&str; 14] = [
    ".linux", ".osrel", ".cmdline", ".initrd", ".ucode", ".splash", ".dtb", ".uname", ".sbat", ".pcrpkey", ".profile",
    ".dtbauto", ".hwids", ".efifw",
];
/// Of these the stub takes, and measures, the one that fits the machine, if any does.
const BY_HARDWARE: [&str; 2] = [".dtbauto", ".efifw"];

/// One extension of PCR 11.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// The section whose name or content it is: what the stub writes to the firmware's log for both.
    pub section: &'static str,
    /// The digest in each bank.
    pub digests: Vec<BankDigest>,
}

/// What the stub extends PCR 11 with for these sections of the UKI behind `reader`: for each that is not empty its name with
/// a NUL, then its content as it lies in memory, zeroes behind what the file holds included.
///
/// # Errors
/// A section cannot be read; there is no kernel, which the stub refuses; or a section is one that the stub chooses by hardware.
pub fn extensions(
    reader: &mut (impl Read + Seek),
    sections: &Sections,
    banks: &[Bank],
) -> Result<Vec<Extension>, UkiError> {
    let mut extensions = Vec::new();
    for (name, section) in measured(sections)? {
        extensions.extend(Extension::of_section(name, content(reader, section, banks)?));
    }
    Ok(extensions)
}

/// The sections that the stub measures, in its order.
///
/// # Errors
/// There is no kernel, which the stub refuses; or a section is one that the stub chooses by hardware.
pub fn measured(sections: &Sections) -> Result<Vec<(&'static str, &Section)>, UkiError> {
    sections.required(".linux")?;
    let mut found = Vec::new();
    for name in MEASURED {
        let Some(section) = sections.get(name).filter(|section| section.virtual_size > 0) else { continue };
        if BY_HARDWARE.contains(&name) {
            return Err(UkiError::ByHardware(name));
        }
        found.push((name, section));
    }
    Ok(found)
}

impl Extension {
    /// The two of a section whose content has these digests: its name with a NUL, then the content.
    #[must_use]
    pub fn of_section(section: &'static str, content: Vec<BankDigest>) -> [Self; 2] {
        let with_nul = [section.as_bytes(), b"\0"].concat();
        let name = content.iter().map(|digest| digest.bank.digest(&with_nul)).collect();
        [Self { section, digests: name }, Self { section, digests: content }]
    }
}

fn content(reader: &mut (impl Read + Seek), section: &Section, banks: &[Bank]) -> Result<Vec<BankDigest>, UkiError> {
    let failed = |source| UkiError::Read { name: section.name.clone(), source };
    let stored = section.stored_size();
    let mut hasher = Hasher::new(banks);
    reader.seek(SeekFrom::Start(section.file_offset)).map_err(failed)?;
    let found = io::copy(&mut reader.by_ref().take(stored), &mut hasher).map_err(failed)?;
    if found != stored {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    io::copy(&mut io::repeat(0).take(section.virtual_size - stored), &mut hasher).map_err(failed)?;
    Ok(hasher.finish())
}
