//! Signed policies over PCR 11: who holds the key says which values are good, and what is sealed by the key's public half
//! opens at each of them (systemd-cryptenroll(1), `--tpm2-public-key=`).

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::{Bank, PCR, Pcr, Phase, Prediction};
use crate::digest::Digest;

/// `TPM_CC_PolicyPCR` (TPM 2.0 Library, Part 2, "TPM_CC").
const POLICY_PCR: u32 = 0x17f;
/// PCRs 0 to 23 as a `TPMS_PCR_SELECTION` has them: the bytes of the bit map, and in them PCR 11 alone.
const SELECTION: [u8; 4] = [3, 0, 1 << (PCR - 8), 0];

/// Why no policy can be signed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PolicyKeyError {
    /// No key for that.
    #[error("it is no RSA key of 2048 bits or more as PEM (PKCS#8 or PKCS#1, not encrypted), and TPMs take no other")]
    NoKey,
    /// The key does not do it.
    #[error("the key does not sign")]
    Signing,
}

/// The digest of a policy of SHA-256 that PCR 11 has this value, and nothing more (TPM 2.0 Library, Part 3,
/// "TPM2_PolicyPCR").
#[must_use]
pub fn policy(pcr: &Pcr) -> Digest {
    let (none, one) = ([0_u8; 32], 1_u32.to_be_bytes());
    let parts: [&[u8]; 6] =
        [&none, &POLICY_PCR.to_be_bytes(), &one, &pcr.bank.id().to_be_bytes(), &SELECTION, &Digest::of(&pcr.value).0];
    Digest::of(&parts.concat())
}

/// One signed policy, as systemd reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The PCRs.
    pub pcrs: Vec<u32>,
    /// SHA-256 of the public key as `RSAPublicKey` (RFC 8017) in DER.
    pub pkfp: Digest,
    /// The policy's digest, which is what is signed.
    pub pol: Digest,
    /// The signature: RSASSA-PKCS1-v1_5 with the bank's hash, base64.
    pub sig: String,
}

/// Signed policies by bank: as JSON what `systemd-measure sign` prints, a UKI has in `.pcrsig` and an initrd in
/// `/.extra/tpm2-pcr-signature.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signatures {
    /// Those over values in the bank of SHA-1. Others make them; here nothing is signed with SHA-1 any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sha1: Vec<Signature>,
    /// Those over values in the bank of SHA-256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sha256: Vec<Signature>,
    /// In that of SHA-384.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sha384: Vec<Signature>,
    /// In that of SHA-512.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sha512: Vec<Signature>,
}

impl Signatures {
    /// Those that a UKI has in this `.pcrsig`. Zeroes may follow them, as in any section.
    ///
    /// # Errors
    /// It is not in the form of systemd-measure.
    pub fn from_section(content: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(content.split(|byte| *byte == 0).next().unwrap_or_default())
    }

    /// Those over values in this bank.
    #[must_use]
    pub fn of(&self, bank: Bank) -> &[Signature] {
        match bank {
            Bank::Sha1 => &self.sha1,
            Bank::Sha256 => &self.sha256,
            Bank::Sha384 => &self.sha384,
            Bank::Sha512 => &self.sha512,
        }
    }

    /// Whether one of them is for PCR 11 with this value.
    #[must_use]
    pub fn cover(&self, pcr: &Pcr) -> bool {
        let pol = policy(pcr);
        self.of(pcr.bank).iter().any(|signature| signature.pol == pol)
    }

    /// Adds what is not there yet.
    pub fn add(&mut self, other: Self) {
        for (mine, theirs) in [
            (&mut self.sha1, other.sha1),
            (&mut self.sha256, other.sha256),
            (&mut self.sha384, other.sha384),
            (&mut self.sha512, other.sha512),
        ] {
            for signature in theirs {
                if !mine.contains(&signature) {
                    mine.push(signature);
                }
            }
        }
    }
}

/// The private key that signs policies.
#[derive(Debug)]
pub struct PolicyKey(RsaKeyPair);

impl PolicyKey {
    /// Reads a key.
    ///
    /// # Errors
    /// It is no RSA key that is not encrypted.
    pub fn from_pem(text: &[u8]) -> Result<Self, PolicyKeyError> {
        let pem = pem::parse(text).map_err(|_| PolicyKeyError::NoKey)?;
        let key = match pem.tag() {
            "PRIVATE KEY" => RsaKeyPair::from_pkcs8(pem.contents()),
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(pem.contents()),
            _ => return Err(PolicyKeyError::NoKey),
        };
        key.map(Self).map_err(|_| PolicyKeyError::NoKey)
    }

    /// By what signatures name it.
    #[must_use]
    pub fn fingerprint(&self) -> Digest {
        Digest::of(self.0.public_key().as_ref())
    }

    /// Whether a public key, as PEM, is of this one. Zeroes may follow it, as in a section of a UKI.
    #[must_use]
    pub fn is_of(&self, public: &[u8]) -> bool {
        // A SubjectPublicKeyInfo ends with the key itself (RFC 5280, 4.1).
        let own = self.0.public_key().as_ref();
        pem::parse(public).is_ok_and(|pem| pem.tag() == "PUBLIC KEY" && pem.contents().ends_with(own))
    }

    /// Signs that PCR 11 may have the values of these predictions, but for what the stub leaves, at which no systemd runs.
    ///
    /// # Errors
    /// The key does not sign.
    pub fn sign(&self, predictions: &[Prediction]) -> Result<Signatures, PolicyKeyError> {
        let bank = |bank: Bank, encoding: &'static dyn RsaEncoding| {
            let predictions = predictions.iter().filter(|prediction| Phase::SIGNED.contains(&prediction.phase));
            predictions.map(|prediction| self.one(&prediction.pcr(bank), encoding)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Signatures {
            sha1: Vec::new(),
            sha256: bank(Bank::Sha256, &RSA_PKCS1_SHA256)?,
            sha384: bank(Bank::Sha384, &RSA_PKCS1_SHA384)?,
            sha512: bank(Bank::Sha512, &RSA_PKCS1_SHA512)?,
        })
    }

    fn one(&self, pcr: &Pcr, encoding: &'static dyn RsaEncoding) -> Result<Signature, PolicyKeyError> {
        let pol = policy(pcr);
        let mut signature = vec![0; self.0.public_modulus_len()];
        let signed = self.0.sign(encoding, &SystemRandom::new(), &pol.0, &mut signature);
        signed.map_err(|_| PolicyKeyError::Signing)?;
        Ok(Signature { pcrs: vec![PCR], pkfp: self.fingerprint(), pol, sig: STANDARD.encode(&signature) })
    }
}
