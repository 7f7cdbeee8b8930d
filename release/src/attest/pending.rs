//! What a verifier keeps between its challenge and the machine's answer.

use anyhow::{Result, anyhow};
use aws_lc_rs::rand::fill;
use serde::{Deserialize, Serialize};

use super::form::{CHALLENGE, EVIDENCE, INTRODUCTION};
use super::{Base64, Challenge, Evidence, Introduction};
use crate::digest::to_hex;
use crate::document::{DocumentError, FORMAT, Kind};
use crate::eventlog::PCRS;
use crate::tpm2::{Ak, Credential, Ek};

/// The file of it is the verifier's own.
const PENDING: Kind = Kind { name: "state", max_bytes: 256 << 10 };

/// An exchange that has begun. Who has it can answer the challenge: it is not for the machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pending {
    /// Format of this document: 1.
    pub format: u32,
    /// What the machine has said of itself.
    pub introduction: Introduction,
    /// What it was asked.
    pub challenge: Challenge,
    /// What its TPM gives out for the challenge's credential.
    pub secret: Base64,
}

impl Introduction {
    /// Parses one and checks its keys.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let introduction: Self = INTRODUCTION.parse(bytes)?;
        introduction.check()?;
        Ok(introduction)
    }

    /// Checks its format and its keys.
    pub(super) fn check(&self) -> Result<(), DocumentError> {
        INTRODUCTION.check_format(self.format)?;
        self.ek()?;
        self.ak()?;
        Ok(())
    }

    /// Its endorsement key.
    ///
    /// # Errors
    /// It is none that is known here.
    pub fn ek(&self) -> Result<Ek, DocumentError> {
        let none = "is no endorsement key of RSA 2048 or ECC P-256 that was made from the TCG's template";
        Ek::of_public(&self.ek.0).map_or_else(|| INTRODUCTION.refuse("ek", none), Ok)
    }

    /// Its attestation key.
    ///
    /// # Errors
    /// It is none that is known here, or signs more than an attestation key may.
    pub fn ak(&self) -> Result<Ak, DocumentError> {
        Ak::of_public(&self.ak.0).or_else(|error| INTRODUCTION.refuse("ak", error.to_string()))
    }
}

impl Challenge {
    /// Checks that these are PCRs that can be asked for.
    ///
    /// # Errors
    /// They are none, or some that no TPM has.
    pub fn check_pcrs(pcrs: &[u32]) -> Result<(), DocumentError> {
        if pcrs.is_empty() || pcrs.iter().any(|pcr| *pcr >= PCRS) {
            return CHALLENGE.refuse("pcrs", "are none, or some that no TPM has: there are 0 to 23");
        }
        Ok(())
    }
}

impl Evidence {
    /// Parses one.
    ///
    /// # Errors
    /// Names what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let evidence: Self = EVIDENCE.parse(bytes)?;
        EVIDENCE.check_format(evidence.format)?;
        Ok(evidence)
    }
}

impl Pending {
    /// Begins one: a secret for the machine that has introduced itself, and a nonce that was never used.
    ///
    /// # Errors
    /// A key of the introduction is none; no PCRs are asked for, or some that no TPM has; the system gives no random bytes.
    pub fn begin(introduction: Introduction, mut pcrs: Vec<u32>) -> Result<Self> {
        let (ek, ak) = (introduction.ek()?, introduction.ak()?);
        pcrs.sort_unstable();
        pcrs.dedup();
        Challenge::check_pcrs(&pcrs)?;
        let (id, nonce, secret) = (random::<16>()?, random::<32>()?, random::<32>()?);
        let made = Credential::make(&ek, &ak.name(), &secret);
        let made = made.map_err(|_| anyhow!("encrypting to the endorsement key {}: it is no key", ek.id()))?;
        let challenge = Challenge {
            format: FORMAT,
            id: to_hex(&id),
            credential: Base64(made.blob),
            encrypted_secret: Base64(made.encrypted_secret),
            nonce: Base64(nonce.to_vec()),
            pcrs,
        };
        Ok(Self { format: FORMAT, introduction, challenge, secret: Base64(secret.to_vec()) })
    }

    /// Parses what was kept.
    ///
    /// # Errors
    /// Names what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let pending: Self = PENDING.parse(bytes)?;
        PENDING.check_format(pending.format)?;
        pending.introduction.ek()?;
        pending.introduction.ak()?;
        Ok(pending)
    }
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    fill(&mut bytes).map_err(|_| anyhow!("the system gave no random bytes"))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::tpm2::testing::{Signer, ek};

    fn introduction() -> Introduction {
        Introduction {
            format: 1,
            claims: BTreeMap::new(),
            ek: Base64(ek().public()),
            ek_certificate: None,
            ek_chain: Vec::new(),
            ak: Base64(Signer::new().public),
        }
    }

    #[test]
    fn what_is_kept_reads_back_and_no_two_are_alike() {
        let begin = || Pending::begin(introduction(), vec![13, 0, 13]).unwrap();
        let (one, other) = (begin(), begin());
        assert_eq!(one.challenge.pcrs, [0, 13]);
        assert_eq!(Pending::parse(&serde_json::to_vec(&one).unwrap()).unwrap(), one);
        assert_ne!(one.challenge.nonce, other.challenge.nonce);
        assert_ne!(one.challenge.id, other.challenge.id);
        assert_ne!(one.secret, other.secret);
        assert_eq!((one.challenge.nonce.0.len(), one.secret.0.len()), (32, 32));
    }

    #[test]
    fn what_cannot_be_challenged_is_refused() {
        let refusal = |introduction: Introduction, pcrs: &[u32]| {
            format!("{:#}", Pending::begin(introduction, pcrs.to_vec()).unwrap_err())
        };
        let pcrs = "the challenge's pcrs are none, or some that no TPM has: there are 0 to 23";
        assert_eq!(refusal(introduction(), &[]), pcrs);
        assert_eq!(refusal(introduction(), &[0, 24]), pcrs);
        let parse = |introduction: Introduction| {
            Introduction::parse(&serde_json::to_vec(&introduction).unwrap()).unwrap_err().to_string()
        };
        assert_eq!(
            parse(Introduction { ek: introduction().ak, ..introduction() }),
            "the introduction's ek is no endorsement key of RSA 2048 or ECC P-256 that was made from the TCG's template"
        );
        assert_eq!(
            parse(Introduction { ak: introduction().ek, ..introduction() }),
            "the introduction's ak is no key of RSA 2048 with RSASSA or ECC P-256 with ECDSA, each with SHA-256"
        );
        assert_eq!(
            parse(Introduction { format: 2, ..introduction() }),
            "the introduction's format is 2, but this installer reads 1"
        );
    }
}
