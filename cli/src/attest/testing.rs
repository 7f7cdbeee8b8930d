//! Documents for tests. What machines really say is in `cli/tests/attest.rs`.

use std::collections::BTreeMap;

use metalstrap_release::attest::{Base64, Challenge, Evidence, Introduction};
use metalstrap_release::digest::from_hex;
use metalstrap_release::tpm2::{Ek, attributes, sized};

/// A point of the curve: its generator (SEC 2, section 2.4.2).
const GENERATOR: &str = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e16\
                         2bce33576b315ececbb6406837bf51f5";

/// Of keys whose private halves nobody has.
pub fn introduction() -> Introduction {
    let point = from_hex(GENERATOR).unwrap();
    let attributes = attributes::RESTRICTED
        | attributes::SIGN
        | attributes::FIXED_TPM
        | attributes::FIXED_PARENT
        | attributes::SENSITIVE_DATA_ORIGIN;
    // TPM_ALG_ECC and TPM_ALG_SHA256; no cipher, ECDSA with SHA-256, TPM_ECC_NIST_P256, no scheme for keys.
    let start = [&[0, 0x23, 0, 0x0b][..], &attributes.to_be_bytes(), &sized(&[])].concat();
    let parameters = [0, 0x10, 0, 0x18, 0, 0x0b, 0, 3, 0, 0x10];
    let ak = [&start[..], &parameters, &sized(&point[1..33]), &sized(&point[33..])].concat();
    Introduction {
        format: 1,
        claims: BTreeMap::new(),
        ek: Base64(Ek::of_key(&point).unwrap().public()),
        ek_certificate: None,
        ek_chain: Vec::new(),
        ak: Base64(ak),
    }
}

/// Of somebody who knows nothing but the challenge's id.
pub fn answer(challenge: &Challenge) -> Evidence {
    Evidence {
        format: 1,
        id: challenge.id.clone(),
        secret: Base64::default(),
        quotes: Vec::new(),
        firmware_log: None,
        userspace_log: String::new(),
    }
}
