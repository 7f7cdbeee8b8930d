//! What UEFI firmware keeps for Secure Boot: lists of certificates and digests (EFI_SIGNATURE_LIST, UEFI 2.10, 32.4.1), and
//! the signed updates of the variables that hold them (EFI_VARIABLE_AUTHENTICATION_2, 8.2.2), as `sbvarsign` and
//! `sign-efi-sig-list` write them to `.auth` files. Who signed an update is for the firmware to judge.

/// No update is larger: firmware has some 64 KiB for all of its variables.
pub const MAX_UPDATE_BYTES: usize = 32 << 10;
/// `EFI_CERT_X509_GUID`, as it lies in memory.
const X509: [u8; 16] = [0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72];
/// `EFI_CERT_TYPE_PKCS7_GUID`, likewise.
const PKCS7: [u8; 16] =
    [0x9d, 0xd2, 0xaf, 0x4a, 0xdf, 0x68, 0xee, 0x49, 0x8a, 0xa9, 0x34, 0x7d, 0x37, 0x56, 0x65, 0xa7];
/// WIN_CERTIFICATE: revision 2.0, type WIN_CERT_TYPE_EFI_GUID.
const REVISION_AND_TYPE: [u8; 4] = [0x00, 0x02, 0xf1, 0x0e];
/// Bytes of EFI_TIME.
const TIME: usize = 16;
/// Bytes of WIN_CERTIFICATE_UEFI_GUID before its data.
const CERTIFICATE_HEADER: usize = 24;
/// Bytes of EFI_SIGNATURE_LIST before the header that its type may have.
const LIST_HEADER: usize = 28;
/// Bytes of an entry's owner, a GUID.
const OWNER: usize = 16;

/// Why bytes are not what firmware would take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(String);

/// A signed update of one of firmware's variables for Secure Boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    bytes: Vec<u8>,
    /// Where what the variable will hold begins.
    content: usize,
}

impl Update {
    /// Takes an update apart, which must hold whole lists and at least one certificate.
    ///
    /// # Errors
    /// Says what is not as in an update.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, Malformed> {
        let malformed = |problem: &str| Malformed(problem.to_owned());
        if bytes.len() > MAX_UPDATE_BYTES {
            return Err(Malformed(format!("has {} bytes, more than {MAX_UPDATE_BYTES}", bytes.len())));
        }
        let signature = bytes.get(TIME..).ok_or_else(|| malformed("ends before its signature does"))?;
        let is_signature = signature.get(4..8) == Some(REVISION_AND_TYPE.as_slice())
            && signature.get(8..CERTIFICATE_HEADER) == Some(PKCS7.as_slice());
        if !is_signature {
            return Err(malformed("has no signature in PKCS #7 behind its time: it is no .auth file"));
        }
        let length = number(signature, 0).filter(|length| *length > CERTIFICATE_HEADER);
        let content = length.and_then(|length| length.checked_add(TIME)).filter(|content| *content <= bytes.len());
        let content = content.ok_or_else(|| malformed("ends before its signature does"))?;
        let update = Self { bytes, content };
        if certificates(update.content())?.is_empty() {
            return Err(malformed("holds no certificate"));
        }
        Ok(update)
    }

    /// All of it, as firmware takes it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// When it was signed: an EFI_TIME (UEFI 2.10, 8.3), 16 bytes.
    #[must_use]
    pub fn time(&self) -> &[u8] {
        self.bytes.get(..TIME).unwrap_or_default()
    }

    /// Its signature: SignedData of PKCS #7, in DER.
    #[must_use]
    pub fn signature(&self) -> &[u8] {
        self.bytes.get(TIME..self.content).and_then(|part| part.get(CERTIFICATE_HEADER..)).unwrap_or_default()
    }

    /// What the variable holds then.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        self.bytes.get(self.content..).unwrap_or_default()
    }
}

/// The certificates (DER) in a variable's lists, in their order. Entries of other types are passed over.
///
/// # Errors
/// The lists are not whole.
pub fn certificates(lists: &[u8]) -> Result<Vec<&[u8]>, Malformed> {
    let (mut found, mut rest) = (Vec::new(), lists);
    while !rest.is_empty() {
        let at = lists.len() - rest.len();
        let Some(list) = List::first(rest) else {
            return Err(Malformed(format!("has a list of signatures at byte {at} whose sizes do not fit")));
        };
        if list.kind == X509 {
            found.extend(list.entries.chunks_exact(list.entry).filter_map(|entry| entry.get(OWNER..)));
        }
        rest = list.rest;
    }
    Ok(found)
}

/// One EFI_SIGNATURE_LIST.
struct List<'a> {
    kind: [u8; 16],
    entries: &'a [u8],
    /// Bytes of each entry, its owner included.
    entry: usize,
    /// What is behind the list.
    rest: &'a [u8],
}

impl<'a> List<'a> {
    fn first(bytes: &'a [u8]) -> Option<Self> {
        let kind = *bytes.first_chunk()?;
        let (size, header, entry) = (number(bytes, 16)?, number(bytes, 20)?, number(bytes, 24)?);
        let (list, rest) = bytes.split_at_checked(size)?;
        let entries = list.get(LIST_HEADER.checked_add(header)?..)?;
        let whole = entry > OWNER && !entries.is_empty() && entries.len().is_multiple_of(entry);
        whole.then_some(Self { kind, entries, entry, rest })
    }
}

/// The little-endian number of 4 bytes at `at`.
fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..)?.first_chunk()?;
    usize::try_from(u32::from_le_bytes(*field)).ok()
}

#[cfg(test)]
pub(crate) mod tests;
