//! A secret for one machine. A key of its own encrypts its content; the key is sealed to the machine's endorsement key, so that
//! no other TPM gives it out.

use std::fmt;

use anyhow::{Result, anyhow};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand::fill;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::FileForm;
use super::credentials::MOST_BYTES;
use crate::digest::from_hex;
use crate::tpm2::{Ek, duplicate, is_duplicate};

/// What the content is bound to besides its machine and its name.
const PURPOSE: &[u8] = b"metalstrap secret 1";
/// Bytes that the cipher adds.
const TAG: usize = 16;
/// Characters of an EK's name: its algorithm, which is SHA-256, and a digest.
const EK_HEX: usize = 2 * (2 + 32);

/// The plaintext of a secret. Nothing shows it or writes it down, and its memory is cleared when it goes.
#[derive(Clone, PartialEq, Eq)]
pub struct Plaintext(Zeroizing<Vec<u8>>);

impl Plaintext {
    /// As it is.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Plaintext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Plaintext(…)")
    }
}

/// A secret as the host config has it (`metalstrap host add --secret`).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// Name of the endorsement key of the one TPM that can open it: `000b` and the SHA-256 of its public area, in hexadecimal.
    pub ek: String,
    /// The key of the content in base64, sealed to the endorsement key: what TPM2_Import takes.
    pub key: String,
    /// The content in base64, encrypted by AES-256-GCM with that key.
    pub content: String,
    /// How it is written to its file.
    #[serde(default)]
    pub file: FileForm,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("ek", &self.ek).field("file", &self.file).finish_non_exhaustive()
    }
}

impl Secret {
    /// Encrypts `content`, the credential `name`, for the machine whose endorsement key is `ek`.
    ///
    /// # Errors
    /// The content is too long; the endorsement key is no key; the system gives no random bytes.
    pub fn encrypt(ek: &Ek, name: &str, content: &Plaintext) -> Result<Self> {
        let length = content.bytes().len();
        anyhow::ensure!(length <= MOST_BYTES, "the secret {name:?} has {length} bytes, more than {MOST_BYTES}");
        let mut key = Zeroizing::new([0; 32]);
        fill(key.as_mut_slice()).map_err(|_| anyhow!("the system gave no random bytes"))?;
        let sealed = duplicate(ek, &key);
        let sealed = sealed.map_err(|_| anyhow!("encrypting to the endorsement key {}: it is no key", ek.id()))?;
        // With the tag it stays where it is, so that no plaintext is left behind.
        let mut encrypted = Vec::with_capacity(length.saturating_add(TAG));
        encrypted.extend(content.bytes());
        let ek = ek.id();
        let aad = Aad::from(bound_to(&ek, name));
        let done = cipher(key.as_slice())
            .and_then(|(cipher, nonce)| cipher.seal_in_place_append_tag(nonce, aad, &mut encrypted).ok());
        done.ok_or_else(|| anyhow!("encrypting the secret {name:?}"))?;
        let (key, content) = (STANDARD.encode(sealed), STANDARD.encode(encrypted));
        Ok(Self { ek, key, content, file: FileForm::default() })
    }

    /// Decrypts the content with the key that the TPM has given out. `None`: it was changed, or is another secret's.
    #[must_use]
    pub fn decrypt(&self, name: &str, key: &[u8]) -> Option<Plaintext> {
        let mut content = Zeroizing::new(STANDARD.decode(&self.content).ok()?);
        let (cipher, nonce) = cipher(key)?;
        let opened = cipher.open_in_place(nonce, Aad::from(bound_to(&self.ek, name)), &mut content).ok()?;
        Some(Plaintext::new(opened.to_vec()))
    }

    /// The parameters `objectPublic`, `duplicate` and `inSymSeed` of TPM2_Import, one behind the other.
    #[must_use]
    pub fn sealed_key(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.key).ok().filter(|key| is_duplicate(key))
    }

    /// Bytes of its content.
    ///
    /// # Errors
    /// What cannot hold in it.
    pub(super) fn check(&self) -> Result<usize, String> {
        let is_name = self.ek.len() == EK_HEX && self.ek.starts_with("000b") && from_hex(&self.ek).is_some();
        if !is_name {
            return Err("has an ek that is no name of an endorsement key".to_owned());
        }
        if self.sealed_key().is_none() {
            return Err("has a key that is none which was sealed to an endorsement key".to_owned());
        }
        let content = STANDARD.decode(&self.content).ok().and_then(|bytes| bytes.len().checked_sub(TAG));
        match content {
            None => Err("has content that is not encrypted".to_owned()),
            Some(length) if length > MOST_BYTES => Err(format!("has {length} bytes, more than {MOST_BYTES}")),
            Some(length) => Ok(length),
        }
    }
}

/// What the content can only be decrypted with: it is of this machine and of this name.
fn bound_to(ek: &str, name: &str) -> Vec<u8> {
    [PURPOSE, ek.as_bytes(), name.as_bytes()].concat()
}

/// A key encrypts one content, so any nonce is new.
fn cipher(key: &[u8]) -> Option<(LessSafeKey, Nonce)> {
    let key = UnboundKey::new(&AES_256_GCM, key).ok()?;
    Some((LessSafeKey::new(key), Nonce::assume_unique_for_key([0; NONCE_LEN])))
}
