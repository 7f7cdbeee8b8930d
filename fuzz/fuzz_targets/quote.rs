//! Any bytes as what a machine answers a verifier with: a quote, a signature, an attestation key. Each is read or refused, and no
//! key has signed any of them.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::tpm2::{Ak, Quoted, Signature};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(quoted) = Quoted::parse(bytes) {
        assert!(bytes.starts_with(b"\xffTCG\x80\x18"));
        for selection in &quoted.selections {
            assert!(selection.pcrs.is_sorted() && selection.pcrs.iter().all(|pcr| *pcr < 32));
        }
        assert!(quoted.qualifying_data.len() + quoted.digest.len() < bytes.len());
    }
    let signature = Signature::parse(bytes);
    if let Some(Signature::Rsassa(bytes)) = &signature {
        assert_eq!(bytes.len(), 256);
    }
    if let Some(Signature::Ecdsa(bytes)) = &signature {
        assert_eq!(bytes.len(), 64);
    }
    if let Ok(ak) = Ak::of_public(bytes) {
        assert_eq!(ak.name().len(), 34);
        for signature in [Signature::Rsassa(vec![1; 256]), Signature::Ecdsa(vec![1; 64])] {
            assert!(!ak.verifies(bytes, &signature));
        }
    }
});
