//! systemd's encrypted credentials (`encrypt_credential_and_warn` in systemd's src/shared/creds-util.c): with the null key, the
//! fixed key that it takes where a machine has no TPM, or Secure Boot is off (`CRED_AES256_GCM_BY_NULL`); or with a key that is
//! sealed to the machine's TPM (`CRED_AES256_GCM_BY_TPM2_HMAC`).
//!
//! Integers are little-endian. A clear header (`struct encrypted_credential_header`): id of the key's kind (16 bytes), then
//! in 4 bytes each the size of the key, of a cipher's block, of the IV and of the tag, then the IV; zeroes up to a multiple of
//! 8. It is the additional data of AES-256-GCM, with the TPM's header behind it where there is one (`tpm_sealed`). Encrypted:
//! `struct metadata_credential_header` with the time it was made and the end of its time (8 bytes each, all ones for none),
//! length of the name (4 bytes) and name; zeroes up to a multiple of 8; and the content. Then the tag. The key is SHA-256 of the
//! host's key, of which there is none here, and the TPM's.

use anyhow::{Result, anyhow};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use metalstrap_release::host::Plaintext;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// `CRED_AES256_GCM_BY_NULL` (systemd's src/shared/creds-util.h).
const NULL_KEY: [u8; 16] =
    [0x05, 0x84, 0x69, 0xda, 0xf6, 0xf5, 0x43, 0x24, 0x80, 0x05, 0x49, 0xda, 0x0f, 0x8e, 0xa2, 0xfb];
/// Sizes of the key, of a block of the cipher (GCM makes a stream of it), of the IV and of the tag.
const SIZES: [u32; 4] = [32, 1, 12, 16];
/// `USEC_INFINITY`.
const NO_TIME: [u8; 8] = [0xff; 8];
/// What headers are filled up to.
pub(super) const ALIGN: usize = 8;

/// An IV.
pub(super) type Iv = [u8; NONCE_LEN];

/// The credential `name` with this content. The same gives the same bytes, so that a second run finds its own file.
///
/// # Errors
/// None that occur: names are short.
pub(super) fn seal(name: &str, content: &[u8]) -> Result<Vec<u8>> {
    // Where the key is everybody's a random IV would hide nothing. Another name or content has another one.
    let mut hash = Sha256::new();
    hash.update(u64::try_from(name.len())?.to_le_bytes());
    hash.update(name);
    hash.update(content);
    let digest: [u8; 32] = hash.finalize().into();
    let iv: Iv = *digest.first_chunk().unwrap_or(&[0; NONCE_LEN]);
    encrypt(header(&NULL_KEY, &iv), iv, b"", name, content)
}

/// The clear header.
pub(super) fn header(kind: &[u8; 16], iv: &Iv) -> Vec<u8> {
    let mut header = kind.to_vec();
    header.extend(SIZES.into_iter().flat_map(u32::to_le_bytes));
    header.extend(iv);
    header.resize(header.len().next_multiple_of(ALIGN), 0);
    header
}

/// The credential behind its `header`; `tpm` is the TPM's key.
///
/// # Errors
/// None that occur: names are short.
pub(super) fn encrypt(mut header: Vec<u8>, iv: Iv, tpm: &[u8], name: &str, content: &[u8]) -> Result<Vec<u8>> {
    let mut secret = metadata(name)?;
    // With the tag it stays where it is, so that no plaintext is left behind.
    secret.reserve_exact(content.len().saturating_add(AES_256_GCM.tag_len()));
    secret.extend(content);
    let failed = |_| anyhow!("encrypting the credential {name:?}");
    let key = UnboundKey::new(&AES_256_GCM, &Sha256::digest(tpm)).map_err(failed)?;
    let nonce = Nonce::assume_unique_for_key(iv);
    LessSafeKey::new(key).seal_in_place_append_tag(nonce, Aad::from(&header), &mut secret).map_err(failed)?;
    header.extend(secret);
    Ok(header)
}

/// What is in a credential; `None` if it is of another name or key, or was changed.
pub(super) fn decrypt(header: &[u8], encrypted: &[u8], iv: Iv, tpm: &[u8], name: &str) -> Option<Plaintext> {
    let mut secret = Zeroizing::new(encrypted.to_vec());
    let key = UnboundKey::new(&AES_256_GCM, &Sha256::digest(tpm)).ok()?;
    let nonce = Nonce::assume_unique_for_key(iv);
    let opened = LessSafeKey::new(key).open_in_place(nonce, Aad::from(header), &mut secret).ok()?;
    let content = opened.strip_prefix(metadata(name).ok()?.as_slice())?;
    Some(Plaintext::new(content.to_vec()))
}

/// What stands before the content.
fn metadata(name: &str) -> Result<Vec<u8>> {
    let mut metadata = [NO_TIME, NO_TIME].concat();
    metadata.extend(u32::try_from(name.len())?.to_le_bytes());
    metadata.extend(name.as_bytes());
    metadata.resize(metadata.len().next_multiple_of(ALIGN), 0);
    Ok(metadata)
}
