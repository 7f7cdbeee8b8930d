//! A PE image as Authenticode sees it: what is hashed, and where the signature goes.

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_release::digest::Digest;

/// Offsets in the optional header of PE32+ (Microsoft, "PE Format").
const SIZE_OF_HEADERS: usize = 60;
const CHECKSUM: usize = 64;
const DIRECTORIES: usize = 108;
const CERTIFICATE_TABLE: usize = 144;
/// Magic of the optional header of PE32+.
const PE32_PLUS: u16 = 0x20b;
/// Bytes of a section header.
const SECTION_HEADER: usize = 40;
/// The certificate table begins at a multiple of this.
const ALIGNMENT: usize = 8;
/// WIN_CERTIFICATE: revision 2.0, type PKCS_SIGNED_DATA.
const REVISION_AND_TYPE: [u8; 4] = [0x00, 0x02, 0x02, 0x00];

/// An image without signature, filled up so that one can follow.
#[derive(Debug)]
pub(crate) struct Image {
    bytes: Vec<u8>,
    /// Where the checksum is, 4 bytes.
    checksum: usize,
    /// Where the place and the size of the certificate table are, 8 bytes.
    certificate: usize,
}

impl Image {
    /// Looks at the headers. The bytes of headers and sections must lie one after the other, as firmware hashes them so.
    pub(crate) fn parse(mut bytes: Vec<u8>) -> Result<Self> {
        ensure!(bytes.starts_with(b"MZ"), "it is no PE file");
        let coff = number(&bytes, 0x3c, 4)?.checked_add(4).context("its header lies too far behind")?;
        ensure!(bytes.get(coff - 4..coff) == Some(b"PE\0\0".as_slice()), "it is no PE file");
        let optional = coff.checked_add(20).context("its header lies too far behind")?;
        ensure!(number(&bytes, optional, 2)? == usize::from(PE32_PLUS), "it is no PE32+ file");
        ensure!(number(&bytes, optional + DIRECTORIES, 4)? > 4, "it has no place for a certificate table");
        let certificate = optional + CERTIFICATE_TABLE;
        if number(&bytes, certificate, 4)? != 0 {
            bail!("it is signed already");
        }
        let (count, size) = (number(&bytes, coff + 2, 2)?, number(&bytes, coff + 16, 2)?);
        let mut sections = Vec::new();
        for index in 0..count {
            let header = optional + size + index * SECTION_HEADER;
            sections.push((number(&bytes, header + 20, 4)?, number(&bytes, header + 16, 4)?));
        }
        sections.retain(|(_, size)| *size != 0);
        sections.sort_unstable();
        let mut end = number(&bytes, optional + SIZE_OF_HEADERS, 4)?;
        for (start, size) in sections {
            ensure!(start == end, "it has bytes {end} to {start} that are in no section");
            end = start.checked_add(size).context("it has a section that is too large")?;
        }
        ensure!(end <= bytes.len(), "it ends before its last section does");
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        Ok(Self { bytes, checksum: optional + CHECKSUM, certificate })
    }

    /// The digest of everything but the checksum and the entry of the certificate table.
    pub(crate) fn digest(&self) -> Result<Digest> {
        Ok(Digest::of(&self.hashed(self.bytes.len())?))
    }

    /// What is hashed of its first `length` bytes.
    fn hashed(&self, length: usize) -> Result<Vec<u8>> {
        let part = |from: usize, to: usize| self.bytes.get(from..to).context("its headers are cut off");
        let parts =
            [part(0, self.checksum)?, part(self.checksum + 4, self.certificate)?, part(self.certificate + 8, length)?];
        Ok(parts.concat())
    }

    /// What is hashed of an image, signed or not, when the firmware measures it: as [`Image::digest`], without the signature, and
    /// not filled up (TCG PC Client Platform Firmware Profile, "Measuring PE/COFF Image Files").
    pub(crate) fn measured(mut bytes: Vec<u8>) -> Result<Vec<u8>> {
        ensure!(bytes.starts_with(b"MZ"), "it is no PE file");
        let certificate = number(&bytes, 0x3c, 4)?.saturating_add(4 + 20 + CERTIFICATE_TABLE);
        let (start, size) = (number(&bytes, certificate, 4)?, number(&bytes, certificate + 4, 4)?);
        if start != 0 {
            ensure!(start.checked_add(size) == Some(bytes.len()), "its signature is not at its end");
            bytes.truncate(start);
            put(&mut bytes, certificate, 0)?;
        }
        let length = bytes.len();
        Self::parse(bytes)?.hashed(length)
    }

    /// The image followed by a certificate table with one `signature`.
    pub(crate) fn with_certificate(self, signature: &[u8]) -> Result<Vec<u8>> {
        let Self { mut bytes, checksum, certificate } = self;
        let size = (8 + signature.len()).next_multiple_of(ALIGNMENT);
        let place = u32::try_from(bytes.len()).context("it is too large for a PE file")?;
        let length = u32::try_from(size).context("the signature is too large")?;
        let end = bytes.len() + size;
        bytes.extend(length.to_le_bytes());
        bytes.extend(REVISION_AND_TYPE);
        bytes.extend(signature);
        bytes.resize(end, 0);
        put(&mut bytes, certificate, place)?;
        put(&mut bytes, certificate + 4, length)?;
        put(&mut bytes, checksum, 0)?;
        let sum = sum(&bytes)?;
        put(&mut bytes, checksum, sum)?;
        Ok(bytes)
    }
}

/// The checksum of an image whose checksum is zero: the sum of its 16-bit words with carry, and its size.
fn sum(bytes: &[u8]) -> Result<u32> {
    let mut sum: u32 = 0;
    for word in bytes.chunks(2) {
        let [low, high] = [word.first(), word.get(1)].map(|byte| byte.copied().unwrap_or_default());
        sum += u32::from(u16::from_le_bytes([low, high]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum.checked_add(u32::try_from(bytes.len())?).context("it is too large for a PE file")
}

fn put(bytes: &mut [u8], at: usize, number: u32) -> Result<()> {
    bytes.get_mut(at..at + 4).context("its headers are cut off")?.copy_from_slice(&number.to_le_bytes());
    Ok(())
}

/// The little-endian number of `size` bytes at `at`.
fn number(bytes: &[u8], at: usize, size: usize) -> Result<usize> {
    let field = bytes.get(at..at + size).context("its headers are cut off")?;
    Ok(field.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Headers of 512 bytes and two sections of 512.
    fn image() -> Vec<u8> {
        let mut bytes = vec![0; 3 * 512];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"MZ");
        put(0x3c, &[0x40]);
        put(0x40, b"PE\0\0");
        // Two sections, an optional header of 240 bytes.
        put(0x46, &[2]);
        put(0x54, &[240]);
        let optional = 0x58;
        put(optional, &PE32_PLUS.to_le_bytes());
        put(optional + SIZE_OF_HEADERS, &512_u32.to_le_bytes());
        put(optional + DIRECTORIES, &[16]);
        for (index, start) in [(0, 1024_u32), (1, 512)] {
            put(optional + 240 + index * SECTION_HEADER + 16, &512_u32.to_le_bytes());
            put(optional + 240 + index * SECTION_HEADER + 20, &start.to_le_bytes());
        }
        bytes
    }

    const FIRST_SECTION: usize = 0x58 + 240;

    #[test]
    fn the_digest_leaves_out_checksum_and_certificate_table() {
        let plain = Image::parse(image()).unwrap().digest().unwrap();
        let changed = |at: usize| {
            let mut bytes = image();
            bytes[at] ^= 1;
            Image::parse(bytes).unwrap().digest().unwrap() != plain
        };
        let optional = 0x58;
        let skipped = [optional + CHECKSUM, optional + CHECKSUM + 3, optional + CERTIFICATE_TABLE + 7];
        assert_eq!(skipped.map(changed), [false; 3]);
        let hashed = [2, optional + CHECKSUM - 5, optional + CHECKSUM + 4, optional + CERTIFICATE_TABLE + 8, 1535];
        assert_eq!(hashed.map(changed), [true; 5]);
    }

    #[test]
    fn the_signature_follows_the_image() {
        let image = [image(), vec![9; 3]].concat();
        let signed = Image::parse(image).unwrap().with_certificate(&[7; 11]).unwrap();
        assert_eq!(signed.len(), 1544 + 24);
        assert_eq!(&signed[1536..1544], &[9, 9, 9, 0, 0, 0, 0, 0]);
        assert_eq!(&signed[1544..1552], &[24, 0, 0, 0, 0, 2, 2, 0]);
        assert_eq!(&signed[1552..], [[7; 11].as_slice(), &[0; 5]].concat());
        let table = 0x58 + CERTIFICATE_TABLE;
        assert_eq!(&signed[table..table + 8], &[0x08, 0x06, 0, 0, 24, 0, 0, 0]);
        assert_eq!(Image::parse(signed).unwrap_err().to_string(), "it is signed already");
    }

    #[test]
    fn what_firmware_would_hash_otherwise_is_refused() {
        let refusal = |bytes: Vec<u8>| Image::parse(bytes).unwrap_err().to_string();
        assert_eq!(refusal(b"text".to_vec()), "it is no PE file");
        assert_eq!(refusal(image()[..100].to_vec()), "its headers are cut off");
        assert_eq!(refusal(image()[..1500].to_vec()), "it ends before its last section does");
        let mut gap = image();
        gap[FIRST_SECTION + SECTION_HEADER + 17] = 1;
        assert_eq!(refusal(gap), "it has bytes 768 to 1024 that are in no section");
    }
}
