//! What a machine has said when it was attested, in the form of tpm2_checkquote: the judge of quotes beside `metalstrap attest`.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_release::attest::{Challenge, Evidence, Introduction, Quote};
use metalstrap_release::digest::{from_hex, to_hex};
use metalstrap_release::pcr::Bank;
use serde::de::DeserializeOwned;

/// `TPM_ALG_ECC`, which a public area of such a key begins with.
const ECC: [u8; 2] = [0x00, 0x23];
/// A public key of NIST P-256 in DER (RFC 5480), up to its point, and what the point begins with.
const P256: [u8; 27] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00, 0x04,
];
/// Bytes of a number with its length before it.
const NUMBER: usize = 34;
/// The structures of tpm2-tss that the tools dump: banks in a `TPML_PCR_SELECTION`, bytes of a `TPM2B_DIGEST`, and how many of
/// those are in a `TPML_DIGEST`.
const BANKS: usize = 16;
const DIGEST: usize = 66;
const DIGESTS: usize = 8;

/// The one exchange that an endpoint has kept in a directory (`metalstrap attest serve --keep`).
#[derive(Debug)]
pub struct Kept {
    introduction: Introduction,
    challenge: Challenge,
    evidence: Evidence,
}

impl Kept {
    /// Reads it.
    ///
    /// # Errors
    /// There is none, or more than one, or a document is none.
    pub fn read(dir: &Path) -> Result<Self> {
        let reading = || format!("reading what was kept in {}", dir.display());
        let mut ids = Vec::new();
        for entry in fs::read_dir(dir).with_context(reading)? {
            let name = entry.with_context(reading)?.file_name().to_string_lossy().into_owned();
            ids.extend(name.strip_suffix(".evidence.json").map(str::to_owned));
        }
        let [id] = ids.as_slice() else { bail!("{}: there are {} exchanges", reading(), ids.len()) };
        Ok(Self {
            introduction: document(dir, id, "introduction")?,
            challenge: document(dir, id, "challenge")?,
            evidence: document(dir, id, "evidence")?,
        })
    }

    /// The files that tpm2_checkquote takes of the quote of SHA-256: `ak.pem`, `quote`, `signature`, `values`, and `nonce` as
    /// hexadecimal text.
    ///
    /// # Errors
    /// There is no such quote, or it is by another kind of key than P-256's.
    pub fn files(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let quote = self.evidence.quotes.iter().find(|quote| quote.bank == Bank::Sha256.to_string());
        let quote = quote.context("the evidence has no quote of sha256")?;
        Ok(vec![
            ("ak.pem", pem(&self.introduction.ak.0)?),
            ("quote", quote.quoted.0.clone()),
            ("signature", quote.signature.0.clone()),
            ("values", values(quote)?),
            ("nonce", to_hex(&self.challenge.nonce.0).into_bytes()),
        ])
    }
}

fn document<T: DeserializeOwned>(dir: &Path, id: &str, what: &str) -> Result<T> {
    let path = dir.join(format!("{id}.{what}.json"));
    let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
}

/// A public area of P-256 (`TPMT_PUBLIC`) as PEM, by openssl, which also looks whether the point is on the curve.
fn pem(public: &[u8]) -> Result<Vec<u8>> {
    ensure!(public.starts_with(&ECC), "the attestation key is none of P-256");
    let (_, point) = public.split_at_checked(public.len().saturating_sub(2 * NUMBER)).unwrap_or_default();
    let (numbers, rest) = point.as_chunks::<NUMBER>();
    ensure!(numbers.len() == 2 && rest.is_empty(), "the attestation key has no point");
    let mut der = P256.to_vec();
    for number in numbers {
        let number = number.strip_prefix(&[0_u8, 32]).context("a number of the attestation key has not 32 bytes")?;
        der.extend_from_slice(number);
    }
    let mut openssl = Command::new("openssl");
    openssl.args(["pkey", "-pubin", "-inform", "DER"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut openssl = openssl.spawn().context("starting openssl")?;
    if let Some(mut input) = openssl.stdin.take() {
        input.write_all(&der).context("writing to openssl")?;
    }
    let output = openssl.wait_with_output().context("waiting for openssl")?;
    ensure!(output.status.success(), "openssl does not take the attestation key");
    Ok(output.stdout)
}

/// The values of a quote's PCRs as tpm2_quote writes them (tpm2-tools, `lib/pcr.c`, pcr_fwrite_serialized): the C structures, with
/// numbers in little endian.
fn values(quote: &Quote) -> Result<Vec<u8>> {
    let mut selected = [0_u8; 4];
    for pcr in quote.pcrs.keys() {
        let byte = selected.get_mut(usize::try_from(pcr / 8)?).with_context(|| format!("there is no PCR {pcr}"))?;
        *byte |= 1_u8 << (pcr % 8);
    }
    let mut selection = 1_u32.to_le_bytes().to_vec();
    selection.extend(Bank::Sha256.id().to_le_bytes());
    selection.push(3);
    selection.extend(selected);
    selection.resize(4 + 8 * BANKS, 0);
    let values: Vec<&String> = quote.pcrs.values().collect();
    let lists = values.chunks(DIGESTS);
    let mut all = [selection, u32::try_from(lists.len())?.to_le_bytes().to_vec()].concat();
    for list in lists {
        let mut digests = u32::try_from(list.len())?.to_le_bytes().to_vec();
        for value in list {
            let value = from_hex(value).with_context(|| format!("{value:?} is no value of a PCR"))?;
            digests.extend(u16::try_from(value.len())?.to_le_bytes());
            digests.extend(&value);
            digests.resize(digests.len() + DIGEST - 2 - value.len(), 0);
        }
        digests.resize(4 + DIGESTS * DIGEST, 0);
        all.extend(digests);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use metalstrap_release::attest::Base64;

    use super::*;

    #[test]
    fn values_are_laid_out_as_the_tools_have_them() {
        let pcrs: BTreeMap<u32, String> =
            (0..8).chain([13]).map(|pcr| (pcr, format!("{pcr:02x}").repeat(32))).collect();
        let quote = Quote { bank: "sha256".to_owned(), quoted: Base64::default(), signature: Base64::default(), pcrs };
        let values = values(&quote).unwrap();
        assert_eq!(values.len(), 132 + 4 + 2 * 532);
        assert_eq!(values[..12], [1, 0, 0, 0, 0x0b, 0, 3, 0xff, 0x20, 0, 0, 0]);
        assert_eq!(values[132..142], [2, 0, 0, 0, 8, 0, 0, 0, 32, 0]);
        assert_eq!(values[142..174], [0; 32]);
        assert_eq!(values[140 + 66..140 + 66 + 34], [&[32, 0][..], &[1; 32]].concat());
        assert_eq!(values[136 + 532..136 + 532 + 38], [&[1, 0, 0, 0, 32, 0][..], &[13; 32]].concat());
    }

    #[test]
    fn a_key_of_p_256_becomes_one_that_openssl_reads() {
        // The generator (SEC 2, section 2.4.2).
        let x = "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296";
        let y = "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";
        let public =
            from_hex(&format!("0023000b000504720000001000180 00b00030010 0020{x} 0020{y}").replace(' ', "")).unwrap();
        let pem = String::from_utf8(pem(&public).unwrap()).unwrap();
        assert!(
            pem.starts_with(
                "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt"
            ),
            "{pem}"
        );
        assert_eq!(pem_error(&public[..public.len() - 1]), "a number of the attestation key has not 32 bytes");
        assert_eq!(pem_error(&[0, 1, 2]), "the attestation key is none of P-256");
    }

    fn pem_error(public: &[u8]) -> String {
        pem(public).unwrap_err().to_string()
    }
}
