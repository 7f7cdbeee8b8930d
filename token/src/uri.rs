//! A key on a token, by its PKCS#11 URI (RFC 7512).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

const SCHEME: &str = "pkcs11:";
/// What may stand before the question mark.
const PATH: &[&str] = &["token", "manufacturer", "model", "serial", "object", "id", "type"];
/// What may stand behind it.
const QUERY: &[&str] = &["module-path", "pin-source"];

/// Why a text names no key on a token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UriError {
    /// Another scheme.
    #[error("it does not start with pkcs11:")]
    Scheme,
    /// No `NAME=VALUE`.
    #[error("{0} is not NAME=VALUE, percent-encoded")]
    Malformed(String),
    /// An attribute that is not for keys, or not known.
    #[error("{0} is not known there: a key has {path} before the question mark, and {query} behind it", path = PATH.join(", "), query = QUERY.join(", "))]
    Unknown(String),
    /// An attribute that stands there twice.
    #[error("{0} stands there twice")]
    Twice(String),
    /// The PIN itself.
    #[error(
        "a PIN does not belong there (pin-value): put it into a file for its owner's eyes only, and say pin-source"
    )]
    PinValue,
    /// It is about something else.
    #[error("type={0} is no private key")]
    Type(String),
    /// No token is named.
    #[error("it does not say which token: token=LABEL, or serial=NUMBER")]
    NoToken,
    /// No key is named.
    #[error("it does not say which key: object=LABEL, or id=ID")]
    NoKey,
    /// No module is named.
    #[error("it does not say by which module: ?module-path=/usr/lib/…")]
    NoModule,
    /// A path that depends on where one stands.
    #[error("{0} is no absolute path")]
    Relative(&'static str),
}

/// A key on a token. Its text form is the URI as it was given; no secret is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUri {
    text: String,
    /// What the token must be, by the names of the attributes.
    token: BTreeMap<&'static str, String>,
    object: Option<String>,
    id: Option<Vec<u8>>,
    module: PathBuf,
    pin_source: Option<PathBuf>,
}

impl FromStr for KeyUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let mut found = attributes(text)?;
        let mut take = |name: &str| found.remove(name);
        let as_text =
            |name: &str, bytes: Vec<u8>| String::from_utf8(bytes).map_err(|_| UriError::Malformed(name.to_owned()));
        let mut token = BTreeMap::new();
        for name in ["token", "manufacturer", "model", "serial"] {
            if let Some(value) = take(name) {
                token.insert(name, as_text(name, value)?);
            }
        }
        let mut text_of = |name: &str| take(name).map(|value| as_text(name, value)).transpose();
        if let Some(other) = text_of("type")?.filter(|kind| kind != "private") {
            return Err(UriError::Type(other));
        }
        let object = text_of("object")?;
        let module = text_of("module-path")?.ok_or(UriError::NoModule)?;
        let pin_source = text_of("pin-source")?;
        let id = found.remove("id");
        if !token.contains_key("token") && !token.contains_key("serial") {
            return Err(UriError::NoToken);
        }
        if object.is_none() && id.is_none() {
            return Err(UriError::NoKey);
        }
        let pin_source = pin_source.map(|source| absolute("pin-source", file(&source))).transpose()?;
        let module = absolute("module-path", &module)?;
        Ok(Self { text: text.to_owned(), token, object, id, module, pin_source })
    }
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl KeyUri {
    /// The URI as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Label of the key.
    #[must_use]
    pub fn object(&self) -> Option<&str> {
        self.object.as_deref()
    }

    /// Its id on the token.
    #[must_use]
    pub fn id(&self) -> Option<&[u8]> {
        self.id.as_deref()
    }

    /// The module that speaks to the token.
    #[must_use]
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// File with the token's PIN.
    #[must_use]
    pub fn pin_source(&self) -> Option<&Path> {
        self.pin_source.as_deref()
    }

    /// Whether a token is the one, by what it says of itself.
    #[must_use]
    pub fn fits(&self, label: &str, manufacturer: &str, model: &str, serial: &str) -> bool {
        self.token.iter().all(|(name, wanted)| {
            let said = match *name {
                "token" => label,
                "manufacturer" => manufacturer,
                "model" => model,
                _ => serial,
            };
            said.trim_end() == wanted.trim_end()
        })
    }

    /// The token, for an error: `token="metalstrap"`.
    #[must_use]
    pub fn wanted_token(&self) -> String {
        self.token.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>().join(", ")
    }

    /// The key, for an error: `object="timestamp", id=01`.
    #[must_use]
    pub fn wanted_key(&self) -> String {
        let object = self.object.as_ref().map(|label| format!("object={label:?}"));
        let id = self.id.as_ref().map(|id| {
            let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("id={hex}")
        });
        object.into_iter().chain(id).collect::<Vec<_>>().join(", ")
    }
}

/// The attributes by their names, decoded.
fn attributes(text: &str) -> Result<BTreeMap<String, Vec<u8>>, UriError> {
    let rest = text.strip_prefix(SCHEME).ok_or(UriError::Scheme)?;
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let path = path.split(';').map(|attribute| (attribute, PATH));
    let query = query.split('&').map(|attribute| (attribute, QUERY));
    let mut found = BTreeMap::new();
    for (attribute, known) in path.chain(query).filter(|(attribute, _)| !attribute.is_empty()) {
        let malformed = |name: &str| UriError::Malformed(name.to_owned());
        // What stands behind it is a secret, which no error may tell, whatever is between.
        if attribute.starts_with("pin-value") {
            return Err(UriError::PinValue);
        }
        let (name, value) = attribute.split_once('=').ok_or_else(|| malformed(attribute))?;
        if !known.contains(&name) {
            return Err(UriError::Unknown(name.to_owned()));
        }
        let value = decode(value).ok_or_else(|| malformed(name))?;
        if found.insert(name.to_owned(), value).is_some() {
            return Err(UriError::Twice(name.to_owned()));
        }
    }
    Ok(found)
}

/// The bytes of percent-encoded text.
fn decode(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte.is_ascii_control() || byte == b' ' {
            return None;
        }
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(bytes)
}

/// The path that a `file:` URI or a path names.
fn file(source: &str) -> &str {
    let path = source.strip_prefix("file:").unwrap_or(source);
    path.strip_prefix("//").unwrap_or(path)
}

fn absolute(name: &'static str, path: &str) -> Result<PathBuf, UriError> {
    let path = PathBuf::from(path);
    if path.is_absolute() { Ok(path) } else { Err(UriError::Relative(name)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<KeyUri, String> {
        text.parse().map_err(|error: UriError| error.to_string())
    }

    #[test]
    fn a_key_is_named_by_token_object_and_module() {
        let text = "pkcs11:token=the%20safe;serial=0a1;object=time%2Fstamp;id=%01%fF;type=private\
                    ?module-path=/usr/lib/token.so&pin-source=file:/etc/pin";
        let uri = parse(text).unwrap();
        assert_eq!((uri.to_string().as_str(), uri.as_str()), (text, text));
        assert_eq!((uri.object(), uri.id()), (Some("time/stamp"), Some(&[1, 0xff][..])));
        assert_eq!(uri.module(), Path::new("/usr/lib/token.so"));
        assert_eq!(uri.pin_source(), Some(Path::new("/etc/pin")));
        assert_eq!(uri.wanted_token(), r#"serial="0a1", token="the safe""#);
        assert_eq!(uri.wanted_key(), r#"object="time/stamp", id=01ff"#);
        assert!(uri.fits("the safe", "anyone", "any", "0a1"));
        assert!(uri.fits("the safe  ", "", "", "0a1"));
        assert!(!uri.fits("the safe", "", "", "0a2"));
        assert!(!uri.fits("another", "", "", "0a1"));
        for source in ["file:///etc/pin", "/etc/pin"] {
            let uri = parse(&format!("pkcs11:token=t;object=o?module-path=/m&pin-source={source}")).unwrap();
            assert_eq!(uri.pin_source(), Some(Path::new("/etc/pin")), "{source}");
        }
    }

    #[test]
    fn what_names_no_key_is_refused() {
        let known = "a key has token, manufacturer, model, serial, object, id, type before the question mark, and \
                     module-path, pin-source behind it";
        for (text, error) in [
            ("file:/key.pem", "it does not start with pkcs11:".to_owned()),
            ("pkcs11:", "it does not say by which module: ?module-path=/usr/lib/…".to_owned()),
            ("pkcs11:object=o?module-path=/m", "it does not say which token: token=LABEL, or serial=NUMBER".to_owned()),
            ("pkcs11:token=t?module-path=/m", "it does not say which key: object=LABEL, or id=ID".to_owned()),
            ("pkcs11:token=t;object=o?module-path=m.so", "module-path is no absolute path".to_owned()),
            ("pkcs11:token=t;object=o?module-path=/m&pin-source=pin", "pin-source is no absolute path".to_owned()),
            ("pkcs11:token=t;object=o?module-path=/m&pin-source=|ask", "pin-source is no absolute path".to_owned()),
            ("pkcs11:token=t;token=t;object=o?module-path=/m", "token stands there twice".to_owned()),
            ("pkcs11:token=t;object=o;type=cert?module-path=/m", "type=cert is no private key".to_owned()),
            ("pkcs11:token;object=o?module-path=/m", "token is not NAME=VALUE, percent-encoded".to_owned()),
            ("pkcs11:token=%4;object=o?module-path=/m", "token is not NAME=VALUE, percent-encoded".to_owned()),
            ("pkcs11:token=%zz;object=o?module-path=/m", "token is not NAME=VALUE, percent-encoded".to_owned()),
            ("pkcs11:token=a b;object=o?module-path=/m", "token is not NAME=VALUE, percent-encoded".to_owned()),
            ("pkcs11:token=%ff;object=o?module-path=/m", "token is not NAME=VALUE, percent-encoded".to_owned()),
            ("pkcs11:slot-id=1;object=o?module-path=/m", format!("slot-id is not known there: {known}")),
            ("pkcs11:pin-source=/p;object=o?module-path=/m", format!("pin-source is not known there: {known}")),
        ] {
            assert_eq!(parse(text).unwrap_err(), error, "{text}");
        }
        for secret in ["?module-path=/m&pin-value=1234", ";pin-value=1234?module-path=/m", "?pin-value:1234"] {
            let error = parse(&format!("pkcs11:token=t;object=o{secret}")).unwrap_err();
            assert!(error.starts_with("a PIN does not belong there (pin-value)") && !error.contains("1234"), "{error}");
        }
    }
}
