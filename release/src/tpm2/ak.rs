//! The attestation key (AK): a key that signs what its TPM says of itself, and nothing else that looks like it.

use std::fmt;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};

use super::ek::UNCOMPRESSED;
use super::signature::take_number;
use super::{ECC, ECDSA, NULL, RSA, RSASSA, SHA256, Signature, attributes, name, take_sized, take_u16, take_u32};
use crate::digest::to_hex;

/// `TPM_ECC_NIST_P256`.
const P256: u16 = 0x0003;
/// The bits of RSA keys that are taken.
const RSA_BITS: u16 = 2048;
/// An exponent of 65537, which the library writes as 0.
const EXPONENT: [u8; 3] = [1, 0, 1];
/// What an AK must have: else it may have come from elsewhere, or sign what its TPM has not made.
const MUST: [(u32, &str); 5] = [
    (attributes::RESTRICTED, "restricted"),
    (attributes::SIGN, "sign"),
    (attributes::FIXED_TPM, "fixedTPM"),
    (attributes::FIXED_PARENT, "fixedParent"),
    (attributes::SENSITIVE_DATA_ORIGIN, "sensitiveDataOrigin"),
];

/// Why a public area is not that of an attestation key.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AkError {
    /// It is none that is known here.
    #[error("is no key of RSA 2048 with RSASSA or ECC P-256 with ECDSA, each with SHA-256")]
    Kind,
    /// It may sign what its TPM has not made, or may have come from elsewhere.
    #[error("is not {0}")]
    Lacks(&'static str),
    /// It is more than a signing key.
    #[error("also decrypts")]
    Decrypts,
}

/// The public part of an AK.
#[derive(Clone, PartialEq, Eq)]
pub struct Ak {
    public: Vec<u8>,
    key: Key,
}

#[derive(Clone, PartialEq, Eq)]
enum Key {
    /// The modulus.
    Rsa(Vec<u8>),
    /// A point as SEC 1 has it.
    Ecc(Vec<u8>),
}

impl fmt::Debug for Ak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ak({})", to_hex(&self.name()))
    }
}

impl Ak {
    /// From its public area (`TPMT_PUBLIC`).
    ///
    /// # Errors
    /// It is not that of an attestation key, or of one that is not known here.
    pub fn of_public(public: &[u8]) -> Result<Self, AkError> {
        let mut rest = public;
        let kind = take_u16(&mut rest).ok_or(AkError::Kind)?;
        if take_u16(&mut rest) != Some(SHA256) {
            return Err(AkError::Kind);
        }
        let found = take_u32(&mut rest).ok_or(AkError::Kind)?;
        // Its policy is for those who use it.
        take_sized(&mut rest).ok_or(AkError::Kind)?;
        let key = match kind {
            RSA => rsa(&mut rest),
            ECC => ecc(&mut rest),
            _ => None,
        };
        let key = key.filter(|_| rest.is_empty()).ok_or(AkError::Kind)?;
        if let Some((_, lacks)) = MUST.into_iter().find(|(attribute, _)| found & attribute == 0) {
            return Err(AkError::Lacks(lacks));
        }
        if found & attributes::DECRYPT != 0 {
            return Err(AkError::Decrypts);
        }
        Ok(Self { public: public.to_vec(), key })
    }

    /// Its name, which a credential is bound to.
    #[must_use]
    pub fn name(&self) -> Vec<u8> {
        name(&self.public)
    }

    /// Whether it has signed `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        match (&self.key, signature) {
            (Key::Rsa(modulus), Signature::Rsassa(signature)) => {
                let key = RsaPublicKeyComponents { n: modulus.as_slice(), e: EXPONENT.as_slice() };
                key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            (Key::Ecc(point), Signature::Ecdsa(signature)) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// What is the same in both: no cipher, and a scheme with SHA-256.
fn scheme(rest: &mut &[u8], expected: u16) -> Option<()> {
    let found = [take_u16(rest)?, take_u16(rest)?, take_u16(rest)?];
    (found == [NULL, expected, SHA256]).then_some(())
}

/// `TPMS_RSA_PARMS` and the modulus.
fn rsa(rest: &mut &[u8]) -> Option<Key> {
    scheme(rest, RSASSA)?;
    let (bits, exponent) = (take_u16(rest)?, take_u32(rest)?);
    let modulus = take_sized(rest)?;
    let fits = bits == RSA_BITS && matches!(exponent, 0 | 0x1_0001) && modulus.len() == usize::from(RSA_BITS / 8);
    // The library of signatures takes no number with a zero at its start, and no modulus of 2048 bits has one.
    (fits && modulus.first() != Some(&0)).then(|| Key::Rsa(modulus.to_vec()))
}

/// `TPMS_ECC_PARMS` and the point.
fn ecc(rest: &mut &[u8]) -> Option<Key> {
    scheme(rest, ECDSA)?;
    if [take_u16(rest)?, take_u16(rest)?] != [P256, NULL] {
        return None;
    }
    let (x, y) = (take_number(rest)?, take_number(rest)?);
    Some(Key::Ecc([&[UNCOMPRESSED][..], &x, &y].concat()))
}

#[cfg(test)]
pub(crate) mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;
    use crate::tpm2::sized;

    /// `restricted`, `sign`, `fixedTPM`, `fixedParent`, `sensitiveDataOrigin`, `userWithAuth`.
    const ATTRIBUTES: u32 = 0x0005_0072;

    /// The public area of an AK with this point (SEC 1, uncompressed).
    pub(crate) fn ecc_public(attributes: u32, point: &[u8]) -> Vec<u8> {
        let start = [&[0, 0x23, 0, 0x0b][..], &attributes.to_be_bytes(), &sized(&[])].concat();
        let parameters = [0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10];
        [start, parameters.to_vec(), sized(&point[1..33]), sized(&point[33..])].concat()
    }

    /// An AK that a test has the private key of.
    pub(crate) struct Signer {
        /// Its public area.
        pub(crate) public: Vec<u8>,
        key: EcdsaKeyPair,
    }

    impl Signer {
        pub(crate) fn new() -> Self {
            let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            Self { public: ecc_public(ATTRIBUTES, key.public_key().as_ref()), key }
        }

        /// `TPMT_SIGNATURE`.
        pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
            let signature = self.key.sign(&SystemRandom::new(), message).unwrap();
            let (r, s) = signature.as_ref().split_at(32);
            [&[0, 0x18, 0, 0x0b][..], &sized(r), &sized(s)].concat()
        }
    }

    #[test]
    fn what_it_has_signed_is_known_and_nothing_else() {
        let (signer, other) = (Signer::new(), Signer::new());
        let ak = Ak::of_public(&signer.public).unwrap();
        let signature = Signature::parse(&signer.sign(b"message")).unwrap();
        assert!(ak.verifies(b"message", &signature));
        assert!(!ak.verifies(b"another", &signature));
        assert!(!Ak::of_public(&other.public).unwrap().verifies(b"message", &signature));
        assert!(!ak.verifies(b"message", &Signature::Rsassa(vec![1; 256])));
    }

    #[test]
    fn a_key_that_is_none_is_refused_and_why() {
        let point = [4; 65];
        let refusal = |attributes: u32| Ak::of_public(&ecc_public(attributes, &point)).unwrap_err().to_string();
        for (attribute, lacks) in MUST {
            assert_eq!(refusal(ATTRIBUTES & !attribute), format!("is not {lacks}"));
        }
        assert_eq!(refusal(ATTRIBUTES | attributes::DECRYPT), "also decrypts");
        let none = "is no key of RSA 2048 with RSASSA or ECC P-256 with ECDSA, each with SHA-256";
        let whole = ecc_public(ATTRIBUTES, &point);
        for length in 0..whole.len() {
            assert_eq!(Ak::of_public(&whole[..length]).unwrap_err().to_string(), none, "{length}");
        }
        assert_eq!(Ak::of_public(&[&whole[..], &[0]].concat()).unwrap_err(), AkError::Kind);
        // The kind, the hash of the name, the scheme, its hash, the curve.
        for at in [1, 3, 13, 15, 17] {
            let mut other = whole.clone();
            other[at] ^= 1;
            assert_eq!(Ak::of_public(&other).unwrap_err(), AkError::Kind, "{at}");
        }
    }
}
