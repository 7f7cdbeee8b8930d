//! The two kinds of keys that sign metadata, in the forms that PKCS#11 has for them.

use serde::{Deserialize, Serialize};

/// A kind of key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Ed25519 (RFC 8032).
    Ed25519,
    /// ECDSA on P-256, with SHA-256.
    P256,
}

/// `CKA_EC_PARAMS` of each: an object identifier, or since PKCS#11 3.0 a name.
const PARAMETERS: [(Kind, &[u8]); 3] = [
    (Kind::Ed25519, b"\x06\x03\x2b\x65\x70"),
    (Kind::Ed25519, b"\x13\x0cedwards25519"),
    (Kind::P256, b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"),
];
/// Bytes of each of the two numbers of a signature on P-256.
const HALF: usize = 32;

impl Kind {
    /// The kind of a key, by its `CKA_EC_PARAMS`.
    #[must_use]
    pub fn of_parameters(parameters: &[u8]) -> Option<Self> {
        PARAMETERS.iter().find(|(_, known)| *known == parameters).map(|(kind, _)| *kind)
    }

    /// The public key in `CKA_EC_POINT`: 32 bytes of Ed25519, or the 65 of an uncompressed point. It is wrapped in DER, by
    /// most modules.
    #[must_use]
    pub fn public(self, point: &[u8]) -> Option<&[u8]> {
        let (wrappings, length): (&[&[u8]], usize) = match self {
            Self::Ed25519 => (&[&[0x04, 0x20], &[0x03, 0x21, 0x00], &[]], 32),
            Self::P256 => (&[&[0x04, 0x41], &[]], 65),
        };
        let unwrapped = |start: &&[u8]| point.strip_prefix(*start).filter(|key| key.len() == length);
        let key = wrappings.iter().find_map(unwrapped)?;
        (self == Self::Ed25519 || key.first() == Some(&0x04)).then_some(key)
    }

    /// A token's signature in the form that metadata has: 64 bytes as they are for Ed25519, and for ECDSA, of which a token
    /// gives two numbers one behind the other, those in DER (RFC 3279, section 2.2.3).
    #[must_use]
    pub fn signature(self, raw: &[u8]) -> Option<Vec<u8>> {
        let (r, s) = raw.split_at_checked(HALF).filter(|(_, s)| s.len() == HALF)?;
        match self {
            Self::Ed25519 => Some(raw.to_vec()),
            Self::P256 => wrap(0x30, &[number(r)?, number(s)?].concat()),
        }
    }
}

/// A positive number in DER: no zeroes before it but one that keeps it positive.
fn number(bytes: &[u8]) -> Option<Vec<u8>> {
    let zeroes = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = bytes.get(zeroes..)?;
    let positive = digits.first().is_some_and(|first| first & 0x80 == 0);
    wrap(0x02, &if positive { digits.to_vec() } else { [&[0][..], digits].concat() })
}

fn wrap(tag: u8, content: &[u8]) -> Option<Vec<u8>> {
    let length = u8::try_from(content.len()).ok().filter(|length| *length < 0x80)?;
    Some([&[tag, length][..], content].concat())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
    };

    use super::*;

    #[test]
    fn numbers_are_as_short_as_der_wants_them() {
        assert_eq!(number(&[0, 0, 0x7f, 1]).unwrap(), [2, 2, 0x7f, 1]);
        assert_eq!(number(&[0, 0x80]).unwrap(), [2, 2, 0, 0x80]);
        assert_eq!(number(&[0, 0]).unwrap(), [2, 1, 0]);
    }

    #[test]
    fn a_signature_of_two_numbers_verifies_in_der() {
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new()).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).unwrap();
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref());
        // One number in 256 is shorter than the others, and every other one has its highest bit set.
        for count in 0..2000_u32 {
            let message = count.to_le_bytes();
            let raw = key.sign(&SystemRandom::new(), &message).unwrap();
            let signature = Kind::P256.signature(raw.as_ref()).unwrap();
            public.verify(&message, &signature).unwrap();
            assert_eq!(Kind::Ed25519.signature(raw.as_ref()).unwrap(), raw.as_ref());
        }
        for wrong in [0, 63, 65] {
            assert!(
                [Kind::Ed25519, Kind::P256].iter().all(|kind| kind.signature(&vec![1; wrong]).is_none()),
                "{wrong}"
            );
        }
    }

    #[test]
    fn public_keys_are_found_in_the_forms_that_modules_give() {
        let key = [7; 32];
        for point in [[&[0x04, 0x20][..], &key].concat(), [&[0x03, 0x21, 0x00][..], &key].concat(), key.to_vec()] {
            assert_eq!(Kind::Ed25519.public(&point), Some(&key[..]));
        }
        let point = [&[0x04][..], &[9; 64]].concat();
        assert_eq!(Kind::P256.public(&[&[0x04, 0x41][..], &point].concat()), Some(&point[..]));
        assert_eq!(Kind::P256.public(&point), Some(&point[..]));
        // A compressed point, one that is too short, and none.
        for wrong in
            [[&[0x02][..], &[9; 32]].concat(), point[..64].to_vec(), Vec::new(), [&[0x02][..], &[9; 64]].concat()]
        {
            assert_eq!((Kind::P256.public(&wrong), Kind::Ed25519.public(&wrong)), (None, None));
        }
        assert_eq!(Kind::of_parameters(b"\x13\x0cedwards25519"), Some(Kind::Ed25519));
        assert_eq!(Kind::of_parameters(b"\x06\x05\x2b\x81\x04\x00\x22"), None, "P-384");
    }
}
