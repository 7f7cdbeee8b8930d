//! What the TPM says of itself: an attestation key (AK) under its endorsement key (EK), the proof that it has both, and quotes
//! over PCRs that the AK signs.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};
use metalstrap_release::attest::{Base64, Quote};
use metalstrap_release::digest::{Digest, to_hex};
use metalstrap_release::tpm2::{ECDSA, KeyKind, NULL, RSASSA, SHA256, attributes, sized, take_bytes, take_sized};
use zeroize::Zeroizing;

use super::Bank;
use super::direct::{Command, Direct, PASSWORD};
use super::sealing::{Loaded, Object, creation};

/// Of the AK: with `restricted` it signs nothing from outside that looks like what its TPM says. No guess at another object locks
/// it (`noDA`): it attests while the TPM is in lockout.
const ATTRIBUTES: u32 = attributes::FIXED_TPM
    | attributes::FIXED_PARENT
    | attributes::SENSITIVE_DATA_ORIGIN
    | attributes::USER_WITH_AUTH
    | attributes::NO_DA
    | attributes::RESTRICTED
    | attributes::SIGN;
/// `TPM_CAP_PCRS`.
const PCRS: u32 = 5;
/// PCRs that change are read and quoted so often.
const ATTEMPTS: usize = 5;

impl Direct {
    /// Makes an AK under the endorsement key `ek`: ECC where the TPM has that, else RSA.
    ///
    /// # Errors
    /// The TPM's.
    pub fn attestation_key(&mut self, ek: Loaded) -> Result<Object> {
        let mut make = |kind| {
            let session = self.endorsement_session()?;
            self.create(ek, session, &creation(&[], &template(kind)))
        };
        make(KeyKind::EccP256).or_else(|_| make(KeyKind::Rsa2048))
    }

    /// Does `work` with the endorsement key of this kind and an AK that was made under it.
    ///
    /// # Errors
    /// The TPM's, and those of `work`.
    pub fn with_attestation_key<T>(
        &mut self,
        kind: KeyKind,
        ak: &Object,
        work: impl FnOnce(&mut Self, Loaded, Loaded) -> Result<T>,
    ) -> Result<T> {
        self.with_ek(kind, |tpm, ek, _| {
            let session = tpm.endorsement_session()?;
            let ak = tpm.load(ek, session, ak)?;
            let result = work(tpm, ek, ak);
            tpm.flushed(ak.0, result)
        })
    }

    /// The secret in a credential (`TPM2B_ID_OBJECT` and `TPM2B_ENCRYPTED_SECRET`), which the TPM gives out only if it has this
    /// `ek` and this `ak`.
    ///
    /// # Errors
    /// The TPM's: it is for another EK or AK, or was changed.
    pub fn activate(&mut self, ek: Loaded, ak: Loaded, credential: [&[u8]; 2]) -> Result<Zeroizing<Vec<u8>>> {
        let session = self.endorsement_session()?;
        let answer = self.run(&Command {
            what: "TPM2_ActivateCredential",
            code: 0x147,
            handles: &[ak.0, ek.0],
            by: &[PASSWORD, session],
            parameters: &credential.concat(),
        });
        let answer = self.ended(session, answer)?;
        let secret = take_sized(&mut answer.as_slice());
        Ok(Zeroizing::new(secret.context("the TPM's answer to TPM2_ActivateCredential is too short")?.to_vec()))
    }

    /// The banks that are quoted: all that are active, and SHA-1's only where there is no other.
    ///
    /// # Errors
    /// The TPM's; it has none.
    pub fn banks_to_quote(&mut self) -> Result<Vec<Bank>> {
        let answer = self.capability(PCRS, 0, 1)?;
        let active = selections(&mut answer.as_slice()).context("the TPM does not say which PCR banks it has")?;
        let is_active = |bank: &Bank| active.iter().any(|(id, pcrs)| *id == bank.id() && !pcrs.is_empty());
        let mut banks: Vec<Bank> = Bank::ALL.into_iter().filter(is_active).collect();
        if banks.len() > 1 {
            banks.retain(|bank| *bank != Bank::Sha1);
        }
        if banks.is_empty() {
            bail!("the TPM has no active PCR bank that can be quoted");
        }
        Ok(banks)
    }

    /// A quote over `pcrs` of a bank, signed by `ak`, and the values that it is of.
    ///
    /// # Errors
    /// The TPM's; the PCRs change each time while they are read.
    pub fn quote(&mut self, ak: Loaded, nonce: &[u8], bank: Bank, pcrs: &BTreeSet<u32>) -> Result<Quote> {
        for _ in 0..ATTEMPTS {
            let values = self.values(bank, pcrs)?;
            let answer = self.run(&Command {
                what: "TPM2_Quote",
                code: 0x158,
                handles: &[ak.0],
                by: &[PASSWORD],
                // The key has its scheme.
                parameters: &[&sized(nonce)[..], &NULL.to_be_bytes(), &selection(bank, pcrs)].concat(),
            })?;
            let mut signature = answer.as_slice();
            let quoted = take_sized(&mut signature).context("the TPM's answer to TPM2_Quote is too short")?;
            // It ends with the digest of the values, by the hash of the key's scheme.
            let all: Vec<u8> = values.values().flatten().copied().collect();
            if quoted.ends_with(&Digest::of(&all).0) {
                let (quoted, signature) = (Base64(quoted.to_vec()), Base64(signature.to_vec()));
                let pcrs = values.into_iter().map(|(pcr, value)| (pcr, to_hex(&value))).collect();
                return Ok(Quote { bank: bank.to_string(), quoted, signature, pcrs });
            }
        }
        bail!("the PCRs of bank {bank} have changed each time while they were read and quoted")
    }

    /// The values of `pcrs`, of which a TPM gives a few at once.
    fn values(&mut self, bank: Bank, pcrs: &BTreeSet<u32>) -> Result<BTreeMap<u32, Vec<u8>>> {
        let (mut values, mut left) = (BTreeMap::new(), pcrs.clone());
        while let Some(next) = left.first().copied() {
            let (what, code) = ("TPM2_PCR_Read", 0x17e);
            let parameters = selection(bank, &left);
            let answer = self.run(&Command { what, code, handles: &[], by: &[], parameters: &parameters })?;
            values.extend(values_in(&answer, bank).context("the TPM's answer to TPM2_PCR_Read is too short")?);
            left.retain(|pcr| !values.contains_key(pcr));
            if left.contains(&next) {
                bail!("the TPM has no PCR {next} in bank {bank}");
            }
        }
        values.retain(|pcr, _| pcrs.contains(pcr));
        Ok(values)
    }
}

/// What an AK is made from (`TPMT_PUBLIC`).
fn template(kind: KeyKind) -> Vec<u8> {
    // The bits of the key and its exponent, 0 for 65537. Or the curve TPM_ECC_NIST_P256, and no scheme for keys. Each with room
    // for a key.
    let (scheme, details): (u16, &[u8]) = match kind {
        KeyKind::Rsa2048 => (RSASSA, &[0x08, 0x00, 0, 0, 0, 0, 0, 0]),
        KeyKind::EccP256 => (ECDSA, &[0x00, 0x03, 0x00, 0x10, 0, 0, 0, 0]),
    };
    let start = [kind.algorithm().to_be_bytes(), SHA256.to_be_bytes()].concat();
    // No policy, no cipher.
    let scheme = [NULL, scheme, SHA256].map(u16::to_be_bytes).concat();
    [start.as_slice(), &ATTRIBUTES.to_be_bytes(), &sized(&[]), &scheme, details].concat()
}

/// `TPML_PCR_SELECTION` of PCRs of one bank.
fn selection(bank: Bank, pcrs: &BTreeSet<u32>) -> Vec<u8> {
    let bits = pcrs.iter().fold(0_u32, |bits, pcr| bits | 1_u32.checked_shl(*pcr).unwrap_or_default());
    let [low, middle, high, _] = bits.to_le_bytes();
    [&1_u32.to_be_bytes()[..], &bank.id().to_be_bytes(), &[3, low, middle, high]].concat()
}

/// Takes a `TPML_PCR_SELECTION` from the start of `rest`: the PCRs of each bank.
fn selections(rest: &mut &[u8]) -> Option<Vec<(u16, BTreeSet<u32>)>> {
    let count = u32::from_be_bytes(take_bytes(rest)?);
    let mut one = || {
        let id = u16::from_be_bytes(take_bytes(rest)?);
        let [size] = take_bytes(rest)?;
        let (bytes, behind) = rest.split_at_checked(usize::from(size))?;
        *rest = behind;
        let of = |(byte, first): (&u8, u32)| {
            let byte = *byte;
            (0..8).filter(move |bit| (byte >> bit) & 1 == 1).map(move |bit: u32| first.saturating_add(bit))
        };
        Some((id, bytes.iter().zip((0..).step_by(8)).flat_map(of).collect()))
    };
    (0..count).map(|_| one()).collect()
}

/// The values in the answer to TPM2_PCR_Read, by PCR.
fn values_in(answer: &[u8], bank: Bank) -> Option<BTreeMap<u32, Vec<u8>>> {
    let mut rest = answer;
    // How often PCRs were changed.
    let _: [u8; 4] = take_bytes(&mut rest)?;
    let read = selections(&mut rest)?;
    let (_, pcrs) = read.into_iter().find(|(id, _)| *id == bank.id()).unwrap_or_default();
    let _: [u8; 4] = take_bytes(&mut rest)?;
    pcrs.into_iter().map(|pcr| Some((pcr, take_sized(&mut rest)?.to_vec()))).collect()
}

#[cfg(test)]
pub(crate) mod tests;
