//! Endorsement keys of machines' TPMs, in the forms in which tools write them.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use metalstrap_release::tpm2::{Ek, take_sized};

/// Tags of DER (X.690, section 8): an integer, a bit string, a sequence, and the version of a certificate.
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// Reads an endorsement key: a public key or a certificate, in PEM or DER, or a `TPM2B_PUBLIC`.
///
/// # Errors
/// The file cannot be read, or holds none that is known here.
pub fn read(path: &Path) -> Result<Ek> {
    let bytes = fs::read(path).with_context(|| format!("reading the endorsement key {}", path.display()))?;
    let none = || {
        format!(
            "{} holds no endorsement key of RSA 2048 or ECC P-256: it must be a public key or a certificate in PEM or DER, or a \
             TPM2B_PUBLIC, as tpm2_createek and tpm2_getekcertificate write them",
            path.display()
        )
    };
    find(&bytes).with_context(none)
}

fn find(bytes: &[u8]) -> Option<Ek> {
    if let Ok(pem) = pem::parse(bytes) {
        return match pem.tag() {
            "PUBLIC KEY" => of_info(pem.contents()),
            "CERTIFICATE" => of_certificate(pem.contents()),
            _ => None,
        };
    }
    let mut rest = bytes;
    match take_sized(&mut rest) {
        Some(public) if rest.is_empty() => Ek::of_public(public),
        _ => of_info(bytes).or_else(|| of_certificate(bytes)),
    }
}

/// The key in a SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7). The algorithm is not looked at: some makers say RSAES-OAEP
/// where others say RSA, and a point that is not of the curve encrypts nothing.
fn of_info(der: &[u8]) -> Option<Ek> {
    let (info, _) = element(der, SEQUENCE)?;
    let (_, rest) = element(info, SEQUENCE)?;
    let (key, _) = element(rest, BIT_STRING)?;
    // All bits of the last byte count.
    Ek::of_key(key.strip_prefix(&[0])?)
}

/// The key in a certificate (RFC 5280, section 4.1). By hand: what checks certificates of servers refuses the critical
/// extensions that those of endorsement keys have.
fn of_certificate(der: &[u8]) -> Option<Ek> {
    let (certificate, _) = element(der, SEQUENCE)?;
    let (mut rest, _) = element(certificate, SEQUENCE)?;
    // Version, serial number, algorithm, issuer, validity, subject.
    for tag in [VERSION, INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE] {
        (_, rest) = element(rest, tag)?;
    }
    of_info(rest)
}

/// The content of the first element, which must have this tag, and what is behind it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&first, rest) = der.strip_prefix(&[tag])?.split_first()?;
    // Up to 127, else the number of bytes that have it.
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 | 0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, &byte| (length << 8) | usize::from(byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use metalstrap_release::tpm2::{KeyKind, sized};

    use super::*;

    #[test]
    fn every_form_of_a_key_is_read_and_no_other_key() {
        let at = tempfile::tempdir().unwrap();
        let openssl = |line: &str| {
            let output = Command::new("openssl").args(line.split(' ')).current_dir(at.path()).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        };
        for (kind, make) in [
            (KeyKind::Rsa2048, "genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048 -out key"),
            (KeyKind::EccP256, "genpkey -algorithm ec -pkeyopt ec_paramgen_curve:P-256 -out key"),
        ] {
            openssl(make);
            openssl("pkey -in key -pubout -out ek.pem");
            openssl("pkey -in key -pubout -outform der -out ek.der");
            openssl(
                "req -new -x509 -key key -subj /CN=ek -addext extendedKeyUsage=critical,2.23.133.8.1 -out cert.pem",
            );
            openssl("x509 -in cert.pem -outform der -out cert.der");
            let ek = read(&at.path().join("ek.pem")).unwrap();
            assert_eq!(ek.kind(), kind);
            fs::write(at.path().join("ek.pub"), sized(&ek.public())).unwrap();
            for name in ["ek.der", "cert.pem", "cert.der", "ek.pub"] {
                assert_eq!(read(&at.path().join(name)).unwrap(), ek, "{name}");
            }
            for length in 0..200 {
                let whole = fs::read(at.path().join("cert.der")).unwrap();
                assert_eq!(find(&whole[..length]), None, "{length}");
            }
        }
        for make in ["rsa -pkeyopt rsa_keygen_bits:3072", "ec -pkeyopt ec_paramgen_curve:P-384", "ed25519"] {
            openssl(&format!("genpkey -algorithm {make} -out key"));
            openssl("pkey -in key -pubout -out ek.pem");
            let path = at.path().join("ek.pem");
            let text = format!(
                "{} holds no endorsement key of RSA 2048 or ECC P-256: it must be a public key or a certificate in PEM or DER, \
                 or a TPM2B_PUBLIC, as tpm2_createek and tpm2_getekcertificate write them",
                path.display()
            );
            assert_eq!(read(&path).unwrap_err().to_string(), text, "{make}");
        }
    }
}
