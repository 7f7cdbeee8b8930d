//! One record.

use serde_json::{Map, Value};

use crate::digest::from_hex;
use crate::eventlog::{MAX_DIGESTS, PCRS};
use crate::pcr::{Bank, BankDigest};

/// `content_type` of what systemd and the installer write.
const SYSTEMD: &str = "systemd";
/// `content.eventType` of what the installer writes (`installer/src/eventlog.rs`).
const OURS: &str = "metalstrap";
/// Types of systemd's events whose digest is that of `content.string` (`src/pcrextend/pcrextend.c`). That of a `volume-key` is an
/// HMAC, whose key is a secret.
const OF_STRING: [&str; 4] = ["phase", "filesystem", "machine-id", "product-id"];

/// What was extended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// A PCR.
    Pcr(u32),
    /// An NV index that systemd uses as one (an NvPCR).
    Nv(u32),
}

/// A digest of an algorithm that is not known here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedDigest {
    /// The algorithm's name.
    pub algorithm: String,
    /// The digest.
    pub digest: Vec<u8>,
}

/// One measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// What was extended.
    pub register: Register,
    /// With what, in the banks that are known here.
    pub digests: Vec<BankDigest>,
    /// And in others.
    pub others: Vec<NamedDigest>,
    /// Whose form `content` has.
    pub content_type: Option<String>,
    /// What the writer says of it.
    pub content: Value,
}

impl Record {
    /// One of these fields; those that are not known here do not count.
    pub(super) fn new(mut fields: Map<String, Value>) -> Result<Self, String> {
        let register = register(&fields)?;
        let (mut digests, mut others): (Vec<BankDigest>, Vec<NamedDigest>) = (Vec::new(), Vec::new());
        let Some(Value::Array(list)) = fields.get("digests") else {
            return Err("has no list of digests".to_owned());
        };
        if list.len() > MAX_DIGESTS {
            return Err(format!("has {} digests, more than the {MAX_DIGESTS} allowed", list.len()));
        }
        for item in list {
            let (algorithm, digest) = named(item)?;
            let bank = Bank::of_name(algorithm);
            if digests.iter().any(|other| Some(other.bank) == bank)
                || others.iter().any(|other| other.algorithm == algorithm)
            {
                return Err(format!("has two digests of algorithm {algorithm:?}"));
            }
            match bank {
                Some(bank) if digest.len() == bank.size() => digests.push(BankDigest { bank, digest }),
                Some(bank) => return Err(format!("has a digest of {bank} with {} bytes", digest.len())),
                None => others.push(NamedDigest { algorithm: algorithm.to_owned(), digest }),
            }
        }
        let content_type = match fields.remove("content_type") {
            Some(Value::String(content_type)) => Some(content_type),
            None => None,
            Some(_) => return Err("has a content_type that is no text".to_owned()),
        };
        let content = fields.remove("content").unwrap_or_default();
        if content_type.as_deref() == Some(SYSTEMD) {
            check(&content)?;
        }
        Ok(Self { register, digests, others, content_type, content })
    }

    /// The PCR that was extended.
    #[must_use]
    pub fn pcr(&self) -> Option<u32> {
        match self.register {
            Register::Pcr(pcr) => Some(pcr),
            Register::Nv(_) => None,
        }
    }

    /// What a bank was extended with.
    #[must_use]
    pub fn digest(&self, bank: Bank) -> Option<&[u8]> {
        BankDigest::find(&self.digests, bank)
    }

    /// Whether it is `bytes` that were measured, by all digests of banks that are known here.
    #[must_use]
    pub fn is_of(&self, bytes: &[u8]) -> bool {
        BankDigest::are_of(&self.digests, bytes)
    }

    /// The text in what systemd says of it.
    #[must_use]
    pub fn string(&self) -> Option<&str> {
        self.text("string")
    }

    /// The type of event, of systemd's or the installer's.
    #[must_use]
    pub fn event_type(&self) -> Option<&str> {
        self.text("eventType")
    }

    /// What the installer has measured, by its name: `site-config`, `host-config` and so on; `None` for records of others. The
    /// digest is that of the input, not of its name: [`Record::is_of`] tells for one that is at hand.
    #[must_use]
    pub fn input(&self) -> Option<&str> {
        self.text("input").filter(|_| self.event_type() == Some(OURS))
    }

    /// Whether the digests are those of the record's text; `None` where no rule says that they are.
    #[must_use]
    pub fn is_of_string(&self) -> Option<bool> {
        let string = self.string().filter(|_| self.event_type().is_some_and(|kind| OF_STRING.contains(&kind)))?;
        Some(self.is_of(string.as_bytes()))
    }

    /// A text of systemd's content.
    fn text(&self, name: &str) -> Option<&str> {
        self.content.get(name).filter(|_| self.content_type.as_deref() == Some(SYSTEMD))?.as_str()
    }
}

fn register(fields: &Map<String, Value>) -> Result<Register, String> {
    let number = |value: &Value| value.as_u64().and_then(|number| u32::try_from(number).ok());
    match (fields.get("pcr"), fields.get("nv_index")) {
        (Some(_), Some(_)) => Err("has a pcr and an nv_index".to_owned()),
        (None, None) => Err("has no pcr".to_owned()),
        (Some(pcr), None) => {
            let found = number(pcr).filter(|number| *number < PCRS);
            found.map(Register::Pcr).ok_or_else(|| format!("has a pcr that no TPM has: {pcr}"))
        }
        (None, Some(index)) => {
            number(index).map(Register::Nv).ok_or_else(|| format!("has an nv_index that no TPM has: {index}"))
        }
    }
}

fn named(item: &Value) -> Result<(&str, Vec<u8>), String> {
    let text = |name: &str| item.get(name).and_then(Value::as_str);
    let Some(algorithm) = text("hashAlg") else { return Err("has a digest without hashAlg".to_owned()) };
    // Others than systemd may write it in capital letters.
    let digest = text("digest").and_then(|text| from_hex(&text.to_ascii_lowercase()));
    let digest = digest.ok_or_else(|| format!("has a digest of {algorithm} that is not hexadecimal"))?;
    Ok((algorithm, digest))
}

/// Checks systemd's content: what it has of these is of the right type.
fn check(content: &Value) -> Result<(), String> {
    let Some(content) = content.as_object() else { return Err("has a content that is no object".to_owned()) };
    for name in ["string", "input", "bootId", "eventType"] {
        if content.get(name).is_some_and(|value| !value.is_string()) {
            return Err(format!("has a content.{name} that is no text"));
        }
    }
    if content.get("timestamp").is_some_and(|value| !value.is_u64()) {
        return Err("has a content.timestamp that is no number of microseconds".to_owned());
    }
    Ok(())
}
