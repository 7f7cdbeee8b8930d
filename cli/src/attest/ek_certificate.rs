//! Whether an endorsement key is one of a real TPM: its maker's certificate, up to a root that the verifier trusts (TCG, "EK
//! Credential Profile for TPM Family 2.0").

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::attest::{EK_CERTIFICATE, Finding, Introduction, Outcome};
use metalstrap_release::tpm2::Ek;
use x509_parser::certificate::X509Certificate;
use x509_parser::parse_x509_certificate;
use x509_parser::time::ASN1Time;

/// `tcg-kp-EKCertificate`.
const PURPOSE: &str = "2.23.133.8.1";
/// What is looked at here, or says nothing that could speak against the key: key usage, subject and issuer alternative name, basic
/// constraints, policies, key identifiers, extended key usage, where lists of revoked certificates are, subject directory attributes.
const KNOWN: [&str; 10] = [
    "2.5.29.9",
    "2.5.29.14",
    "2.5.29.15",
    "2.5.29.17",
    "2.5.29.18",
    "2.5.29.19",
    "2.5.29.31",
    "2.5.29.32",
    "2.5.29.35",
    "2.5.29.37",
];
/// Signatures with SHA-1, whose collisions can be made.
const SHA1: [&str; 2] = ["1.2.840.113549.1.1.5", "1.3.14.3.2.29"];
/// No more of the TPM's certificates are looked at.
const MOST_STEPS: usize = 8;
/// No certificate is larger.
const MAX_BYTES: u64 = 64 << 10;

/// The certificates that are trusted: those of makers of TPMs, roots or not.
#[derive(Debug, Default)]
pub struct Roots(Vec<Vec<u8>>);

impl Roots {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads all files of these directories, or these files, each with certificates in PEM or one in DER.
    ///
    /// # Errors
    /// One cannot be read, or has no certificate.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let mut roots = Vec::new();
        for path in paths {
            if !path.is_dir() {
                roots.extend(certificates(path)?);
                continue;
            }
            let reading = || format!("reading the directory of EK roots {}", path.display());
            let entries = fs::read_dir(path).with_context(reading)?;
            let mut files = entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<Result<Vec<_>, _>>()
                .with_context(reading)?;
            files.sort_unstable();
            ensure!(!files.is_empty(), "the directory of EK roots {} is empty", path.display());
            for file in files {
                roots.extend(certificates(&file)?);
            }
        }
        Ok(Self(roots))
    }
}

/// The certificates in a file.
fn certificates(path: &Path) -> Result<Vec<Vec<u8>>> {
    let reading = || format!("reading the EK root {}", path.display());
    let length = fs::metadata(path).with_context(reading)?.len();
    ensure!(length <= 16 * MAX_BYTES, "{}: it has {length} bytes, more than {}", reading(), 16 * MAX_BYTES);
    let bytes = fs::read(path).with_context(reading)?;
    let pems: Vec<_> = pem::parse_many(&bytes).unwrap_or_default();
    let found: Vec<_> = if pems.is_empty() {
        vec![bytes]
    } else {
        pems.into_iter().filter(|pem| pem.tag() == "CERTIFICATE").map(pem::Pem::into_contents).collect()
    };
    ensure!(!found.is_empty(), "{}: it has no certificate", reading());
    for der in &found {
        parse(der).with_context(reading)?;
    }
    Ok(found)
}

/// A certificate; what is behind it is padding of an NV index.
fn parse(der: &[u8]) -> Result<X509Certificate<'_>> {
    let parsed = parse_x509_certificate(der).map(|(_, certificate)| certificate);
    parsed.ok().context("it is no X.509 certificate")
}

/// What is found of the key: by its certificate, or because it is one of those that are `known` anyway.
pub fn look(introduction: &Introduction, ek: &Ek, roots: &Roots, known: &[Ek], now: i64) -> Finding {
    let finding = |outcome, text: String| Finding::new(EK_CERTIFICATE, outcome, text);
    if known.contains(ek) {
        return finding(Outcome::Proved, format!("the endorsement key {} is one of those given", ek.id()));
    }
    let Some(certificate) = &introduction.ek_certificate else {
        return finding(Outcome::Unknown, "the TPM has no certificate of its endorsement key".to_owned());
    };
    if roots.is_empty() {
        return finding(Outcome::Unknown, "no roots were given to check the certificate by".to_owned());
    }
    let chain: Vec<&[u8]> = introduction.ek_chain.iter().map(|der| der.0.as_slice()).collect();
    match check(&certificate.0, &chain, roots, ek, now) {
        Ok(text) => finding(Outcome::Proved, text),
        Err(error) => finding(Outcome::Refuted, format!("{error:#}")),
    }
}

fn check(certificate: &[u8], chain: &[&[u8]], roots: &Roots, ek: &Ek, now: i64) -> Result<String> {
    let certificate = parse(certificate).context("checking the certificate of the endorsement key")?;
    let now = ASN1Time::from_timestamp(now).ok().context("reading the clock")?;
    let key = Ek::of_key(&certificate.public_key().subject_public_key.data);
    ensure!(key.as_ref() == Some(ek), "the certificate is of another endorsement key: it is another TPM's");
    ensure!(!certificate.is_ca(), "the certificate is of an authority, not of an endorsement key");
    let purposes = certificate.extended_key_usage().ok().flatten();
    let is_ek = purposes.is_some_and(|purposes| purposes.value.other.iter().any(|oid| oid.to_id_string() == PURPOSE));
    ensure!(is_ek, "the certificate is not for an endorsement key: its extended key usage lacks {PURPOSE}");
    usable(&certificate, now)?;

    let roots = roots.0.iter().map(|der| parse(der)).collect::<Result<Vec<_>>>()?;
    // Those of the TPM are only steps on the way; one that cannot be read is none.
    let steps: Vec<_> = chain.iter().take(MOST_STEPS).filter_map(|der| parse(der).ok()).collect();
    let root = climb(certificate, &roots, steps, now)?;
    Ok(format!("{} is certified by {root}", ek.id()))
}

/// The subject of the root that a certificate leads to. Each step is taken at most once.
fn climb<'a>(
    certificate: X509Certificate<'a>,
    roots: &[X509Certificate<'_>],
    mut steps: Vec<X509Certificate<'a>>,
    now: ASN1Time,
) -> Result<String> {
    let (mut certificate, mut below) = (certificate, 0_usize);
    loop {
        if let Some(root) = roots.iter().find(|root| has_signed(root, &certificate)) {
            usable(root, now)?;
            issues(root, below, true)?;
            return Ok(root.subject().to_string());
        }
        let next = steps.iter().position(|step| has_signed(step, &certificate));
        let issuer = certificate.issuer().to_string();
        let next =
            next.with_context(|| format!("no root that was given has signed a certificate of the issuer {issuer:?}"))?;
        let step = steps.swap_remove(next);
        usable(&step, now)?;
        issues(&step, below, false)?;
        (certificate, below) = (step, below.saturating_add(1));
    }
}

fn has_signed(issuer: &X509Certificate<'_>, certificate: &X509Certificate<'_>) -> bool {
    issuer.subject().as_raw() == certificate.issuer().as_raw()
        && !SHA1.contains(&certificate.signature_algorithm.algorithm.to_id_string().as_str())
        && certificate.verify_signature(Some(issuer.public_key())).is_ok()
}

/// Whether the certificate holds now, and has nothing that would have to be looked at and is not.
fn usable(certificate: &X509Certificate<'_>, now: ASN1Time) -> Result<()> {
    let subject = certificate.subject().to_string();
    let validity = certificate.validity();
    ensure!(
        validity.is_valid_at(now),
        "the certificate of {subject:?} holds from {} to {}",
        validity.not_before,
        validity.not_after
    );
    for extension in certificate.extensions().iter().filter(|extension| extension.critical) {
        let oid = extension.oid.to_id_string();
        ensure!(
            KNOWN.contains(&oid.as_str()),
            "the certificate of {subject:?} has the critical extension {oid}, which is not known here"
        );
    }
    Ok(())
}

/// Whether it may sign certificates, with so many authorities below it. One that `is_trusted` was given.
fn issues(certificate: &X509Certificate<'_>, below: usize, is_trusted: bool) -> Result<()> {
    let subject = certificate.subject().to_string();
    let constraints = certificate.basic_constraints().ok().flatten();
    // What is not of version 3 has no extensions: old roots.
    let is_old = is_trusted && certificate.extensions().is_empty();
    let is_authority = constraints.as_ref().map_or(is_old, |constraints| constraints.value.ca);
    ensure!(is_authority, "the certificate of {subject:?} is not of an authority");
    let most = constraints.and_then(|constraints| constraints.value.path_len_constraint);
    let fits = most.is_none_or(|most| usize::try_from(most).is_ok_and(|most| below <= most));
    ensure!(fits, "the authority {subject:?} permits fewer authorities below it");
    match certificate.key_usage() {
        Ok(usage) => ensure!(
            usage.is_none_or(|usage| usage.value.key_cert_sign()),
            "the authority {subject:?} may sign no certificates"
        ),
        Err(_) => anyhow::bail!("the key usage of the authority {subject:?} cannot be read"),
    }
    Ok(())
}

#[cfg(test)]
mod tests;
