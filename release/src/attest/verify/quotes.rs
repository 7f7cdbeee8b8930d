//! Whether the quotes were made for this nonce, by the attestation key, and over the values that come with them.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::super::{Finding, Introduction, Outcome, Quote};
use crate::digest::from_hex;
use crate::pcr::Bank;
use crate::tpm2::{Ak, Quoted, Selection, Signature};

/// Values of PCRs that a TPM vouches for.
pub(super) type Values = BTreeMap<(u32, Bank), Vec<u8>>;

const WHAT: &str = "quote";

/// What the quotes must be of.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// Their nonce.
    pub(super) nonce: &'a [u8],
    /// Their PCRs, ascending.
    pub(super) pcrs: &'a [u32],
    /// What is said of one with another nonce.
    pub(super) other_nonce: &'static str,
    /// And of one over other PCRs.
    pub(super) other_pcrs: &'static str,
    /// What is said beside what they prove.
    pub(super) beside: &'static str,
}

/// What the quotes of the machine with this introduction prove; no values if they prove nothing.
pub(super) fn check(introduction: &Introduction, asked: &Asked<'_>, quotes: &[Quote]) -> (Finding, Values) {
    let none = |outcome, text: String| (Finding::new(WHAT, outcome, text), Values::new());
    match all(introduction, asked, quotes) {
        Err(problem) => none(Outcome::Refuted, problem),
        Ok(values) if values.keys().all(|(_, bank)| *bank == Bank::Sha1) => none(
            Outcome::Unknown,
            "it is of the bank of SHA-1 alone, for which other events with the same digests can be made".to_owned(),
        ),
        // The machine chooses the banks, and whoever has it can fill one that the firmware leaves alone. The installer measures
        // nothing where this one is not active.
        Ok(values) if !values.keys().any(|(_, bank)| *bank == Bank::Sha256) => none(
            Outcome::Unknown,
            "it is not of the bank of SHA-256, and another may be active that the firmware does not extend".to_owned(),
        ),
        Ok(values) => {
            let banks: Vec<_> = quotes.iter().map(|quote| quote.bank.as_str()).collect();
            let pcrs: Vec<_> = asked.pcrs.iter().map(ToString::to_string).collect();
            let (pcrs, banks) = (pcrs.join(", "), banks.join(", "));
            let text = format!("the TPM vouches for PCRs {pcrs} of the banks {banks}{}", asked.beside);
            (Finding::new(WHAT, Outcome::Proved, text), values)
        }
    }
}

fn all(introduction: &Introduction, asked: &Asked<'_>, quotes: &[Quote]) -> Result<Values, String> {
    let ak = introduction.ak().map_err(|error| error.to_string())?;
    if quotes.is_empty() {
        return Err("there is none".to_owned());
    }
    let (mut values, mut boots) = (Values::new(), Vec::new());
    for quote in quotes {
        let bank = Bank::of_name(&quote.bank).ok_or_else(|| format!("the bank {:?} is not known here", quote.bank))?;
        let (quoted, of_bank) = one(quote, bank, &ak, asked).map_err(|problem| format!("that of {bank} {problem}"))?;
        if of_bank.into_iter().any(|(pcr, value)| values.insert((pcr, bank), value).is_some()) {
            return Err(format!("there are two of {bank}"));
        }
        boots.push((quoted.resets, quoted.restarts));
    }
    if boots.iter().any(|boot| Some(boot) != boots.first()) {
        return Err("the machine was started anew between the quotes".to_owned());
    }
    Ok(values)
}

/// One bank's quote, and the values that it is of.
fn one(quote: &Quote, bank: Bank, ak: &Ak, asked: &Asked<'_>) -> Result<(Quoted, BTreeMap<u32, Vec<u8>>), String> {
    let signature = Signature::parse(&quote.signature.0);
    let signature = signature.ok_or("has no signature of RSASSA or ECDSA with SHA-256")?;
    if !ak.verifies(&quote.quoted.0, &signature) {
        return Err("was not signed by the attestation key".to_owned());
    }
    let quoted = Quoted::parse(&quote.quoted.0).map_err(|error| error.to_string())?;
    if quoted.qualifying_data != asked.nonce {
        return Err(asked.other_nonce.to_owned());
    }
    if quoted.selections != [Selection { bank, pcrs: asked.pcrs.to_vec() }] {
        return Err(asked.other_pcrs.to_owned());
    }
    let value = |(pcr, text): (&u32, &String)| {
        let value = from_hex(text).filter(|value| value.len() == bank.size());
        value.map(|value| (*pcr, value)).ok_or_else(|| format!("comes with a value of PCR {pcr} that is none"))
    };
    let values = quote.pcrs.iter().map(value).collect::<Result<BTreeMap<_, _>, _>>()?;
    if !values.keys().eq(asked.pcrs) {
        return Err("does not come with the values of its PCRs".to_owned());
    }
    let mut digest = Sha256::new();
    values.values().for_each(|value| digest.update(value));
    let digest: [u8; 32] = digest.finalize().into();
    if quoted.digest != digest {
        return Err("is over other values of the PCRs than come with it".to_owned());
    }
    Ok((quoted, values))
}
