//! Private keys in encrypted PKCS#8 (RFC 5958), as `openssl genpkey -aes256` and `openssl pkcs8 -topk8` make them: PBES2 (RFC
//! 8018) with AES in CBC mode, and a key derived from a passphrase by PBKDF2 or scrypt.

use anyhow::{Context as _, Result, anyhow, bail};
use metalstrap_release::metadata::PrivateKey;
use pkcs8::pkcs5::{self, pbes2};
use pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfo, SecretDocument};

use crate::passphrase::Passphrase;

const TAG: &str = "ENCRYPTED PRIVATE KEY";
/// Of PBKDF2 with HMAC-SHA-256: what OWASP's Password Storage Cheat Sheet asks for. Not scrypt, of which openssl takes no more
/// than 32 MiB.
const ITERATIONS: u32 = 600_000;

/// The encrypted key in PEM, as DER; `None` if it is PEM with something else, or no PEM.
pub fn find(text: &str) -> Option<Vec<u8>> {
    let pem = pem::parse(text).ok().filter(|pem| pem.tag() == TAG)?;
    Some(pem.into_contents())
}

/// Decrypts a key that signs metadata. `None`: the passphrase is not the right one.
///
/// # Errors
/// It is not encrypted in a way that is known here, or no Ed25519 key.
pub fn decrypt(der: &[u8], passphrase: &Passphrase) -> Result<Option<PrivateKey>> {
    let Some(key) = decrypt_any(der, passphrase)? else { return Ok(None) };
    Ok(Some(PrivateKey::from_pkcs8(key.as_bytes()).context("decrypting it")?))
}

/// Decrypts a key of any kind to PKCS #8. `None`: the passphrase is not the right one.
///
/// # Errors
/// It is not encrypted in a way that is known here.
pub fn decrypt_any(der: &[u8], passphrase: &Passphrase) -> Result<Option<SecretDocument>> {
    let unknown = |error: pkcs8::Error| {
        anyhow!("it is not encrypted by PBES2 with AES, as `openssl pkcs8 -topk8 -v2 aes-256-cbc` does: {error}")
    };
    let encrypted = EncryptedPrivateKeyInfo::try_from(der).map_err(unknown)?;
    match encrypted.decrypt(passphrase.as_bytes()) {
        Ok(key) => Ok(Some(key)),
        // A wrong passphrase shows as wrong padding, but for one in 256, which shows as what is no DER. The library calls a failed
        // decryption by CBC an encryption.
        Err(
            pkcs8::Error::EncryptedPrivateKey(pkcs5::Error::DecryptFailed | pkcs5::Error::EncryptFailed)
            | pkcs8::Error::Asn1(_),
        ) => Ok(None),
        Err(error) => Err(unknown(error)),
    }
}

/// Encrypts a key, in PEM.
///
/// # Errors
/// The passphrase is empty; the system gives no random bytes; the key is on a token.
pub fn to_pem(key: &PrivateKey, passphrase: &Passphrase) -> Result<String> {
    if passphrase.as_bytes().is_empty() {
        bail!("an empty passphrase encrypts nothing");
    }
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    for bytes in [&mut salt, &mut iv] {
        aws_lc_rs::rand::fill(bytes).map_err(|_| anyhow!("the system gave no random bytes"))?;
    }
    let encrypting = |error: pkcs8::Error| anyhow!("encrypting a key: {error}");
    let by =
        pbes2::Parameters::pbkdf2_sha256_aes256cbc(ITERATIONS, &salt, &iv).map_err(|error| encrypting(error.into()))?;
    let pkcs8 = key.to_pkcs8().context("encrypting a key that is on a token")?;
    let plain = PrivateKeyInfo::try_from(pkcs8).map_err(encrypting)?;
    let encrypted = plain.encrypt_with_params(by, passphrase.as_bytes()).map_err(encrypting)?;
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    Ok(pem::encode_config(&pem::Pem::new(TAG, encrypted.as_bytes()), config))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn openssl(at: &Path, line: &str) -> String {
        let output = Command::new("openssl").args(line.split(' ')).current_dir(at).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::new(text.to_owned())
    }

    #[test]
    fn what_openssl_has_encrypted_is_decrypted() {
        let at = tempfile::tempdir().unwrap();
        let made = "genpkey -algorithm ed25519 -aes256 -pass pass:secret -out made.pem";
        openssl(at.path(), made);
        openssl(at.path(), "genpkey -algorithm ed25519 -out plain.pem");
        for line in [
            "pkcs8 -topk8 -in plain.pem -passout pass:secret -out aes.pem -v2 aes-256-cbc",
            "pkcs8 -topk8 -in plain.pem -passout pass:secret -out short.pem -v2 aes-128-cbc -v2prf hmacWithSHA512",
            "pkcs8 -topk8 -in plain.pem -passout pass:secret -out scrypt.pem -scrypt",
        ] {
            openssl(at.path(), line);
        }
        for name in ["made.pem", "aes.pem", "short.pem", "scrypt.pem"] {
            let der = find(&fs::read_to_string(at.path().join(name)).unwrap()).unwrap();
            let key = decrypt(&der, &passphrase("secret")).unwrap().unwrap();
            let plain = openssl(at.path(), &format!("pkey -in {name} -passin pass:secret"));
            assert_eq!(key.to_pem().unwrap(), plain, "{name}");
            assert!(decrypt(&der, &passphrase("Secret")).unwrap().is_none(), "{name}");
        }
        assert!(find(&fs::read_to_string(at.path().join("plain.pem")).unwrap()).is_none());
    }

    #[test]
    fn what_is_encrypted_here_is_decrypted_by_openssl_and_by_the_right_passphrase_only() {
        let at = tempfile::tempdir().unwrap();
        let key = PrivateKey::generate().unwrap();
        let text = to_pem(&key, &passphrase("long and secret")).unwrap();
        fs::write(at.path().join("key.pem"), &text).unwrap();
        fs::write(at.path().join("pass"), "long and secret\n").unwrap();
        assert_eq!(openssl(at.path(), "pkey -in key.pem -passin file:pass"), key.to_pem().unwrap());
        let der = find(&text).unwrap();
        assert_eq!(decrypt(&der, &passphrase("long and secret")).unwrap().unwrap().to_pem(), key.to_pem());
        for wrong in ["", "long and secret\n", "long and secre"] {
            assert!(decrypt(&der, &passphrase(wrong)).unwrap().is_none(), "{wrong:?}");
        }
        assert_ne!(to_pem(&key, &passphrase("long and secret")).unwrap(), text, "salt and IV are new each time");
        assert_eq!(to_pem(&key, &passphrase("")).unwrap_err().to_string(), "an empty passphrase encrypts nothing");
    }

    #[test]
    fn what_cannot_be_a_key_of_ours_is_named() {
        let at = tempfile::tempdir().unwrap();
        openssl(at.path(), "genpkey -algorithm ed25519 -out plain.pem");
        openssl(at.path(), "pkcs8 -topk8 -in plain.pem -passout pass:secret -out des.pem -v2 des3");
        openssl(at.path(), "genpkey -algorithm x25519 -aes256 -pass pass:secret -out other.pem");
        let refusal = |name: &str| {
            let der = find(&fs::read_to_string(at.path().join(name)).unwrap()).unwrap();
            format!("{:#}", decrypt(&der, &passphrase("secret")).unwrap_err())
        };
        let start = "it is not encrypted by PBES2 with AES, as `openssl pkcs8 -topk8 -v2 aes-256-cbc` does: ";
        assert!(refusal("des.pem").starts_with(start), "{}", refusal("des.pem"));
        assert_eq!(refusal("other.pem"), "decrypting it: this is no Ed25519 private key in PKCS#8 and PEM");
        let error = decrypt(b"no DER", &passphrase("secret")).unwrap_err();
        assert!(error.to_string().starts_with(start), "{error}");
    }
}
