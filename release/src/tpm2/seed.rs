//! How a secret gets to one TPM alone: a new seed, encrypted to its EK, and keys that are derived from it (part 1, section 24,
//! "Credential Protection", and section 23.3, "Protections of Duplicated Objects"; annexes B.10 and C.6 for how the seed gets
//! there).

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey, UnparsedPublicKey, agree};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hmac::{self, HMAC_SHA256};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::fill;
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::{Ek, sized};

/// A seed that nothing else has been made from.
pub(super) struct Seed(Zeroizing<[u8; 32]>);

impl Seed {
    /// A new one, and how only the TPM with the key `ek` gets it. `label` says what it is for, with the zero that ends it.
    pub(super) fn make(ek: &Ek, label: &[u8]) -> Result<(Self, Vec<u8>), Unspecified> {
        let Some(point) = ek.point() else {
            let mut seed = Zeroizing::new([0; 32]);
            fill(seed.as_mut_slice())?;
            let key = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(&ek.info())?)?;
            let mut encrypted = vec![0; key.ciphertext_size()];
            key.encrypt(&OAEP_SHA256_MGF1SHA256, seed.as_slice(), &mut encrypted, Some(label))?;
            return Ok((Self(seed), encrypted));
        };
        let ephemeral = PrivateKey::generate(&ECDH_P256)?;
        let public = ephemeral.compute_public_key()?;
        let coordinates = |point: &[u8]| -> Option<([u8; 32], [u8; 32])> {
            let (x, y) = point.get(1..)?.split_at_checked(32)?;
            Some((x.try_into().ok()?, y.try_into().ok()?))
        };
        let (x, y) = coordinates(public.as_ref()).ok_or(Unspecified)?;
        let (of_ek, _) = coordinates(&point).ok_or(Unspecified)?;
        // KDFe (part 1, section 11.4.10.3), of which one round is enough.
        let derive = |shared: &[u8]| {
            let mut hash = Sha256::new();
            for part in [&1_u32.to_be_bytes()[..], shared, label, &x, &of_ek] {
                hash.update(part);
            }
            let seed: [u8; 32] = hash.finalize().into();
            Ok(Self(Zeroizing::new(seed)))
        };
        let seed = agree(&ephemeral, UnparsedPublicKey::new(&ECDH_P256, point), Unspecified, derive)?;
        Ok((seed, [sized(&x), sized(&y)].concat()))
    }

    /// Encrypts `plain` for an object of this name, and vouches for both: a digest (`TPM2B_DIGEST`), and what it is of.
    pub(super) fn wrap(&self, plain: &[u8], name: &[u8]) -> Result<Vec<u8>, Unspecified> {
        let mut encrypted = sized(plain);
        let key = self.derive(b"STORAGE\0", name, 128);
        let key = UnboundCipherKey::new(&AES_128, key.first_chunk::<16>().ok_or(Unspecified)?)?;
        // The library wants an IV of zeroes: the seed, and so the key, is new each time.
        let iv = EncryptionContext::Iv128(FixedLength::from([0; 16]));
        EncryptingKey::cfb128(key)?.less_safe_encrypt(&mut encrypted, iv)?;
        let key = self.derive(b"INTEGRITY\0", &[], 256);
        let integrity =
            hmac::sign(&hmac::Key::new(HMAC_SHA256, key.as_slice()), &[encrypted.as_slice(), name].concat());
        Ok([sized(integrity.as_ref()), encrypted].concat())
    }

    /// KDFa (part 1, section 11.4.10.2), of which one round is enough: the first `bits` of what this returns are the key.
    fn derive(&self, label: &[u8], context: &[u8], bits: u32) -> Zeroizing<[u8; 32]> {
        let input = [&1_u32.to_be_bytes()[..], label, context, &bits.to_be_bytes()].concat();
        let tag = hmac::sign(&hmac::Key::new(HMAC_SHA256, self.0.as_slice()), &input);
        Zeroizing::new(tag.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::to_hex;

    #[test]
    fn keys_are_derived_as_the_library_says() {
        // python3: hmac.new(bytes(32), b"\0\0\0\1" + b"STORAGE\0" + b"context" + b"\0\0\0\x80", "sha256").hexdigest()
        let key = Seed(Zeroizing::new([0; 32])).derive(b"STORAGE\0", b"context", 128);
        assert_eq!(to_hex(key.as_slice()), "e4dbd92491955f0761f49de3d58896a0c2092050eee37443b832a4d739853bb2");
    }
}
