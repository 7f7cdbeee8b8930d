//! A key that signs metadata: Ed25519 in PKCS#8 and PEM, as `openssl genpkey -algorithm ed25519` makes it, or whatever signs
//! elsewhere: a key on a token.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SecureRandom;
use aws_lc_rs::signature::Ed25519KeyPair;
use tough::async_trait;
use tough::key_source::KeySource;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::key::Key;
use tough::sign::Sign;

use super::{BoxError, PublicKey, SignError};

const TAG: &str = "PRIVATE KEY";

/// What signs with a key that never comes here.
pub trait Signer: Send + Sync {
    /// Where the key is: the PKCS#11 URI of one on a token.
    fn place(&self) -> &str;

    /// The signature of a message, in the form that metadata has.
    ///
    /// # Errors
    /// The key cannot be reached, or does not sign.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError>;
}

/// A private key. Its debug form shows the id only.
#[derive(Clone)]
pub struct PrivateKey {
    secret: Secret,
    public: PublicKey,
}

#[derive(Clone)]
enum Secret {
    /// PKCS#8, in DER.
    Here(Vec<u8>),
    Elsewhere(Arc<dyn Signer>),
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        Ok(Self { secret: Secret::Here(pkcs8.to_vec()), public: PublicKey::new(pair.tuf_key())? })
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

    /// The key that `signer` signs with, whose public half is `public`.
    #[must_use]
    pub fn elsewhere(public: PublicKey, signer: Arc<dyn Signer>) -> Self {
        Self { secret: Secret::Elsewhere(signer), public }
    }

    /// Where the key is, if that is not here.
    #[must_use]
    pub fn place(&self) -> Option<&str> {
        match &self.secret {
            Secret::Here(_) => None,
            Secret::Elsewhere(signer) => Some(signer.place()),
        }
    }

    /// As a file holds it: for its owner's eyes only. `None` for a key that is elsewhere.
    #[must_use]
    pub fn to_pem(&self) -> Option<String> {
        let pem = pem::Pem::new(TAG, self.to_pkcs8()?);
        Some(pem::encode_config(&pem, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF)))
    }

    /// In PKCS#8, DER: for its owner's eyes only. `None` for a key that is elsewhere.
    #[must_use]
    pub fn to_pkcs8(&self) -> Option<&[u8]> {
        match &self.secret {
            Secret::Here(pkcs8) => Some(pkcs8),
            Secret::Elsewhere(_) => None,
        }
    }

    /// Its id in metadata, hexadecimal.
    #[must_use]
    pub fn id(&self) -> String {
        self.public.id()
    }

    /// The signature of a message.
    pub(super) fn signature(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        match &self.secret {
            Secret::Here(pkcs8) => {
                let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| SignError::NoKey)?;
                Ok(pair.sign(message).as_ref().to_vec())
            }
            Secret::Elsewhere(signer) => {
                let signature = signer.sign(message).map_err(|error| SignError::Elsewhere(error.to_string()))?;
                // It may be another key by now, under the same name.
                if !self.public.has_signed(message, &signature) {
                    return Err(SignError::OtherKey { place: signer.place().to_owned(), id: self.id() });
                }
                Ok(signature)
            }
        }
    }

    /// Its public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public.clone()
    }

    pub(super) fn public(&self) -> (Decoded<Hex>, Key) {
        self.public.parts()
    }
}

#[async_trait]
impl Sign for PrivateKey {
    fn tuf_key(&self) -> Key {
        self.public.parts().1
    }

    async fn sign(&self, message: &[u8], _random: &(dyn SecureRandom + Sync)) -> Result<Vec<u8>, BoxError> {
        Ok(self.signature(message)?)
    }
}

#[async_trait]
impl KeySource for PrivateKey {
    async fn as_sign(&self) -> Result<Box<dyn Sign>, BoxError> {
        Ok(Box::new(self.clone()))
    }

    async fn write(&self, _value: &str, _key_id_hex: &str) -> Result<(), BoxError> {
        Err("a key is not written through this".into())
    }
}
