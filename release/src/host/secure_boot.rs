//! Keys for a firmware that has none yet.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::secure_boot::{Update, certificates};

/// Signed updates of the firmware's variables for Secure Boot: `.auth` files, as `sbvarsign` and `sign-efi-sig-list` make them, in
/// base64, each at most 32 KiB. All of them are public.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct SecureBootKeys {
    /// Of the platform key, which ends setup mode: one certificate, signed by its own key.
    pub pk: String,
    /// Of the certificates whose keys may change `db`.
    pub kek: String,
    /// Of the certificates by which what the firmware starts must be signed, one of which the release must be signed by.
    pub db: String,
}

impl SecureBootKeys {
    /// The keys in the content of these files.
    #[must_use]
    pub fn new(pk: &[u8], kek: &[u8], db: &[u8]) -> Self {
        let [pk, kek, db] = [pk, kek, db].map(|bytes| STANDARD.encode(bytes));
        Self { pk, kek, db }
    }

    /// The updates by the names of their variables, in the order in which firmware takes them: the platform key comes last, since
    /// from then on all must be signed by others.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn updates(&self) -> Result<[(&'static str, Update); 3], String> {
        let db = parse("db", &self.db)?;
        let kek = parse("kek", &self.kek)?;
        let pk = parse("pk", &self.pk)?;
        let count = certificates(pk.content()).map_or(0, |found| found.len());
        if count != 1 {
            return Err(format!("hold pk, which has {count} certificates, not one"));
        }
        Ok([("db", db), ("KEK", kek), ("PK", pk)])
    }
}

fn parse(field: &str, text: &str) -> Result<Update, String> {
    let bytes = STANDARD.decode(text).map_err(|error| format!("hold {field}, which is no base64: {error}"))?;
    Update::parse(bytes).map_err(|problem| format!("hold {field}, which {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::secure_boot::tests::{list_of, update};

    fn refusal(keys: &SecureBootKeys) -> String {
        let text = serde_json::json!({
            "format": 1,
            "release": {"name": "os", "version": "1"},
            "secure_boot_keys": keys,
        });
        Host::parse(text.to_string().as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn updates_come_in_the_order_in_which_firmware_takes_them() {
        let [pk, kek, db] = [b"one", b"two", b"six"].map(|certificate| update(&list_of(certificate)));
        let keys = SecureBootKeys::new(&pk, &kek, &db);
        let updates = keys.updates().unwrap();
        assert_eq!(updates.each_ref().map(|(name, _)| *name), ["db", "KEK", "PK"]);
        assert_eq!(updates.each_ref().map(|(_, update)| update.bytes()), [&db[..], &kek, &pk]);
        assert_eq!(updates[2].1.content(), list_of(b"one"));
    }

    #[test]
    fn a_host_config_with_keys_that_are_none_is_refused() {
        let good = update(&list_of(b"one"));
        let keys = |pk: &[u8], db: &[u8]| SecureBootKeys::new(pk, &good, db);
        let start = "the host config's secure_boot_keys hold ";
        assert_eq!(refusal(&keys(&good, b"")), format!("{start}db, which ends before its signature does"));
        let two = update(&[list_of(b"one"), list_of(b"two")].concat());
        assert_eq!(refusal(&keys(&two, &good)), format!("{start}pk, which has 2 certificates, not one"));
        let text = refusal(&SecureBootKeys { kek: "?".to_owned(), ..keys(&good, &good) });
        assert!(text.starts_with(&format!("{start}kek, which is no base64: ")), "{text}");
    }
}
