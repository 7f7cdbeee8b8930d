//! The endorsement key (EK): a key that a TPM's maker has given it, and that no other TPM has.

use std::fmt;

use super::{attributes, name, sized, storage_key, take_sized};
use crate::digest::to_hex;

/// `PolicyA`: TPM2_PolicySecret with the endorsement hierarchy (TCG, "EK Credential Profile for TPM Family 2.0", annex B.3).
const POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
const ATTRIBUTES: u32 = attributes::STORAGE_KEY | attributes::ADMIN_WITH_POLICY;
/// What stands before the modulus of 2048 bits in DER, and behind it: an exponent of 65537 (RFC 8017, annex A.1.1).
const RSA_START: [u8; 9] = [0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00];
const RSA_END: [u8; 5] = [0x02, 0x03, 0x01, 0x00, 0x01];
/// What stands before them in a SubjectPublicKeyInfo (RFC 3279, section 2.3.1), and before a point of P-256 (RFC 5480).
const RSA_INFO: [u8; 24] = [
    0x30, 0x82, 0x01, 0x22, 0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
    0x03, 0x82, 0x01, 0x0f, 0x00,
];
const ECC_INFO: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// An uncompressed point (SEC 1, section 2.3.3).
pub(super) const UNCOMPRESSED: u8 = 0x04;

/// The kinds of storage keys that are known here: of the EKs of a PC's TPM, these have the templates L-1 and L-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA 2048.
    Rsa2048,
    /// ECC NIST P-256.
    EccP256,
}

/// The public part of an EK.
#[derive(Clone, PartialEq, Eq)]
pub enum Ek {
    /// RSA 2048: the modulus.
    Rsa2048([u8; 256]),
    /// ECC NIST P-256: a point.
    EccP256 {
        /// The one coordinate.
        x: [u8; 32],
        /// The other.
        y: [u8; 32],
    },
}

impl fmt::Debug for Ek {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ek({})", self.id())
    }
}

impl KeyKind {
    /// All of them, the one first that a TPM makes faster.
    pub const ALL: [Self; 2] = [Self::EccP256, Self::Rsa2048];

    /// What TPM2_CreatePrimary makes the EK from, in the endorsement hierarchy.
    #[must_use]
    pub fn template(self) -> Vec<u8> {
        let unique = match self {
            Self::Rsa2048 => sized(&[0; 256]),
            Self::EccP256 => [sized(&[0; 32]), sized(&[0; 32])].concat(),
        };
        storage_key(self, ATTRIBUTES, &POLICY, &unique)
    }
}

impl Ek {
    /// From its public area (`TPMT_PUBLIC`); `None` if it was not made from one of the templates.
    #[must_use]
    pub fn of_public(public: &[u8]) -> Option<Self> {
        let unique = |kind| public.strip_prefix(storage_key(kind, ATTRIBUTES, &POLICY, &[]).as_slice());
        let ek = if let Some(mut rest) = unique(KeyKind::Rsa2048) {
            Self::Rsa2048(take_sized(&mut rest)?.try_into().ok()?)
        } else {
            let mut rest = unique(KeyKind::EccP256)?;
            let (x, y) = (take_sized(&mut rest)?, take_sized(&mut rest)?);
            Self::EccP256 { x: x.try_into().ok()?, y: y.try_into().ok()? }
        };
        // Nothing behind it.
        (ek.public() == public).then_some(ek)
    }

    /// From the content of a SubjectPublicKeyInfo's bit string: an RSAPublicKey in DER or a point.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Option<Self> {
        if let Some(modulus) = key.strip_prefix(&RSA_START).and_then(|rest| rest.strip_suffix(&RSA_END)) {
            return Some(Self::Rsa2048(modulus.try_into().ok()?));
        }
        let (x, y) = key.strip_prefix(&[UNCOMPRESSED])?.split_at_checked(32)?;
        Some(Self::EccP256 { x: x.try_into().ok()?, y: y.try_into().ok()? })
    }

    /// Which kind it is.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        match self {
            Self::Rsa2048(_) => KeyKind::Rsa2048,
            Self::EccP256 { .. } => KeyKind::EccP256,
        }
    }

    /// Its public area.
    #[must_use]
    pub fn public(&self) -> Vec<u8> {
        let unique = match self {
            Self::Rsa2048(modulus) => sized(modulus),
            Self::EccP256 { x, y } => [sized(x), sized(y)].concat(),
        };
        storage_key(self.kind(), ATTRIBUTES, &POLICY, &unique)
    }

    /// Its name in hexadecimal, by which a person and a host config know it.
    #[must_use]
    pub fn id(&self) -> String {
        to_hex(&name(&self.public()))
    }

    /// The point as SEC 1 has it; `None` of RSA.
    pub(super) fn point(&self) -> Option<Vec<u8>> {
        match self {
            Self::Rsa2048(_) => None,
            Self::EccP256 { x, y } => Some([&[UNCOMPRESSED][..], x, y].concat()),
        }
    }

    /// As openssl and tpm2_createek write it: a `PUBLIC KEY` in PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_config(&pem::Pem::new("PUBLIC KEY", self.info()), config)
    }

    /// Its SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn info(&self) -> Vec<u8> {
        match self {
            Self::Rsa2048(modulus) => [&RSA_INFO[..], &RSA_START, modulus, &RSA_END].concat(),
            Self::EccP256 { x, y } => [&ECC_INFO[..], &[UNCOMPRESSED], x, y].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn rsa() -> Ek {
        Ek::Rsa2048([0xab; 256])
    }

    fn ecc() -> Ek {
        Ek::EccP256 { x: [1; 32], y: [2; 32] }
    }

    #[test]
    fn templates_are_those_of_the_profile() {
        let (rsa, ecc) = (KeyKind::Rsa2048.template(), KeyKind::EccP256.template());
        // TPMT_PUBLIC of the templates L-1 and L-2: 314 and 122 bytes.
        assert_eq!((rsa.len(), ecc.len()), (314, 122));
        assert_eq!(to_hex(&rsa[..10]), "0001000b000300b20020");
        assert_eq!(to_hex(&ecc[..10]), "0023000b000300b20020");
        assert_eq!(to_hex(&rsa[42..58]), "00060080004300100800000000000100");
        assert_eq!(to_hex(&ecc[42..56]), "0006008000430010000300100020");
    }

    #[test]
    fn a_key_is_found_again_in_every_form() {
        for ek in [rsa(), ecc()] {
            let (public, info) = (ek.public(), ek.info());
            assert_eq!(Ek::of_public(&public), Some(ek.clone()));
            let start = if ek.kind() == KeyKind::Rsa2048 { RSA_INFO.len() } else { ECC_INFO.len() };
            assert_eq!(Ek::of_key(&info[start..]), Some(ek.clone()));
            assert!(ek.id().starts_with("000b") && ek.id().len() == 68, "{}", ek.id());
            for wrong in [&public[..public.len() - 1], &[&public[..], &[0]].concat()] {
                assert_eq!(Ek::of_public(wrong), None);
            }
            let mut other = public.clone();
            other[7] ^= 1;
            assert_eq!(Ek::of_public(&other), None, "with other attributes it is no EK");
        }
        for wrong in [&[][..], &[UNCOMPRESSED; 64], &[UNCOMPRESSED; 66], &[2; 33]] {
            assert_eq!(Ek::of_key(wrong), None);
        }
    }

    #[test]
    fn what_openssl_makes_is_read_and_written_alike() {
        let at = tempfile::tempdir().unwrap();
        let openssl = |line: &str| {
            let output = Command::new("openssl").args(line.split(' ')).current_dir(at.path()).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        };
        for (make, start) in [
            ("genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048 -out key.pem", RSA_INFO.len()),
            ("genpkey -algorithm ec -pkeyopt ec_paramgen_curve:P-256 -out key.pem", ECC_INFO.len()),
        ] {
            openssl(make);
            openssl("pkey -in key.pem -pubout -outform der -out key.der");
            let der = std::fs::read(at.path().join("key.der")).unwrap();
            assert_eq!(Ek::of_key(&der[start..]).unwrap().info(), der);
        }
    }
}
