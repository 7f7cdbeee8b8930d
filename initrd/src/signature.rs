//! Signs a UKI for Secure Boot: Authenticode, as UEFI firmware checks it (UEFI 2.10, 32.2.2; Microsoft,
//! "Windows Authenticode Portable Executable Signature Format"; RFC 2315).
//!
//! There is no time and nothing random in it, so the same file and key give the same bytes.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};
use metalstrap_release::digest::{Digest, to_hex};
use metalstrap_release::pcr::{Bank, BankDigest};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::der::{BIT_STRING, BOOLEAN, CONTEXT, INTEGER, NULL, OBJECT, OCTET_STRING, Reader, SEQUENCE, SET, value};
use crate::pe::Image;

/// 1.2.840.113549.1.7.2, signedData.
const SIGNED_DATA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// 1.2.840.113549.1.9.3, contentType.
const CONTENT_TYPE: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
/// 1.2.840.113549.1.9.4, messageDigest.
const MESSAGE_DIGEST: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
/// 1.2.840.113549.1.1.1, rsaEncryption.
const RSA: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// 2.16.840.1.101.3.4.2.1, sha256.
const SHA256: [u8; 9] = [0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
/// 1.3.6.1.4.1.311.2.1.4, SPC_INDIRECT_DATA_OBJID.
const INDIRECT_DATA: [u8; 10] = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x04];
/// 1.3.6.1.4.1.311.2.1.15, SPC_PE_IMAGE_DATAOBJ.
const PE_IMAGE_DATA: [u8; 10] = [0x2b, 0x06, 0x01, 0x04, 0x01, 0x82, 0x37, 0x02, 0x01, 0x0f];
/// 2.5.29.14, subjectKeyIdentifier.
const SUBJECT_KEY_ID: [u8; 3] = [0x55, 0x1d, 0x0e];
/// The name of the signed file, which signers no longer say.
const NO_FILE: &str = "<<<Obsolete>>>";

/// What is wrong with a key.
const NO_KEY: &str = "it is no RSA key of 2048 bits or more, and firmware takes no other";

/// A private key and its certificate.
#[derive(Debug)]
pub struct Signer {
    key: RsaKeyPair,
    certificate: Vec<u8>,
}

impl Signer {
    /// Reads key and certificate, both PEM files.
    ///
    /// # Errors
    ///
    /// When one is not what it should be, or they do not belong together.
    pub fn read(key: &Path, certificate: &Path) -> Result<Self> {
        let key = read_key(key).with_context(|| format!("reading the Secure Boot key {}", key.display()))?;
        Self::of(key, certificate)
    }

    /// The same with a key in PKCS #8 (DER), which was decrypted from the file `path`.
    ///
    /// # Errors
    ///
    /// As [`Signer::read`].
    pub fn of_pkcs8(key: &[u8], path: &Path, certificate: &Path) -> Result<Self> {
        let key = RsaKeyPair::from_pkcs8(key).ok().context(NO_KEY);
        Self::of(key.with_context(|| format!("reading the Secure Boot key {}", path.display()))?, certificate)
    }

    fn of(key: RsaKeyPair, certificate: &Path) -> Result<Self> {
        let reading = || format!("reading the Secure Boot certificate {}", certificate.display());
        let der = CertificateDer::from_pem_file(certificate).with_context(reading)?;
        issuer_and_serial(&der).with_context(reading)?;
        let public = key.public_key().as_ref();
        let belongs = der.windows(public.len()).any(|part| part == public);
        ensure!(belongs, "the Secure Boot certificate {} is not of the key given with it", certificate.display());
        Ok(Self { key, certificate: der.to_vec() })
    }

    /// Signs the file `path` in place; it has this many bytes then.
    ///
    /// # Errors
    ///
    /// When it is no PE file, or signed already.
    pub fn sign_file(&self, path: &Path) -> Result<u64> {
        let signing = || format!("signing {}", path.display());
        let signed = self.sign(std::fs::read(path).with_context(signing)?).with_context(signing)?;
        std::fs::write(path, &signed).with_context(signing)?;
        Ok(signed.len().try_into()?)
    }

    /// `image` with a signature.
    ///
    /// # Errors
    ///
    /// When it is no PE file, or signed already.
    pub fn sign(&self, image: Vec<u8>) -> Result<Vec<u8>> {
        let image = Image::parse(image)?;
        let signature = self.signed_data(&indirect_data(&image.digest()?))?;
        image.with_certificate(&signature)
    }

    /// ContentInfo with SignedData (RFC 2315, 9.1) over SpcIndirectDataContent.
    fn signed_data(&self, content: &[u8]) -> Result<Vec<u8>> {
        let sha256 = algorithm(&SHA256);
        let attributes = attributes(content)?;
        // What is signed has the tag of a set; in its place it has another one.
        let mut signature = vec![0; self.key.public_modulus_len()];
        let signed =
            self.key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), &value(SET, &[&attributes]), &mut signature);
        signed.ok().context("signing with the Secure Boot key")?;
        let signer = value(
            SEQUENCE,
            &[
                &value(INTEGER, &[&[1]]),
                &value(SEQUENCE, &[&issuer_and_serial(&self.certificate)?]),
                &sha256,
                &value(CONTEXT, &[&attributes]),
                &algorithm(&RSA),
                &value(OCTET_STRING, &[&signature]),
            ],
        );
        let data = value(
            SEQUENCE,
            &[
                &value(INTEGER, &[&[1]]),
                &value(SET, &[&sha256]),
                &value(SEQUENCE, &[&value(OBJECT, &[&INDIRECT_DATA]), &value(CONTEXT, &[content])]),
                &value(CONTEXT, &[&self.certificate]),
                &value(SET, &[&signer]),
            ],
        );
        Ok(value(SEQUENCE, &[&value(OBJECT, &[&SIGNED_DATA]), &value(CONTEXT, &[&data])]))
    }
}

/// The Authenticode digest of a program in each bank, signed or not: what the firmware extends PCR 4 with when it starts it.
///
/// # Errors
///
/// When it is no PE file whose parts lie one after the other.
pub fn authenticode(program: Vec<u8>, banks: &[Bank]) -> Result<Vec<BankDigest>> {
    let measured = Image::measured(program)?;
    Ok(banks.iter().map(|bank| bank.digest(&measured)).collect())
}

fn read_key(path: &Path) -> Result<RsaKeyPair> {
    let key = match PrivateKeyDer::from_pem_file(path)? {
        PrivateKeyDer::Pkcs8(key) => RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()),
        PrivateKeyDer::Pkcs1(key) => RsaKeyPair::from_der(key.secret_pkcs1_der()),
        _ => bail!("it is no RSA key, and firmware takes no other"),
    };
    key.ok().context(NO_KEY)
}

/// SpcIndirectDataContent: that this is the digest of a PE image.
fn indirect_data(digest: &Digest) -> Vec<u8> {
    let name: Vec<u8> = NO_FILE.encode_utf16().flat_map(u16::to_be_bytes).collect();
    // SpcPeImageData: no flags; SpcLink, of which [2] is a file, of which [0] is its name as BMPString.
    let name = value(CONTEXT, &[&value(CONTEXT + 2, &[&value(0x80, &[&name])])]);
    let image = value(SEQUENCE, &[&value(BIT_STRING, &[&[0]]), &name]);
    let image = value(SEQUENCE, &[&value(OBJECT, &[&PE_IMAGE_DATA]), &image]);
    let digest = value(SEQUENCE, &[&algorithm(&SHA256), &value(OCTET_STRING, &[&digest.0])]);
    value(SEQUENCE, &[&image, &digest])
}

/// The signed attributes, in the order of their bytes: what the content is, and its digest (without tag and length).
fn attributes(content: &[u8]) -> Result<Vec<u8>> {
    let attribute = |name: &[u8], what: &[u8]| value(SEQUENCE, &[&value(OBJECT, &[name]), &value(SET, &[what])]);
    let (inner, _) = Reader(content).expect(SEQUENCE)?;
    let kind = attribute(&CONTENT_TYPE, &value(OBJECT, &[&INDIRECT_DATA]));
    let digest = attribute(&MESSAGE_DIGEST, &value(OCTET_STRING, &[&Digest::of(inner).0]));
    Ok([kind, digest].concat())
}

fn algorithm(name: &[u8]) -> Vec<u8> {
    value(SEQUENCE, &[&value(OBJECT, &[name]), &value(NULL, &[])])
}

/// The values `issuer` and `serialNumber` of a certificate (RFC 5280, 4.1), one after the other.
fn issuer_and_serial(certificate: &[u8]) -> Result<Vec<u8>> {
    let ((_, serial), mut fields) = serial_number(certificate)?;
    fields.expect(SEQUENCE)?;
    let (_, issuer) = fields.expect(SEQUENCE)?;
    Ok([issuer, serial].concat())
}

/// The content of a value, and the whole of it.
type Value<'a> = (&'a [u8], &'a [u8]);

/// A certificate's `serialNumber`, and the fields behind it.
fn serial_number(certificate: &[u8]) -> Result<(Value<'_>, Reader<'_>)> {
    let (certificate, _) = Reader(certificate).expect(SEQUENCE)?;
    let mut fields = Reader(Reader(certificate).expect(SEQUENCE)?.0);
    // The version is left out in certificates of version 1.
    let (tag, content, whole) = fields.next()?;
    let serial = if tag == CONTEXT { fields.expect(INTEGER)? } else { (content, whole) };
    Ok((serial, fields))
}

/// What Linux calls the key of a certificate (DER) by in `/proc/keys`: its subject key identifier, or without one its serial
/// number, in hexadecimal (`crypto/asymmetric_keys/x509_public_key.c`, x509_key_preparse).
///
/// # Errors
///
/// When it is no certificate.
pub fn key_id(certificate: &[u8]) -> Result<String> {
    let ((serial, _), mut fields) = serial_number(certificate)?;
    while !fields.0.is_empty() {
        let (tag, content, _) = fields.next()?;
        if tag != CONTEXT + 3 {
            continue;
        }
        let (extensions, _) = Reader(content).expect(SEQUENCE)?;
        if let Some(id) = subject_key_id(extensions)? {
            return Ok(to_hex(id));
        }
    }
    Ok(to_hex(serial))
}

/// The content of that extension (RFC 5280, 4.2.1.2), if it is there.
fn subject_key_id(extensions: &[u8]) -> Result<Option<&[u8]>> {
    let mut extensions = Reader(extensions);
    while !extensions.0.is_empty() {
        let (extension, _) = extensions.expect(SEQUENCE)?;
        let mut extension = Reader(extension);
        let (name, _) = extension.expect(OBJECT)?;
        let (tag, mut content, _) = extension.next()?;
        // Whether it is critical, which it should not be.
        if tag == BOOLEAN {
            content = extension.expect(OCTET_STRING)?.0;
        }
        if name == SUBJECT_KEY_ID {
            return Ok(Some(Reader(content).expect(OCTET_STRING)?.0));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// Runs openssl in `dir`; what it prints.
    fn openssl(dir: &Path, line: &str) -> String {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// A key `NAME.key` and a certificate `NAME.pem` of it.
    fn make(dir: &Path, name: &str, key: &str) {
        openssl(
            dir,
            &format!("req -x509 -nodes -days 9 -subj /O=Operator/CN={name} {key} -keyout {name}.key -out {name}.pem"),
        );
    }

    fn refusal(dir: &Path, key: &str, certificate: &str) -> String {
        let error = Signer::read(&dir.join(key), &dir.join(certificate)).unwrap_err();
        format!("{error:#}").replace(&format!("{}/", dir.display()), "")
    }

    #[test]
    fn key_and_certificate_must_be_rsa_and_belong_together() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), "a", "-newkey rsa:2048");
        make(dir.path(), "b", "-newkey rsa:2048");
        make(dir.path(), "ec", "-newkey ec -pkeyopt ec_paramgen_curve:P-256");
        openssl(dir.path(), "rsa -in a.key -traditional -out old.key");
        Signer::read(&dir.path().join("old.key"), &dir.path().join("a.pem")).unwrap();
        assert_eq!(
            refusal(dir.path(), "a.key", "b.pem"),
            "the Secure Boot certificate b.pem is not of the key given with it"
        );
        assert_eq!(
            refusal(dir.path(), "ec.key", "ec.pem"),
            "reading the Secure Boot key ec.key: it is no RSA key of 2048 bits or more, and firmware takes no other"
        );
        assert!(refusal(dir.path(), "a.pem", "a.pem").starts_with("reading the Secure Boot key a.pem: "));
        assert!(refusal(dir.path(), "a.key", "a.key").starts_with("reading the Secure Boot certificate a.key: "));
    }

    #[test]
    fn a_key_is_called_by_its_subject_key_identifier_or_by_the_serial_number() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), "a", "-newkey rsa:2048");
        let without = "-addext subjectKeyIdentifier=none -addext authorityKeyIdentifier=none";
        make(dir.path(), "b", &format!("-newkey rsa:2048 {without} -set_serial 0x5a01"));
        let id = |name: &str| key_id(&CertificateDer::from_pem_file(dir.path().join(name)).unwrap()).unwrap();
        let shown = openssl(dir.path(), "x509 -in a.pem -noout -ext subjectKeyIdentifier");
        assert_eq!(id("a.pem"), shown.lines().nth(1).unwrap().trim().replace(':', "").to_lowercase());
        assert_eq!(id("b.pem"), "5a01");
        assert_eq!(key_id(b"text").unwrap_err().to_string(), "a value is cut off");
    }

    #[test]
    fn a_signature_does_not_change_what_is_measured() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), "a", "-newkey rsa:2048");
        let mut program = vec![0; 0x208];
        program[..2].copy_from_slice(b"MZ");
        program[0x3c] = 0x40;
        program[0x40..0x44].copy_from_slice(b"PE\0\0");
        // No section; an optional header of PE32+ with 16 directories, and headers of 0x200 bytes.
        program[0x58..0x5a].copy_from_slice(&[0x0b, 0x02]);
        program[0x58 + 61] = 2;
        program[0x58 + 108] = 16;
        let signer = Signer::read(&dir.path().join("a.key"), &dir.path().join("a.pem")).unwrap();
        let signed = signer.sign(program.clone()).unwrap();
        let digests = |program: &[u8]| authenticode(program.to_vec(), &[Bank::Sha256]).unwrap();
        assert_eq!(digests(&signed), digests(&program));
        assert_eq!(digests(&program)[0].digest, Image::parse(program.clone()).unwrap().digest().unwrap().0);
        let mut other = program;
        other[0x201] ^= 1;
        assert_ne!(digests(&signed), digests(&other));
        let refusal = |program: &[u8]| authenticode(program.to_vec(), &[Bank::Sha256]).unwrap_err().to_string();
        assert_eq!(refusal(b"no program"), "it is no PE file");
        assert_eq!(refusal(&signed[..signed.len() - 1]), "its signature is not at its end");
    }

    #[test]
    fn issuer_and_serial_number_are_found_in_both_versions_of_certificates() {
        let (serial, algorithm) = (value(INTEGER, &[&[5, 6]]), algorithm(&SHA256));
        let issuer = value(SEQUENCE, &[b"issuer"]);
        let version = value(CONTEXT, &[&value(INTEGER, &[&[2]])]);
        for fields in [vec![&version, &serial, &algorithm, &issuer], vec![&serial, &algorithm, &issuer]] {
            let fields: Vec<&[u8]> = fields.into_iter().map(Vec::as_slice).collect();
            let certificate = value(SEQUENCE, &[&value(SEQUENCE, &fields)]);
            assert_eq!(issuer_and_serial(&certificate).unwrap(), [issuer.as_slice(), &serial].concat());
        }
    }
}
