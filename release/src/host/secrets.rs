//! Secrets: credentials of the installed OS that only its machine can read, by the same names as the others. In the repository
//! they are encrypted to the machine's TPM.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::Credentials;
use super::by_name::by_name;
use super::credentials::{MOST, MOST_BYTES_TOGETHER, check_names};
use super::secret::Secret;

/// Secrets by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Secrets(BTreeMap<String, Secret>);

impl Secrets {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Secret)> {
        self.0.iter().map(|(name, secret)| (name.as_str(), secret))
    }

    /// Adds one, or puts it in the place of the one of that name.
    pub fn set(&mut self, name: &str, secret: Secret) {
        self.0.insert(name.to_owned(), secret);
    }

    /// Whether machines may have them beside these credentials.
    ///
    /// # Errors
    /// Names the secret and what is wrong with it.
    pub fn check(&self, credentials: &Credentials) -> Result<(), String> {
        let all = self.0.len().saturating_add(credentials.iter().count());
        if all > MOST {
            return Err(format!("are {all} with the credentials, more than {MOST}"));
        }
        check_names(self.0.keys())?;
        let mut together = credentials.length();
        for (name, secret) in &self.0 {
            if credentials.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)) {
                return Err(format!("hold {name:?}, which the credentials hold too"));
            }
            let length = secret.check().map_err(|problem| format!("hold {name:?}, which {problem}"))?;
            together = together.saturating_add(length);
        }
        if together > MOST_BYTES_TOGETHER {
            return Err(format!("have {together} bytes with the credentials, more than {MOST_BYTES_TOGETHER}"));
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Secrets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        by_name(deserializer, "secret").map(Self)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};

    use super::super::{Host, Plaintext};
    use super::*;
    use crate::tpm2::Ek;

    const KEY: &str = "genpkey -algorithm rsa -pkeyopt rsa_keygen_bits:2048 -out key.pem";

    /// An endorsement key as good as any.
    fn ek() -> Ek {
        let at = tempfile::tempdir().unwrap();
        for line in [KEY, "pkey -in key.pem -pubout -outform der -out key.der"] {
            let output = std::process::Command::new("openssl").args(line.split(' ')).current_dir(at.path()).output();
            assert!(output.unwrap().status.success(), "{line}");
        }
        Ek::of_key(&std::fs::read(at.path().join("key.der")).unwrap()[24..]).unwrap()
    }

    fn secret(content: &[u8]) -> Value {
        let plain = Plaintext::new(content.to_vec());
        serde_json::to_value(Secret::encrypt(&ek(), "psk", &plain).unwrap()).unwrap()
    }

    fn host(secrets: &Value, credentials: &Value) -> Result<Host, String> {
        let release = json!({"name": "debian", "version": "1"});
        let host = json!({"format": 1, "release": release, "secrets": secrets, "credentials": credentials});
        Host::parse(host.to_string().as_bytes()).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    #[test]
    fn what_is_written_reads_back_and_nothing_shows_it() {
        let secret = secret(b"hush");
        let one = host(&json!({"psk": secret}), &json!({})).unwrap();
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(Host::parse(text.as_bytes()).unwrap(), one);
        let shown = format!("{one:?} {text}");
        assert!(!shown.contains("hush") && !shown.contains(&STANDARD.encode("hush")), "{shown}");
        assert!(!format!("{one:?}").contains(secret["key"].as_str().unwrap()));
        assert_eq!(format!("{:?}", Plaintext::new(b"hush".to_vec())), "Plaintext(…)");
    }

    #[test]
    fn a_key_that_is_not_its_own_opens_nothing() {
        let (ek, plain) = (ek(), Plaintext::new(b"hush".to_vec()));
        let secret = Secret::encrypt(&ek, "psk", &plain).unwrap();
        assert_eq!(secret.decrypt("psk", &[0; 32]), None);
        assert_eq!(secret.decrypt("psk", &[]), None);
        assert_eq!(secret.check(), Ok(4));
        assert_ne!(Secret::encrypt(&ek, "psk", &plain).unwrap(), secret, "the key is new each time");
        let long = Plaintext::new(vec![0; (64 << 10) + 1]);
        let error = Secret::encrypt(&ek, "psk", &long).unwrap_err();
        assert_eq!(error.to_string(), "the secret \"psk\" has 65537 bytes, more than 65536");
    }

    #[test]
    fn what_cannot_hold_is_refused_by_name() {
        let secret = secret(b"hush");
        let refusal = |secrets: Value, credentials: Value| {
            let text = host(&secrets, &credentials).unwrap_err();
            text.strip_prefix("the host config's secrets ").unwrap_or(&text).to_owned()
        };
        let changed = |field: &str, value: &str| {
            let mut secret = secret.clone();
            secret[field] = json!(value);
            refusal(json!({"psk": secret}), json!({}))
        };
        let no_name = "hold \"psk\", which has an ek that is no name of an endorsement key";
        for wrong in ["", "000b", &"0".repeat(68), &format!("000b{}", "G".repeat(64))] {
            assert_eq!(changed("ek", wrong), no_name);
        }
        for wrong in ["", "?", "AAAA"] {
            let text = "hold \"psk\", which has a key that is none which was sealed to an endorsement key";
            assert_eq!(changed("key", wrong), text);
        }
        for wrong in ["", "?", &STANDARD.encode([0_u8; 15])] {
            assert_eq!(changed("content", wrong), "hold \"psk\", which has content that is not encrypted");
        }
        let long = STANDARD.encode(vec![0_u8; (64 << 10) + 17]);
        assert_eq!(changed("content", &long), "hold \"psk\", which has 65537 bytes, more than 65536");
        assert_eq!(
            refusal(json!({"psk": secret}), json!({"PSK": {"text": "x"}})),
            "hold \"psk\", which the credentials hold too"
        );
        assert_eq!(
            refusal(json!({"psk": secret, "PSK": secret}), json!({})),
            "hold \"psk\" twice: upper and lower case are one"
        );
        let many: serde_json::Map<_, _> = (0..128).map(|number| (format!("c{number}"), json!({"text": "x"}))).collect();
        assert_eq!(refusal(json!({"psk": secret}), many.into()), "are 129 with the credentials, more than 128");
        let text = refusal(json!({"psk": {"ek": "", "key": "", "content": "", "text": "x"}}), json!({}));
        assert!(text.starts_with("the host config is not valid: unknown field `text`"), "{text}");
    }
}
