//! What a TPM 2.0 and a program that sends it something must agree on to the byte: structures of the TCG's "Trusted Platform
//! Module Library", part 2, as they go over the wire. Integers are big-endian.

mod ak;
mod credential;
mod duplicate;
mod ek;
mod quoted;
mod seed;
mod signature;

use sha2::{Digest as _, Sha256};

pub use ak::{Ak, AkError};
pub use credential::Credential;
pub use duplicate::{duplicate, is_duplicate};
pub use ek::{Ek, KeyKind};
pub use quoted::{QuoteError, Quoted, Selection};
pub use signature::Signature;

/// `TPM_ALG_RSA`.
const RSA: u16 = 0x0001;
/// `TPM_ALG_KEYEDHASH`: what sealed data is, too.
const KEYED_HASH: u16 = 0x0008;
/// `TPM_ALG_SHA256`, which makes every name here.
pub const SHA256: u16 = 0x000b;
/// `TPM_ALG_NULL`.
pub const NULL: u16 = 0x0010;
/// `TPM_ALG_RSASSA`.
pub const RSASSA: u16 = 0x0014;
/// `TPM_ALG_ECDSA`.
pub const ECDSA: u16 = 0x0018;
/// `TPM_ALG_ECC`.
const ECC: u16 = 0x0023;
/// `TPMT_SYM_DEF_OBJECT`: AES, 128 bits, CFB.
const AES_128_CFB: [u8; 6] = [0x00, 0x06, 0x00, 0x80, 0x00, 0x43];

/// `TPMA_OBJECT` (part 2, section 8.3).
pub mod attributes {
    /// `fixedTPM`: it never leaves its TPM.
    pub const FIXED_TPM: u32 = 1 << 1;
    /// `fixedParent`: it never gets another parent.
    pub const FIXED_PARENT: u32 = 1 << 4;
    /// `sensitiveDataOrigin`: the TPM has made its secret part.
    pub const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
    /// `userWithAuth`: it is used by its authorisation value, which here is always empty.
    pub const USER_WITH_AUTH: u32 = 1 << 6;
    /// `adminWithPolicy`.
    pub const ADMIN_WITH_POLICY: u32 = 1 << 7;
    /// `noDA`: guesses at other objects do not lock it.
    pub const NO_DA: u32 = 1 << 10;
    /// `restricted`.
    pub const RESTRICTED: u32 = 1 << 16;
    /// `decrypt`: with `restricted`, a parent of other objects.
    pub const DECRYPT: u32 = 1 << 17;
    /// `sign`: with `restricted`, a key that signs what its TPM says of itself and nothing that only looks like it.
    pub const SIGN: u32 = 1 << 18;
    /// A storage key that its TPM has made and keeps.
    pub const STORAGE_KEY: u32 = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | DECRYPT;
}

/// A buffer with its length before it (`TPM2B_…`).
#[must_use]
pub fn sized(bytes: &[u8]) -> Vec<u8> {
    // Nothing that is sent here is longer than a TPM's command may be: 4096 bytes.
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    [&length.to_be_bytes()[..], bytes].concat()
}

/// Takes such a buffer from the start of `rest`.
pub fn take_sized<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk::<2>()?;
    let (bytes, behind) = behind.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
    *rest = behind;
    Some(bytes)
}

/// Takes a number of two bytes from the start of `rest`.
fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    take_bytes(rest).map(u16::from_be_bytes)
}

/// Takes a number of four bytes.
fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take_bytes(rest).map(u32::from_be_bytes)
}

/// Takes as many bytes as an array has.
pub fn take_bytes<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*bytes)
}

/// The name of an object (part 1, section 16): the algorithm, and the digest of its public area.
#[must_use]
pub fn name(public: &[u8]) -> Vec<u8> {
    [&SHA256.to_be_bytes()[..], &Sha256::digest(public)].concat()
}

impl KeyKind {
    /// Its `TPM_ALG`.
    #[must_use]
    pub fn algorithm(self) -> u16 {
        match self {
            Self::Rsa2048 => RSA,
            Self::EccP256 => ECC,
        }
    }
}

/// The public area (`TPMT_PUBLIC`) of a storage key of RSA 2048 or ECC NIST P-256: with a key in `unique` it is that key,
/// else a template.
#[must_use]
pub fn storage_key(kind: KeyKind, attributes: u32, policy: &[u8], unique: &[u8]) -> Vec<u8> {
    // Behind the scheme, of which there is none: the bits of the key and its exponent, 0 for 65537; or the curve
    // TPM_ECC_NIST_P256, and no scheme for keys.
    let details: &[u8] = match kind {
        KeyKind::Rsa2048 => &[0x08, 0x00, 0, 0, 0, 0],
        KeyKind::EccP256 => &[0x00, 0x03, 0x00, 0x10],
    };
    let start = [kind.algorithm().to_be_bytes(), SHA256.to_be_bytes()].concat();
    let null = NULL.to_be_bytes();
    [start.as_slice(), &attributes.to_be_bytes(), &sized(policy), &AES_128_CFB, &null, details, unique].concat()
}

/// The public area of sealed data. `unique` may be empty in a template.
#[must_use]
pub fn sealed_data(attributes: u32, policy: &[u8], unique: &[u8]) -> Vec<u8> {
    let start = [KEYED_HASH.to_be_bytes(), SHA256.to_be_bytes()].concat();
    [start.as_slice(), &attributes.to_be_bytes(), &sized(policy), &NULL.to_be_bytes(), &sized(unique)].concat()
}

/// Keys for tests.
#[cfg(test)]
pub(crate) mod testing {
    pub(crate) use super::ak::tests::Signer;
    pub(crate) use super::duplicate::tests::ek;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_taken_one_after_the_other_and_never_beyond_the_end() {
        let both = [sized(b"ab"), sized(b"")].concat();
        assert_eq!(both, [0, 2, b'a', b'b', 0, 0]);
        let mut rest = both.as_slice();
        assert_eq!(take_sized(&mut rest), Some(&b"ab"[..]));
        assert_eq!(take_sized(&mut rest), Some(&b""[..]));
        assert_eq!((take_sized(&mut rest), rest), (None, &b""[..]));
        for short in [&[0][..], &[0, 1], &[0xff, 0xff, 0]] {
            let mut rest = short;
            assert_eq!((take_sized(&mut rest), rest), (None, short));
        }
    }

    #[test]
    fn sealed_data_is_as_the_library_has_it() {
        // TPMI_ALG_PUBLIC, TPMI_ALG_HASH, TPMA_OBJECT, TPM2B_DIGEST, TPMT_KEYEDHASH_SCHEME, TPM2B_DIGEST.
        let expected = [0, 8, 0, 0x0b, 0, 0, 0, 0x12, 0, 1, 7, 0, 0x10, 0, 2, 1, 2];
        assert_eq!(sealed_data(attributes::FIXED_TPM | attributes::FIXED_PARENT, &[7], &[1, 2]), expected);
    }
}
