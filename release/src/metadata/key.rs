//! A key that signs metadata: Ed25519, kept as PKCS#8 in PEM, as `openssl genpkey -algorithm ed25519` makes it.

use std::collections::HashMap;

use aws_lc_rs::signature::Ed25519KeyPair;
use tough::key_source::KeySource;
use tough::schema::key::{Ed25519Key, Ed25519Scheme, Key};
use tough::sign::{Sign, parse_keypair};
use tough::{async_trait, schema};

use super::SignError;

const TAG: &str = "PRIVATE KEY";
const PUBLIC_TAG: &str = "PUBLIC KEY";
/// What stands before the 32 bytes of an Ed25519 key in DER (RFC 8410, section 4: SubjectPublicKeyInfo).
const PUBLIC_START: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const PUBLIC_BYTES: usize = 32;

/// A private key. Its debug form shows the id only.
#[derive(Clone)]
pub struct PrivateKey {
    pkcs8: Vec<u8>,
    public: Key,
    id: schema::decoded::Decoded<schema::decoded::Hex>,
}

/// The public half of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    key: Key,
    id: schema::decoded::Decoded<schema::decoded::Hex>,
}

impl PublicKey {
    /// Reads a key from PEM, as `openssl pkey -pubout` writes it.
    ///
    /// # Errors
    /// It is not PEM with an Ed25519 public key.
    pub fn from_pem(text: &str) -> Result<Self, SignError> {
        let pem = pem::parse(text).ok().filter(|pem| pem.tag() == PUBLIC_TAG).ok_or(SignError::NoPublicKey)?;
        let bytes = pem.contents().strip_prefix(&PUBLIC_START).filter(|bytes| bytes.len() == PUBLIC_BYTES);
        let keyval =
            Ed25519Key { public: bytes.ok_or(SignError::NoPublicKey)?.to_vec().into(), _extra: HashMap::new() };
        Self::new(Key::Ed25519 { keyval, scheme: Ed25519Scheme::Ed25519, _extra: HashMap::new() })
    }

    fn new(key: Key) -> Result<Self, SignError> {
        let id = key.key_id().map_err(|error| SignError::Tough(error.to_string()))?;
        Ok(Self { key, id })
    }

    /// Its id in metadata, hexadecimal.
    #[must_use]
    pub fn id(&self) -> String {
        crate::digest::to_hex(&self.id)
    }

    pub(super) fn parts(&self) -> (schema::decoded::Decoded<schema::decoded::Hex>, Key) {
        (self.id.clone(), self.key.clone())
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrivateKey({})", self.id())
    }
}

impl PrivateKey {
    /// A new key.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> Result<Self, SignError> {
        let key = Ed25519KeyPair::generate().map_err(|_| SignError::Random)?;
        let pkcs8 = key.to_pkcs8v1().map_err(|_| SignError::Random)?;
        Self::from_pkcs8(pkcs8.as_ref())
    }

    /// Reads a key from PKCS#8 in DER.
    ///
    /// # Errors
    /// It is not that, or no Ed25519 key.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, SignError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| SignError::NoKey)?;
        let public = pair.tuf_key();
        let id = public.key_id().map_err(|error| SignError::Tough(error.to_string()))?;
        Ok(Self { pkcs8: pkcs8.to_vec(), public, id })
    }

    /// Reads a key.
    ///
    /// # Errors
    /// It is not PEM with an Ed25519 key in PKCS#8.
    pub fn from_pem(text: &str) -> Result<Self, SignError> {
        let pem = pem::parse(text).map_err(|_| SignError::NoKey)?;
        if pem.tag() != TAG {
            return Err(SignError::NoKey);
        }
        Self::from_pkcs8(pem.contents())
    }

    /// As a file holds it: for its owner's eyes only.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem::encode_config(
            &pem::Pem::new(TAG, self.pkcs8.clone()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        )
    }

    /// In PKCS#8, DER: for its owner's eyes only.
    #[must_use]
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// Its id in metadata, hexadecimal.
    #[must_use]
    pub fn id(&self) -> String {
        crate::digest::to_hex(&self.id)
    }

    /// The signature of a message.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let pair = Ed25519KeyPair::from_pkcs8(&self.pkcs8).map_err(|_| SignError::NoKey)?;
        Ok(pair.sign(message).as_ref().to_vec())
    }

    /// Its public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey { key: self.public.clone(), id: self.id.clone() }
    }

    pub(super) fn public(&self) -> (schema::decoded::Decoded<schema::decoded::Hex>, Key) {
        (self.id.clone(), self.public.clone())
    }
}

#[async_trait]
impl KeySource for PrivateKey {
    async fn as_sign(&self) -> Result<Box<dyn Sign>, Box<dyn std::error::Error + Send + Sync + 'static>> {
        Ok(Box::new(parse_keypair(&self.pkcs8)?))
    }

    async fn write(
        &self,
        _value: &str,
        _key_id_hex: &str,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        Err("a key is not written through this".into())
    }
}
