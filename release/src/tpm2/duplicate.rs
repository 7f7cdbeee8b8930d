//! Sealed data for a TPM that is elsewhere: made as TPM2_Duplicate would make it for that TPM's EK as new parent, so that it
//! takes it by TPM2_Import, and no other TPM does (part 1, section 23.3, "Protections of Duplicated Objects": outer wrapper
//! only).

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::fill;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::seed::Seed;
use super::{Ek, KEYED_HASH, attributes, name, sealed_data, sized, take_sized};

/// What the seed is for, with the zero that ends it.
const USE: &[u8] = b"DUPLICATE\0";
/// Used without a password and from any state: whoever can load it may have it. It must be able to come from elsewhere.
const ATTRIBUTES: u32 = attributes::USER_WITH_AUTH | attributes::NO_DA;

/// Seals `data` for `ek`: the parameters `objectPublic`, `duplicate` and `inSymSeed` of TPM2_Import, one behind the other.
///
/// # Errors
/// The key is none, or the system gives no random bytes.
pub fn duplicate(ek: &Ek, data: &[u8; 32]) -> Result<Vec<u8>, Unspecified> {
    let mut obfuscation = Zeroizing::new([0; 32]);
    fill(obfuscation.as_mut_slice())?;
    let unique = Sha256::new().chain_update(obfuscation.as_slice()).chain_update(data).finalize();
    let public = sealed_data(ATTRIBUTES, &[], &unique);
    let name = name(&public);
    let (seed, encrypted_seed) = Seed::make(ek, USE)?;

    // TPMT_SENSITIVE: what it is, an empty authorisation value, the value that hides the data in `unique`, the data.
    let kind = KEYED_HASH.to_be_bytes();
    let data = Zeroizing::new(sized(data));
    let sensitive = Zeroizing::new([&kind[..], &sized(&[]), &sized(obfuscation.as_slice()), data.as_slice()].concat());
    let private = seed.wrap(&sensitive, &name)?;
    Ok([sized(&public), sized(&private), sized(&encrypted_seed)].concat())
}

/// Whether bytes have the form of what [`duplicate`] makes.
#[must_use]
pub fn is_duplicate(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let start = sealed_data(ATTRIBUTES, &[], &[]);
    let start = start.strip_suffix(&[0, 0]).unwrap_or(&start);
    let is_sealed = |public: &[u8]| public.strip_prefix(start).is_some_and(|unique| unique.len() == 2 + 32);
    let public = take_sized(&mut rest).is_some_and(is_sealed);
    public && take_sized(&mut rest).is_some() && take_sized(&mut rest).is_some() && rest.is_empty()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A point of the curve: its generator (SEC 2, section 2.4.2).
    pub(crate) fn ek() -> Ek {
        let from = |hex: &str| {
            let byte = |at: usize| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap();
            std::array::from_fn(byte)
        };
        Ek::EccP256 {
            x: from("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296"),
            y: from("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5"),
        }
    }

    #[test]
    fn it_has_the_form_that_import_takes_and_is_another_one_each_time() {
        let (one, other) = (duplicate(&ek(), &[7; 32]).unwrap(), duplicate(&ek(), &[7; 32]).unwrap());
        assert!(is_duplicate(&one) && one != other);
        let mut rest = one.as_slice();
        let lengths = [(); 3].map(|()| take_sized(&mut rest).unwrap().len());
        // The private part: digest and TPM2B_SENSITIVE; the seed: a point.
        assert_eq!(lengths, [14 + 32, 2 + 32 + 2 + 2 + 2 + 2 + 32 + 2 + 32, 2 + 32 + 2 + 32]);
        assert!(!one.windows(32).any(|part| part == [7; 32]));
        for wrong in [&one[..one.len() - 1], &[&one[..], &[0]].concat(), &one[1..], &[]] {
            assert!(!is_duplicate(wrong));
        }
        let mut other = one.clone();
        other[9] ^= 0x10;
        assert!(!is_duplicate(&other), "it is an object with other attributes");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for wrong in [Ek::EccP256 { x: [1; 32], y: [2; 32] }, Ek::Rsa2048([0; 256])] {
            assert!(duplicate(&wrong, &[7; 32]).is_err(), "{wrong:?}");
        }
    }
}
