//! Keys that are elsewhere, of P-256, which files with private keys are not.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::*;

/// A key that signs, as if it were somewhere else.
struct Elsewhere(Result<EcdsaKeyPair, &'static str>);

impl Signer for Elsewhere {
    fn place(&self) -> &str {
        "pkcs11:object=one"
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError> {
        let key = self.0.as_ref().map_err(|error| BoxError::from(*error))?;
        Ok(key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec())
    }
}

fn pair() -> EcdsaKeyPair {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap()
}

fn public(pair: &EcdsaKeyPair) -> PublicKey {
    PublicKey::p256(pair.public_key().as_ref()).unwrap()
}

fn elsewhere() -> RoleSigners {
    let pair = pair();
    let key = PrivateKey::elsewhere(public(&pair), Arc::new(Elsewhere(Ok(pair))));
    assert_eq!((key.place(), key.to_pem(), key.to_pkcs8()), (Some("pkcs11:object=one"), None, None));
    RoleSigners { keys: vec![key], threshold: NonZeroU64::MIN }
}

#[tokio::test]
async fn keys_of_p256_sign_every_role() {
    let keyring = Keyring {
        root: elsewhere(),
        targets: elsewhere(),
        snapshot: one(),
        timestamp: elsewhere(),
        hosts: elsewhere(),
    };
    let lifetimes = Lifetimes::default();
    let (memory, root) = repository(&keyring, &lifetimes).await;
    let metadata = load(&memory, &root, None, NOW).await.unwrap();
    assert_eq!(metadata.releases.keys().collect::<Vec<_>>(), ["os_1.json"]);
    assert_eq!(metadata.hosts.keys().collect::<Vec<_>>(), ["host-default.json"]);
    // What was staged is signed by the same keys.
    let mut draft = open(&memory, &root).await;
    draft.add_release("os_2.json", 1, Digest::of(b"2")).unwrap();
    let mut staged = draft.stage(&lifetimes, NOW).unwrap();
    let quorums = draft.quorums(RoleName::Targets, &staged).unwrap();
    assert_eq!(staged[0].sign(&quorums, &all(&keyring)).unwrap(), [keyring.targets.keys[0].id()]);
    staged[0].check(&quorums).unwrap();
}

#[tokio::test]
async fn what_another_key_has_signed_goes_nowhere() {
    let mut keyring = keyring();
    let lifetimes = Lifetimes::default();
    for (signer, text) in [
        (Ok(pair()), "the signature by pkcs11:object=one is not by the key ID: it is of another key by now"),
        (Err("the token is on fire"), "the token is on fire"),
    ] {
        let key = PrivateKey::elsewhere(public(&pair()), Arc::new(Elsewhere(signer)));
        let id = key.id();
        keyring.root.keys = vec![key];
        let error = new_root(&keyring, &lifetimes, NOW).await.unwrap_err().to_string();
        assert_eq!(error.replace(&id, "ID"), format!("Failed to sign message: {text}"));
    }
}

#[test]
fn a_public_key_of_p256_is_read_and_written_as_openssl_does() {
    let openssl = |words: &str| {
        let output = std::process::Command::new("openssl").args(words.split(' ')).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem").display().to_string();
    openssl(&format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {path}"));
    let text = openssl(&format!("pkey -in {path} -pubout"));
    let key = PublicKey::from_pem(&text).unwrap();
    assert_eq!(key.to_pem().unwrap(), text);
    let (_, named) = key.parts();
    let named = serde_json::to_value(named).unwrap();
    let expected = json!({"keytype": "ecdsa", "scheme": "ecdsa-sha2-nistp256", "keyval": {"public": text.trim_end()}});
    assert_eq!(named, expected);
    openssl(&format!("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out {path}"));
    let error = PublicKey::from_pem(&openssl(&format!("pkey -in {path} -pubout"))).unwrap_err().to_string();
    assert_eq!(error, "this is no public key of Ed25519 or P-256 in PEM, as `openssl pkey -pubout` writes it");
    assert_eq!(PublicKey::p256(&[4; 64]).unwrap_err().to_string(), error);
    assert_eq!(PublicKey::p256(&[2; 65]).unwrap_err().to_string(), error);
    assert_eq!(PublicKey::ed25519(&[4; 33]).unwrap_err().to_string(), error);
}
