//! Strings that a machine's maker, BMC or hypervisor has put into SMBIOS for us: structures of type 11 ("OEM Strings"), in the
//! form of systemd's credentials: `io.systemd.credential:metalstrap.KEY=VALUE` (smbios-type-11(7)).
//!
//! The table is DSP0134's (System Management BIOS Reference Specification, section 6.1), as the kernel shows it in
//! `/sys/firmware/dmi/tables/DMI`. The entry point beside it, with address, length and checksum of the table, has been read
//! by the kernel, which shows no byte behind the table's end (drivers/firmware/dmi_scan.c): it says nothing more here.

use super::{PREFIX, Word};

/// Structure type of OEM strings, and of the last structure (DSP0134 section 7).
const OEM_STRINGS: u8 = 11;
const END_OF_TABLE: u8 = 127;
/// Bytes of type, length and handle.
const HEADER: usize = 4;
/// What a credential as text begins with, and one in base64.
const CREDENTIAL: &str = "io.systemd.credential:";
const BINARY: &str = "io.systemd.credential.binary:";

/// Why a table or a string of it is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SmbiosError {
    /// A structure without its end.
    #[error("the SMBIOS table is damaged: the structure at byte {0} has no end")]
    Cut(usize),
    /// A structure that is shorter than its own header.
    #[error("the SMBIOS table is damaged: the structure at byte {at} says that it has {length} bytes")]
    Length {
        /// Where it begins.
        at: usize,
        /// What it says.
        length: u8,
    },
    /// In base64.
    #[error("SMBIOS has a setting as {}, but settings are text: {}{}KEY=VALUE", BINARY, CREDENTIAL, PREFIX)]
    Binary,
}

/// The strings for us of a structure table, as they stand there and in their order.
///
/// # Errors
/// The table is damaged before its end.
pub fn strings(table: &[u8]) -> Result<Vec<Vec<u8>>, SmbiosError> {
    let mut found = Vec::new();
    let (mut rest, mut at) = (table, 0_usize);
    while let Some((&[kind, length, _, _], _)) = rest.split_first_chunk::<HEADER>() {
        if usize::from(length) < HEADER {
            return Err(SmbiosError::Length { at, length });
        }
        let cut = || SmbiosError::Cut(at);
        let (formatted, unformatted) = rest.split_at_checked(length.into()).ok_or_else(cut)?;
        let end = end_of_strings(unformatted).ok_or_else(cut)?;
        let (set, behind) = unformatted.split_at_checked(end).ok_or_else(cut)?;
        if kind == OEM_STRINGS {
            // The first byte behind the header says how many there are.
            let count = formatted.get(HEADER).copied().unwrap_or(0);
            let strings = set.split(|byte| *byte == 0).filter(|text| !text.is_empty()).take(count.into());
            found.extend(strings.filter(|text| is_ours(text)).map(<[u8]>::to_vec));
        }
        if kind == END_OF_TABLE {
            return Ok(found);
        }
        at = table.len().saturating_sub(behind.len());
        rest = behind;
    }
    // Tables of SMBIOS 2 end with their last structure; a few bytes that are none are the kernel's to pass over, and ours.
    Ok(found)
}

/// How many bytes the strings behind a structure have, both zeroes at their end included.
fn end_of_strings(unformatted: &[u8]) -> Option<usize> {
    unformatted.windows(2).position(|two| two == [0, 0])?.checked_add(2)
}

fn is_ours(text: &[u8]) -> bool {
    [CREDENTIAL, BINARY]
        .iter()
        .any(|kind| text.strip_prefix(kind.as_bytes()).is_some_and(|name| name.starts_with(PREFIX.as_bytes())))
}

/// Such strings as settings.
///
/// # Errors
/// One is in base64.
pub fn words(strings: &[Vec<u8>]) -> Result<Vec<Word>, SmbiosError> {
    let word = |text: &Vec<u8>| {
        let prefix = [CREDENTIAL, PREFIX].concat();
        let setting = text.strip_prefix(prefix.as_bytes()).ok_or(SmbiosError::Binary)?;
        let mut parts = setting.splitn(2, |byte| *byte == b'=').map(<[u8]>::to_vec);
        Ok(Word { key: parts.next().unwrap_or_default(), value: parts.next() })
    };
    strings.iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A structure: type, formatted bytes behind the header, strings.
    fn structure(kind: u8, formatted: &[u8], strings: &[&str]) -> Vec<u8> {
        let length = u8::try_from(HEADER + formatted.len()).unwrap();
        let mut bytes = [&[kind, length, 1, 0], formatted].concat();
        strings.iter().for_each(|text| bytes.extend([text.as_bytes(), &[0]].concat()));
        bytes.extend(if strings.is_empty() { vec![0, 0] } else { vec![0] });
        bytes
    }

    const OURS: &str = "io.systemd.credential:metalstrap.repository=https://a/b?";

    fn table() -> Vec<u8> {
        let others = ["io.systemd.credential:other.metalstrap.host=x", OURS, "metalstrap.host=x", "third"];
        [
            structure(0, &[1, 2, 3], &["Vendor", "1.0"]),
            structure(2, &[9; 7], &[]),
            structure(11, &[4], &others),
            structure(11, &[1], &["io.systemd.credential.binary:metalstrap.host=eA==", OURS]),
            structure(127, &[], &[]),
            structure(11, &[1], &[OURS]),
        ]
        .concat()
    }

    #[test]
    fn only_our_strings_of_type_11_are_taken_and_none_behind_the_end() {
        let found = strings(&table()).unwrap();
        assert_eq!(found, [OURS.as_bytes(), b"io.systemd.credential.binary:metalstrap.host=eA=="]);
        let word = Word { key: b"repository".to_vec(), value: Some(b"https://a/b?".to_vec()) };
        assert_eq!(words(&found[..1]).unwrap(), [word]);
        let text = "SMBIOS has a setting as io.systemd.credential.binary:, but settings are text: \
                    io.systemd.credential:metalstrap.KEY=VALUE";
        assert_eq!(words(&found).unwrap_err().to_string(), text);
        let bare = words(&[b"io.systemd.credential:metalstrap.host".to_vec()]).unwrap();
        assert_eq!(bare, [Word { key: b"host".to_vec(), value: None }]);
        // No more than the structure counts, and a table without an end structure.
        assert_eq!(strings(&structure(11, &[1], &["a", OURS])).unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(strings(&structure(11, &[2], &["a", OURS])).unwrap(), [OURS.as_bytes()]);
        assert_eq!(strings(&structure(11, &[], &[OURS])).unwrap(), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn a_damaged_table_is_refused_with_its_place() {
        let first = structure(0, &[1, 2, 3], &["Vendor"]);
        let at = first.len();
        let refusal = |second: &[u8]| strings(&[&first, second].concat()).unwrap_err().to_string();
        let damaged = "the SMBIOS table is damaged: the structure at byte";
        assert_eq!(refusal(&[11, 3, 0, 0, 0, 0]), format!("{damaged} {at} says that it has 3 bytes"));
        assert_eq!(refusal(&[11, 9, 0, 0, 0, 0]), format!("{damaged} {at} has no end"));
        assert_eq!(refusal(&[11, 5, 0, 0, 1, b'a', 0]), format!("{damaged} {at} has no end"));
        assert_eq!(strings(&[&first[..], &[11, 5]].concat()).unwrap(), Vec::<Vec<u8>>::new());
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0_usize..200, byte in any::<u8>()) {
            if let Ok(found) = strings(&bytes) {
                prop_assert!(found.iter().all(|text| is_ours(text)));
            }
            let mut damaged = table();
            let at = at % damaged.len();
            damaged[at] = byte;
            if let Ok(found) = strings(&damaged) {
                let _: Result<Vec<Word>, SmbiosError> = words(&found);
            }
            damaged.truncate(at);
            let _: Result<Vec<Vec<u8>>, SmbiosError> = strings(&damaged);
        }
    }
}
