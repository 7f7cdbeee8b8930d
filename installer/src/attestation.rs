//! Attesting: the machine says who it is, answers a verifier's challenge by its TPM, and hears what the verifier makes of it. The
//! messages, and what each is for: `metalstrap_release::attest`.

pub mod command;
mod exchange;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use metalstrap_release::attest::{
    Attestation, Base64, CHALLENGE, Challenge, Evidence, Introduction, Outcome, Quote, REPORTED, VERDICT, Verdict,
};
use metalstrap_release::document::FORMAT;
use metalstrap_release::host::{Host, Identity, Secrets};
use metalstrap_release::tpm2::{Ek, KeyKind, sized, take_sized};
use serde_json::{Map, Value};

pub use exchange::Verifier;

use crate::eventlog::firmware;
use crate::report::fields;
use crate::tpm::direct::Direct;
use crate::tpm::sealing::Object;

/// Of no longer one evidence is made; firmware gives its log 64 KiB, or a few times that.
const MOST_FIRMWARE_LOG: u64 = 4 << 20;
/// No longer one is posted with the final report: in base64, with the rest, that must stay below the 1 MiB that web servers take.
const MOST_POSTED_LOG: usize = 512 << 10;
/// Bytes of a nonce.
const NONCE: std::ops::RangeInclusive<usize> = 16..=32;
/// Findings that a message for a person names.
const MOST_NAMED: usize = 10;

/// The key that a machine attests itself by: an object that only the TPM opens that has made it, under its endorsement key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    ek: KeyKind,
    object: Object,
}

/// What the machine has measured.
#[derive(Debug, Clone, Default)]
pub struct Logs {
    /// The firmware's log.
    pub firmware: Option<Vec<u8>>,
    /// The installer's, or the OS's.
    pub userspace: String,
}

impl Key {
    /// As a file holds it: no secret, since only its TPM opens it.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.ek.algorithm().to_be_bytes()[..], &sized(&self.object.public), &sized(&self.object.private)].concat()
    }

    /// From such bytes; `None` if they are none.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (algorithm, mut rest) = bytes.split_first_chunk::<2>()?;
        let ek = KeyKind::ALL.into_iter().find(|kind| kind.algorithm().to_be_bytes() == *algorithm)?;
        let (public, private) = (take_sized(&mut rest)?.to_vec(), take_sized(&mut rest)?.to_vec());
        rest.is_empty().then_some(Self { ek, object: Object { private, public } })
    }
}

/// Has the TPM make an attestation key, and introduces the machine by it, without the steps of a certificate. Of the TPM's endorsement keys one with a certificate is
/// taken, else the one that it makes fastest.
///
/// # Errors
/// The TPM's.
pub fn introduce(tpm: &mut Direct, machine: &Identity) -> Result<(Key, Introduction)> {
    let certified = KeyKind::ALL.into_iter().find_map(|kind| Some((kind, or_none(tpm.ek_certificate(kind))?)));
    let (kind, certificate) = certified.unzip();
    let (ek, object) = match keys(tpm, kind.unwrap_or(KeyKind::EccP256)) {
        Err(error) if kind.is_none() => {
            log::warn!("{error:#}");
            keys(tpm, KeyKind::Rsa2048)
        }
        keys => keys,
    }?;
    let introduction = Introduction {
        format: FORMAT,
        claims: claims(machine),
        ek: Base64(ek.public()),
        ek_certificate: certificate.map(Base64),
        ek_chain: Vec::new(),
        ak: Base64(object.public.clone()),
    };
    Ok((Key { ek: ek.kind(), object }, introduction))
}

/// Adds the steps of the certificate to an introduction that a verifier gets: they are the most of what is read from the TPM, and
/// the final report has none.
pub fn add_chain(tpm: &mut Direct, introduction: &mut Introduction) {
    if introduction.ek_certificate.is_some() {
        let chain = or_none(tpm.ek_chain().map(Some)).unwrap_or_default();
        introduction.ek_chain = chain.into_iter().map(Base64).collect();
    }
}

/// The endorsement key of this kind, and an attestation key that was made under it.
fn keys(tpm: &mut Direct, kind: KeyKind) -> Result<(Ek, Object)> {
    let made = tpm.with_ek(kind, |tpm, key, ek| Ok((ek.clone(), tpm.attestation_key(key)?)));
    made.context("making an attestation key")
}

/// A certificate that cannot be read is one that the verifier does without, or not.
fn or_none<T>(read: Result<Option<T>>) -> Option<T> {
    read.unwrap_or_else(|error| {
        log::warn!("reading the certificate of the endorsement key: {error:#}");
        None
    })
}

/// What the machine says of itself and nothing proves.
fn claims(machine: &Identity) -> BTreeMap<String, String> {
    let macs = (!machine.macs.is_empty()).then(|| machine.macs.join(" "));
    let Identity { uuid, serial, vendor, product, .. } = machine.clone();
    let all = [("uuid", uuid), ("serial", serial), ("macs", macs), ("vendor", vendor), ("product", product)];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

/// Reads a challenge.
///
/// # Errors
/// Names what is wrong with it.
pub fn parse_challenge(bytes: &[u8]) -> Result<Challenge> {
    let challenge: Challenge = CHALLENGE.parse(bytes)?;
    CHALLENGE.check_format(challenge.format)?;
    if !NONCE.contains(&challenge.nonce.0.len()) {
        let (least, most, length) = (NONCE.start(), NONCE.end(), challenge.nonce.0.len());
        return Ok(CHALLENGE.refuse("nonce", format!("has {length} bytes, not {least} to {most}"))?);
    }
    Challenge::check_pcrs(&challenge.pcrs)?;
    Ok(challenge)
}

/// Reads a verdict on the exchange `id`.
///
/// # Errors
/// Names what is wrong with it.
fn parse_verdict(bytes: &[u8], id: &str) -> Result<Verdict> {
    let verdict: Verdict = VERDICT.parse(bytes)?;
    VERDICT.check_format(verdict.format)?;
    if verdict.id != id {
        return Ok(VERDICT.refuse("id", format!("is {:?}, which is another exchange than {id:?}", verdict.id))?);
    }
    Ok(verdict)
}

/// Answers a challenge for `key`.
///
/// # Errors
/// The TPM's: the challenge is for another TPM or another key, or the TPM cannot quote.
pub fn answer(tpm: &mut Direct, key: &Key, challenge: &Challenge, logs: Logs) -> Result<Evidence> {
    let pcrs: BTreeSet<u32> = challenge.pcrs.iter().copied().collect();
    let (secret, quotes) = tpm.with_attestation_key(key.ek, &key.object, |tpm, ek, ak| {
        let credential = [challenge.credential.0.as_slice(), &challenge.encrypted_secret.0];
        let secret = tpm.activate(ek, ak, credential).context(
            "opening the challenge's secret: it is for another TPM or another attestation key, or was changed",
        )?;
        let banks = tpm.banks_to_quote()?;
        let quotes: Result<Vec<Quote>> =
            banks.into_iter().map(|bank| tpm.quote(ak, &challenge.nonce.0, bank, &pcrs)).collect();
        Ok((secret.to_vec(), quotes?))
    })?;
    Ok(Evidence {
        format: FORMAT,
        id: challenge.id.clone(),
        secret: Base64(secret),
        quotes,
        firmware_log: logs.firmware.map(Base64),
        userspace_log: logs.userspace,
    })
}

/// What the final report has of it ([`Attestation`]): the introduction without the steps of its certificate, and a quote over one
/// bank, whose nonce is the SHA-256 of the run's id. Nobody has challenged the machine, so it proves that this TPM had these values,
/// not when.
///
/// # Errors
/// The TPM's.
pub fn report(tpm: &mut Direct, key: &Key, introduction: &Introduction, run: &str) -> Result<Value> {
    let introduction = Introduction { ek_chain: Vec::new(), ..introduction.clone() };
    let (nonce, pcrs): (_, BTreeSet<u32>) = (Attestation::nonce(run), REPORTED.collect());
    let quote = tpm.with_attestation_key(key.ek, &key.object, |tpm, _, ak| {
        let bank = tpm.banks_to_quote()?.into_iter().next().context("the TPM has no bank")?;
        tpm.quote(ak, &nonce.0, bank, &pcrs)
    })?;
    serde_json::to_value(Attestation { introduction, quote }).context("writing the report of the TPM")
}

/// What the final report has of the firmware's log where it is posted: the log, or why it is left out. And what it has instead where
/// no server takes that.
#[must_use]
pub fn posted(log: Result<Option<Vec<u8>>>) -> [Map<String, Value>; 2] {
    let left_out = |why: String| fields([("firmware_log_left_out", why.into())]);
    let log = match log {
        Ok(None) => return [Map::new(), Map::new()],
        Ok(Some(log)) if log.len() > MOST_POSTED_LOG => {
            Err(format!("it has {} bytes, more than {MOST_POSTED_LOG}", log.len()))
        }
        Ok(Some(log)) => Ok(log),
        Err(error) => Err(format!("{error:#}")),
    };
    match log {
        Ok(log) => {
            let log = serde_json::to_value(Base64(log)).unwrap_or_default();
            [fields([("firmware_log", log)]), left_out("no server took it".to_owned())]
        }
        Err(why) => [left_out(why.clone()), left_out(why)],
    }
}

/// Whether an OS may have what a verifier has given beside what the host config has.
///
/// # Errors
/// What cannot be.
pub fn beside(host: &Host, given: &Secrets) -> Result<(), String> {
    let mut all = host.secrets.clone();
    for (name, secret) in given.iter() {
        if host.secrets.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
            return Err(format!("hold {name:?} twice"));
        }
        all.set(name, secret.clone());
    }
    all.check(&host.credentials)
}

/// The firmware's log; `None` where the machine has none.
///
/// # Errors
/// It cannot be read, or is too long.
pub fn firmware_log() -> Result<Option<Vec<u8>>> {
    firmware::read(Path::new(firmware::LOG), MOST_FIRMWARE_LOG)
}

/// The same in the installed OS whose root is `root`: where the kernel has lost it or a part of it, what was handed over.
fn firmware_log_of_os(root: &Path) -> Option<Vec<u8>> {
    firmware::longest(&[firmware::LOG, firmware::HANDED_OVER].map(|path| below(root, path)), MOST_FIRMWARE_LOG)
}

/// The file or directory that has this path from the root, if the root is `root`.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Why a verifier does not accept a machine: what it has refuted, or else could not know.
#[must_use]
pub fn reasons(verdict: &Verdict) -> String {
    let of = |outcome| verdict.findings.iter().filter(move |finding| finding.outcome == outcome);
    let refuted: Vec<_> = of(Outcome::Refuted).collect();
    let named = if refuted.is_empty() { of(Outcome::Unknown).collect() } else { refuted };
    let texts = named.iter().take(MOST_NAMED).map(|finding| format!("{}: {}", finding.what, finding.text));
    let texts: Vec<String> = texts.collect();
    if texts.is_empty() { "it does not say why".to_owned() } else { texts.join("; ") }
}
