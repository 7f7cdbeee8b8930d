//! TPM2_MakeCredential without a TPM: a secret that a TPM gives out only if it has this EK and, at the same time, the key of this
//! name (part 1, section 24, "Credential Protection").

use aws_lc_rs::error::Unspecified;

use super::seed::Seed;
use super::{Ek, sized};

/// What the seed is for, with the zero that ends it.
const USE: &[u8] = b"IDENTITY\0";

/// What TPM2_ActivateCredential takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// `TPM2B_ID_OBJECT`.
    pub blob: Vec<u8>,
    /// `TPM2B_ENCRYPTED_SECRET`.
    pub encrypted_secret: Vec<u8>,
}

impl Credential {
    /// Encrypts `secret` for the TPM that has `ek` and the key with this name.
    ///
    /// # Errors
    /// The EK is none, or the system gives no random bytes.
    pub fn make(ek: &Ek, name: &[u8], secret: &[u8; 32]) -> Result<Self, Unspecified> {
        let (seed, encrypted_seed) = Seed::make(ek, USE)?;
        Ok(Self { blob: sized(&seed.wrap(secret, name)?), encrypted_secret: sized(&encrypted_seed) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpm2::take_sized;
    use crate::tpm2::testing::ek;

    /// That a TPM opens it, `cli/tests/attest.rs` shows with swtpm.
    #[test]
    fn it_has_the_form_that_activation_takes_and_is_another_one_each_time() {
        let make = || Credential::make(&ek(), b"name", &[7; 32]).unwrap();
        let (one, other) = (make(), make());
        assert!(one.blob != other.blob && one.encrypted_secret != other.encrypted_secret);
        let mut rest = one.blob.as_slice();
        let mut blob = take_sized(&mut rest).unwrap();
        // TPM2B_DIGEST of the integrity, and the encrypted TPM2B_DIGEST.
        assert_eq!((rest.len(), take_sized(&mut blob).unwrap().len(), blob.len()), (0, 32, 2 + 32));
        let mut rest = one.encrypted_secret.as_slice();
        assert_eq!((take_sized(&mut rest).unwrap().len(), rest.len()), (2 + 32 + 2 + 32, 0));
        assert!(!one.blob.windows(32).any(|part| part == [7; 32]));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for wrong in [Ek::EccP256 { x: [1; 32], y: [2; 32] }, Ek::Rsa2048([0; 256])] {
            assert!(Credential::make(&wrong, b"name", &[7; 32]).is_err(), "{wrong:?}");
        }
    }
}
