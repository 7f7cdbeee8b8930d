//! systemd's credentials with a key that is sealed to the TPM of the machine, and to nothing else: no PCR, since what the OS
//! boots changes, and no signature. Whoever has the machine has them, and nobody who has its disk alone.
//!
//! The header of the TPM (`struct tpm2_credential_header` in systemd's src/shared/creds-util.c; little-endian): PCRs (8 bytes, a
//! bit each), their bank and the algorithm of the primary key (2 bytes each), sizes of blob and policy hash (4 bytes each), blob,
//! policy hash; zeroes up to a multiple of 8. The blob is the sealed object as the TPM writes it, private part and public part
//! (`tpm2_marshal_blob` in its src/shared/tpm2-util.c).

use std::fmt;

use anyhow::{Result, anyhow};
use aws_lc_rs::rand::fill;
use metalstrap_release::host::Plaintext;
use metalstrap_release::tpm2::{KeyKind, SHA256, sized, take_sized};
use zeroize::Zeroizing;

use super::seal::{ALIGN, Iv, decrypt, encrypt, header};
use crate::tpm::direct::Direct;
use crate::tpm::sealing::{NO_POLICY, Object};

/// `CRED_AES256_GCM_BY_TPM2_HMAC` (systemd's src/shared/creds-util.h).
const TPM_KEY: [u8; 16] =
    [0x0c, 0x7c, 0xc0, 0x7b, 0x11, 0x76, 0x45, 0x91, 0x9c, 0x4b, 0x0b, 0xea, 0x08, 0xbc, 0x20, 0xfe];
/// Where the IV is, the algorithm of the primary key, the size of the blob, and the blob.
const IV: usize = 32;
const ALGORITHM: usize = 58;
const BLOB_SIZE: usize = 60;
const BLOB: usize = 68;

/// A key that is sealed to a TPM, for several credentials: to seal one takes a TPM up to a second.
pub struct SealedKey {
    key: Zeroizing<[u8; 32]>,
    kind: KeyKind,
    object: Object,
}

/// The key is a secret.
impl fmt::Debug for SealedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedKey").finish_non_exhaustive()
    }
}

impl SealedKey {
    /// A new one, sealed to `tpm`.
    ///
    /// # Errors
    /// The TPM's; the system gives no random bytes.
    pub fn new(tpm: &mut Direct) -> Result<Self> {
        let mut key = Zeroizing::new([0; 32]);
        random(key.as_mut_slice())?;
        let mut seal = |kind| tpm.with_systemd_key(kind, |tpm, parent| Ok((kind, tpm.seal(parent, &key)?)));
        // As systemd chooses: RSA where the TPM knows no ECC.
        let (kind, object) = seal(KeyKind::EccP256).or_else(|_| seal(KeyKind::Rsa2048))?;
        Ok(Self { key, kind, object })
    }

    /// The file of the credential `name`. The same gives other bytes each time.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn encrypt(&self, name: &str, content: &Plaintext) -> Result<Vec<u8>> {
        let mut iv = Iv::default();
        random(&mut iv)?;
        encrypt(with_tpm(&iv, self.kind, &self.object)?, iv, self.key.as_slice(), name, content.bytes())
    }
}

fn random(bytes: &mut [u8]) -> Result<()> {
    fill(bytes).map_err(|_| anyhow!("the system gave no random bytes"))
}

/// What is in a file that [`SealedKey::encrypt`] has made; `None` if this TPM does not open it, it is of another name, or no such
/// file.
#[must_use]
pub fn open(tpm: &mut Direct, name: &str, file: &[u8]) -> Option<Plaintext> {
    let number = |at: usize| file.get(at..)?.first_chunk::<2>().copied().map(u16::from_le_bytes);
    let kind = KeyKind::ALL.into_iter().find(|kind| Some(kind.algorithm()) == number(ALGORITHM))?;
    let mut blob = file.get(BLOB..)?.get(..usize::from(number(BLOB_SIZE)?))?;
    let object = Object { private: take_sized(&mut blob)?.to_vec(), public: take_sized(&mut blob)?.to_vec() };
    let iv: Iv = *file.get(IV..)?.first_chunk()?;
    // All else in it is as it is made here.
    let header = with_tpm(&iv, kind, &object).ok()?;
    let encrypted = file.strip_prefix(header.as_slice())?;
    let key = tpm.with_systemd_key(kind, |tpm, parent| tpm.open(parent, &object)).ok()?;
    decrypt(&header, encrypted, iv, &key, name)
}

/// The clear header, and that of the TPM behind it.
fn with_tpm(iv: &Iv, kind: KeyKind, Object { private, public }: &Object) -> Result<Vec<u8>> {
    let blob = [sized(private), sized(public)].concat();
    let mut header = header(&TPM_KEY, iv);
    header.extend([0; 8]);
    header.extend([SHA256, kind.algorithm()].into_iter().flat_map(u16::to_le_bytes));
    for size in [blob.len(), NO_POLICY.len()] {
        header.extend(u32::try_from(size)?.to_le_bytes());
    }
    header.extend(blob);
    header.extend(NO_POLICY);
    header.resize(header.len().next_multiple_of(ALIGN), 0);
    Ok(header)
}
