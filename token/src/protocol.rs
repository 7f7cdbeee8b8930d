//! What is said, one line of JSON each: a request; questions for a PIN, each with its reply; an answer.

use std::fmt;
use std::io::{self, BufRead, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::Kind;

/// Bytes, in Base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Bytes(pub Vec<u8>);

impl From<Bytes> for String {
    fn from(bytes: Bytes) -> Self {
        STANDARD.encode(bytes.0)
    }
}

impl TryFrom<String> for Bytes {
    type Error = base64::DecodeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        STANDARD.decode(text).map(Self)
    }
}

/// What is asked of a token. `uri` is a [`crate::KeyUri`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The public half of a key.
    Public {
        /// The key.
        uri: String,
    },
    /// Whether a key can sign, as far as that shows beforehand. Logs in.
    Check {
        /// The key.
        uri: String,
    },
    /// A signature.
    Sign {
        /// The key.
        uri: String,
        /// Its kind.
        kind: Kind,
        /// What is to be signed.
        message: Bytes,
    },
}

impl Request {
    /// The key that it is about.
    #[must_use]
    pub fn uri(&self) -> &str {
        match self {
            Self::Public { uri } | Self::Check { uri } | Self::Sign { uri, .. } => uri,
        }
    }
}

/// What a token answers, or what it wants to know before it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Answer {
    /// The public half of a key.
    Public {
        /// Its kind.
        kind: Kind,
        /// 32 bytes of Ed25519, or an uncompressed point of P-256.
        key: Bytes,
    },
    /// It can sign.
    Ready,
    /// The signature, as metadata has it.
    Signature(Bytes),
    /// The PIN is needed; the line that follows is a [`Reply`].
    Pin(Question),
    /// It was wrong.
    PinRefused(PinRefused),
    /// The token is not there, or its module.
    Absent(String),
    /// Anything else that went wrong.
    Error(String),
}

/// Which PIN is needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Label of the token, as it gives it: it may hold anything.
    pub token: String,
    /// Whether the token locks if it is wrong once more.
    pub last: bool,
}

/// A PIN was wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PinRefused {
    /// Label of the token.
    pub token: String,
    /// Whether the token locks if it is wrong once more.
    pub last: bool,
    /// Whether it is locked by now.
    pub locked: bool,
}

/// Answer to a [`Question`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// The PIN.
    Pin(Pin),
}

/// A PIN. Its debug form does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin(pub String);

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin(…)")
    }
}

/// Writes one line.
///
/// # Errors
/// Nobody takes it.
pub fn send(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)?;
    to.flush()
}

/// Reads one line; `None` at the end.
///
/// # Errors
/// It cannot be read, or is something else.
pub fn receive<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = String::new();
    if from.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(serde_json::from_str(&line)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_one_line_of_json() {
        let request = Request::Sign { uri: "pkcs11:x".to_owned(), kind: Kind::P256, message: Bytes(b"a\nb".to_vec()) };
        let mut line = Vec::new();
        send(&mut line, &request).unwrap();
        assert_eq!(line, b"{\"sign\":{\"uri\":\"pkcs11:x\",\"kind\":\"p256\",\"message\":\"YQpi\"}}\n");
        let mut lines = line.as_slice();
        assert_eq!(receive::<Request>(&mut lines).unwrap(), Some(request));
        assert_eq!(receive::<Request>(&mut lines).unwrap(), None);
        for wrong in ["{\"sign\":{\"uri\":\"x\"}}\n", "{\"public\":{\"uri\":\"x\",\"pin\":\"1\"}}\n", "{}\n", "\n"] {
            assert!(receive::<Request>(&mut wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_pin_is_said_and_not_shown() {
        let reply = Reply::Pin(Pin("1234".to_owned()));
        let mut line = Vec::new();
        send(&mut line, &reply).unwrap();
        assert_eq!(line, b"{\"pin\":\"1234\"}\n");
        assert_eq!(format!("{reply:?}"), "Pin(Pin(…))");
    }
}
