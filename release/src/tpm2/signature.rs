//! What an attestation key signs with: `TPMT_SIGNATURE` (part 2, section 11.3.4) of RSASSA or of ECDSA, with SHA-256.

use super::{ECDSA, RSASSA, SHA256, take_sized, take_u16};

/// Bytes of a signature by RSA 2048.
const RSA_BYTES: usize = 256;
/// Bytes of a number of P-256.
pub(super) const ECC_BYTES: usize = 32;

/// A signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Signature {
    /// RSASSA-PKCS1-v1_5 of 2048 bits with SHA-256.
    Rsassa(Vec<u8>),
    /// ECDSA of P-256 with SHA-256: its two numbers, 32 bytes each.
    Ecdsa(Vec<u8>),
}

impl Signature {
    /// Reads one; `None` if it is another one, or none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let scheme = take_u16(&mut rest)?;
        if take_u16(&mut rest)? != SHA256 {
            return None;
        }
        let signature = match scheme {
            RSASSA => Self::Rsassa(take_sized(&mut rest).filter(|bytes| bytes.len() == RSA_BYTES)?.to_vec()),
            ECDSA => {
                let (r, s) = (take_number(&mut rest)?, take_number(&mut rest)?);
                Self::Ecdsa([r, s].concat())
            }
            _ => return None,
        };
        rest.is_empty().then_some(signature)
    }
}

/// A number of P-256 (`TPM2B_ECC_PARAMETER`). Some TPMs leave zeroes at its start away.
pub(super) fn take_number(rest: &mut &[u8]) -> Option<[u8; ECC_BYTES]> {
    let bytes = take_sized(rest)?;
    let start = ECC_BYTES.checked_sub(bytes.len())?;
    let mut number = [0; ECC_BYTES];
    number.get_mut(start..)?.copy_from_slice(bytes);
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpm2::sized;

    #[test]
    fn both_kinds_are_read_and_no_other() {
        let rsa = [&[0, 0x14, 0, 0x0b][..], &sized(&[3; 256])].concat();
        assert_eq!(Signature::parse(&rsa), Some(Signature::Rsassa(vec![3; 256])));
        let ecc = [&[0, 0x18, 0, 0x0b][..], &sized(&[1; 31]), &sized(&[2; 32])].concat();
        let numbers = [&[0][..], &[1; 31], &[2; 32]].concat();
        assert_eq!(Signature::parse(&ecc), Some(Signature::Ecdsa(numbers)));
        for whole in [&rsa, &ecc] {
            for length in 0..whole.len() {
                assert_eq!(Signature::parse(&whole[..length]), None, "{length}");
            }
            assert_eq!(Signature::parse(&[&whole[..], &[0]].concat()), None);
        }
        // Another hash, another scheme, a longer key, a longer number.
        for wrong in [
            [&[0, 0x14, 0, 0x04][..], &sized(&[3; 256])].concat(),
            [&[0, 0x16, 0, 0x0b][..], &sized(&[3; 256])].concat(),
            [&[0, 0x14, 0, 0x0b][..], &sized(&[3; 384])].concat(),
            [&[0, 0x18, 0, 0x0b][..], &sized(&[1; 33]), &sized(&[2; 32])].concat(),
        ] {
            assert_eq!(Signature::parse(&wrong), None);
        }
    }
}
