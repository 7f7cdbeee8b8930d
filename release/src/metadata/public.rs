//! The public half of a key: Ed25519, or ECDSA on P-256 with SHA-256, which is what many tokens have.

use std::collections::HashMap;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::{EcdsaKey, EcdsaScheme, Ed25519Key, Ed25519Scheme, Key};

use super::SignError;
use crate::digest::to_hex;

const TAG: &str = "PUBLIC KEY";
/// What stands before the 32 bytes of an Ed25519 key in DER (RFC 8410, section 4: SubjectPublicKeyInfo).
const ED25519_START: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const ED25519_BYTES: usize = 32;
/// The same for the 65 bytes of an uncompressed point of P-256 (RFC 5480, section 2).
const P256_START: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const P256_BYTES: usize = 65;
/// How an uncompressed point begins.
const UNCOMPRESSED: u8 = 4;

/// The public half of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: Key,
    id: Decoded<Hex>,
}

impl PublicKey {
    /// Reads a key from PEM, as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    /// It is not PEM with a public key of Ed25519 or P-256.
    pub fn from_pem(text: &str) -> Result<Self, SignError> {
        let pem = pem::parse(text).ok().filter(|pem| pem.tag() == TAG).ok_or(SignError::NoPublicKey)?;
        let der = pem.contents();
        if let Some(bytes) = der.strip_prefix(&ED25519_START) {
            return Self::ed25519(bytes);
        }
        Self::p256(der.strip_prefix(&P256_START).ok_or(SignError::NoPublicKey)?)
    }

    /// The key of Ed25519 with these 32 bytes.
    ///
    /// # Errors
    /// They are not 32.
    pub fn ed25519(bytes: &[u8]) -> Result<Self, SignError> {
        if bytes.len() != ED25519_BYTES {
            return Err(SignError::NoPublicKey);
        }
        let keyval = Ed25519Key { public: bytes.to_vec().into(), _extra: HashMap::new() };
        Self::new(Key::Ed25519 { keyval, scheme: Ed25519Scheme::Ed25519, _extra: HashMap::new() })
    }

    /// The key of P-256 with this uncompressed point.
    ///
    /// # Errors
    /// It is none.
    pub fn p256(point: &[u8]) -> Result<Self, SignError> {
        if point.len() != P256_BYTES || point.first() != Some(&UNCOMPRESSED) {
            return Err(SignError::NoPublicKey);
        }
        let keyval = EcdsaKey { public: point.to_vec().into(), _extra: HashMap::new() };
        Self::new(Key::Ecdsa { keyval, scheme: EcdsaScheme::EcdsaSha2Nistp256, _extra: HashMap::new() })
    }

    pub(super) fn new(key: Key) -> Result<Self, SignError> {
        let id = key.key_id().map_err(super::sign::tough)?;
        Ok(Self { key, id })
    }

    /// Its id in metadata, hexadecimal.
    #[must_use]
    pub fn id(&self) -> String {
        to_hex(&self.id)
    }

    /// In PEM, as `openssl pkey -pubout` writes it; `None` for a kind that no key here has.
    #[must_use]
    pub fn to_pem(&self) -> Option<String> {
        match &self.key {
            Key::Ed25519 { keyval, .. } => Some(to_pem(&ED25519_START, &keyval.public)),
            Key::Ecdsa { keyval, .. } => Some(to_pem(&P256_START, &keyval.public)),
            _ => None,
        }
    }

    /// Whether a signature is by this key.
    pub(super) fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let checked = match &self.key {
            Key::Ed25519 { keyval, .. } => UnparsedPublicKey::new(&ED25519, &*keyval.public).verify(message, signature),
            Key::Ecdsa { keyval, .. } => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &*keyval.public).verify(message, signature)
            }
            _ => return false,
        };
        checked.is_ok()
    }

    pub(super) fn parts(&self) -> (Decoded<Hex>, Key) {
        (self.id.clone(), self.key.clone())
    }
}

fn to_pem(start: &[u8], bytes: &[u8]) -> String {
    pem::encode_config(
        &pem::Pem::new(TAG, [start, bytes].concat()),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}
