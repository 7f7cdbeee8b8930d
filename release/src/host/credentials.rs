//! Credentials: settings for the installed OS by the names that systemd gives them (systemd.system-credentials(7)), as
//! `system.hostname` or `ssh.authorized_keys.root`. The text of one may have variables, so that a group of machines needs one
//! host config.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize};

use super::Identity;
use super::by_name::by_name;
use super::variable::{self, fact};

/// A host config has so many credentials at most.
pub const MOST: usize = 128;
/// Bytes of one at most. systemd takes 1 MiB as a file (`CREDENTIAL_SIZE_MAX` in its src/shared/creds-util.h).
pub const MOST_BYTES: usize = 64 << 10;
/// Bytes of all of a host config at most. systemd takes 1 MiB of files from the boot loader (`CREDENTIALS_TOTAL_SIZE_MAX`,
/// src/core/import-creds.c).
pub const MOST_BYTES_TOGETHER: usize = 256 << 10;
/// Bytes of a name at most: with `.cred` behind it, it is the name of a file, of at most 255.
const MOST_NAME: usize = 250;
/// What systemd reads by itself, in PID 1 and in generators, and not for a service (every call of
/// `read_credential_with_decryption` in systemd 257); a name ends with what may be more.
const READ_BY_SYSTEMD: [&str; 10] = [
    "fstab.extra",
    "fstab.extra.initrd",
    "getty.ttys.container",
    "getty.ttys.serial",
    "import.pull",
    "ssh.listen",
    "system.hostname",
    "system.machine_id",
    "systemd.extra-unit.*",
    "systemd.unit-dropin.*",
];

/// Credentials by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(transparent)]
pub struct Credentials(BTreeMap<String, Credential>);

/// One of them: `text` or `base64`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Its content as text, in which `${serial}`, `${uuid}`, `${mac}`, `${vendor}` and `${product}` stand for what the machine
    /// says of itself, and `$$` for a dollar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Its content as base64 (RFC 4648, section 4), taken as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// How it is written to its file.
    #[serde(default)]
    pub file: FileForm,
}

/// How an encrypted credential is written to its file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum FileForm {
    /// `binary` for what PID 1 and generators read in systemd 257, `base64` for all others.
    #[default]
    ByName,
    /// As systemd-creds writes it: what services read, and in systemd 262 PID 1 and generators too.
    Base64,
    /// Not encoded: what PID 1 and generators read in systemd 254 to 261, unless these have the correction (issue 43621).
    Binary,
}

impl FileForm {
    /// Whether the file of the credential `name` is not encoded.
    #[must_use]
    pub fn is_binary(self, name: &str) -> bool {
        let is_known = |known: &str| match known.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == known,
        };
        match self {
            Self::ByName => READ_BY_SYSTEMD.iter().any(|known| is_known(known)),
            Self::Base64 => false,
            Self::Binary => true,
        }
    }
}

/// The content is somebody's business.
impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = |content: &Option<String>| content.as_ref().map(String::len);
        f.debug_struct("Credential")
            .field("text_bytes", &bytes(&self.text))
            .field("base64_bytes", &bytes(&self.base64))
            .field("file", &self.file)
            .finish()
    }
}

impl Credential {
    /// With this content.
    #[must_use]
    pub fn of(content: &[u8]) -> Self {
        Self { base64: Some(STANDARD.encode(content)), ..Self::default() }
    }

    /// Its content, with what `value` says for the variables.
    ///
    /// # Errors
    /// It has none, or several; text or base64 that cannot hold; what `value` says.
    fn content(&self, value: impl Fn(variable::Variable) -> Result<String, String>) -> Result<Vec<u8>, String> {
        let content = match (&self.text, &self.base64) {
            (Some(text), None) => variable::expand(text, value)?.into_bytes(),
            (None, Some(text)) => STANDARD.decode(text).map_err(|_| "has base64 that is none".to_owned())?,
            (None, None) => return Err("has neither text nor base64".to_owned()),
            (Some(_), Some(_)) => return Err("has both text and base64".to_owned()),
        };
        if content.len() > MOST_BYTES {
            return Err(format!("has {} bytes, more than {MOST_BYTES}", content.len()));
        }
        Ok(content)
    }
}

impl Credentials {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether machines may have them.
    ///
    /// # Errors
    /// Names the credential and what is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.0.len() > MOST {
            return Err(format!("are {}, more than {MOST}", self.0.len()));
        }
        check_names(self.0.keys())?;
        self.contents(|_| Ok(String::new())).map(drop)
    }

    /// The content of each as `machine` gets it, by name.
    ///
    /// # Errors
    /// Names the credential and what the machine does not say of itself.
    pub fn of(&self, machine: &Identity) -> Result<BTreeMap<&str, Vec<u8>>, String> {
        self.contents(|variable| fact(variable, machine))
    }

    /// The same without variables: each holds what `machine` gets.
    ///
    /// # Errors
    /// As [`Credentials::of`].
    pub fn for_machine(&self, machine: &Identity) -> Result<Self, String> {
        let mut contents = self.of(machine)?;
        let fixed = self.0.iter().filter_map(|(name, credential)| {
            let content = contents.remove(name.as_str())?;
            Some((name.clone(), Credential { file: credential.file, ..Credential::of(&content) }))
        });
        Ok(Self(fixed.collect()))
    }

    /// Bytes of all contents, without what stands for variables.
    pub(super) fn length(&self) -> usize {
        let contents = self.contents(|_| Ok(String::new())).unwrap_or_default();
        contents.values().map(Vec::len).sum()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Credential)> {
        self.0.iter().map(|(name, credential)| (name.as_str(), credential))
    }

    fn contents(
        &self,
        value: impl Fn(variable::Variable) -> Result<String, String>,
    ) -> Result<BTreeMap<&str, Vec<u8>>, String> {
        let mut contents = BTreeMap::new();
        let mut together = 0_usize;
        for (name, credential) in &self.0 {
            let content = credential.content(&value).map_err(|problem| format!("hold {name:?}, which {problem}"))?;
            together = together.saturating_add(content.len());
            contents.insert(name.as_str(), content);
        }
        if together > MOST_BYTES_TOGETHER {
            return Err(format!("have {together} bytes, more than {MOST_BYTES_TOGETHER}"));
        }
        Ok(contents)
    }
}

/// Whether these can be names, each of a file of its own.
pub(super) fn check_names<'a>(names: impl Iterator<Item = &'a String>) -> Result<(), String> {
    let mut before: Vec<String> = Vec::new();
    for name in names {
        check_name(name)?;
        // Both would be one file.
        let lower = name.to_ascii_lowercase();
        if before.contains(&lower) {
            return Err(format!("hold {name:?} twice: upper and lower case are one"));
        }
        before.push(lower);
    }
    Ok(())
}

/// What systemd takes as a name (`credential_name_valid` in its src/shared/creds-util.c: printable ASCII without `/` and `:`),
/// without what FAT cannot hold, and without a dot at the start, since systemd-stub passes over such files.
fn check_name(name: &str) -> Result<(), String> {
    let plain = |byte: u8| (b' '..=b'~').contains(&byte) && !b"\"*/:<>?\\|".contains(&byte);
    let good = (1..=MOST_NAME).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with([' ', '.']);
    if good {
        return Ok(());
    }
    let name: String = name.chars().take(80).collect();
    Err(format!(
        "hold the name {name:?}, which is not 1 to {MOST_NAME} of printable ASCII without \"*/:<>?\\| and without a space or dot \
         at its start"
    ))
}

impl<'de> Deserialize<'de> for Credentials {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        by_name(deserializer, "credential").map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    fn host(credentials: &str) -> Result<Host, String> {
        let text = format!(
            r#"{{"format": 1, "release": {{"name": "debian", "version": "1"}}, "credentials": {credentials}}}"#
        );
        Host::parse(text.as_bytes()).map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    fn machine() -> Identity {
        Identity {
            uuid: Some("4C4C4544-0034-3510-8052-B4C04F4A3132\n".to_owned()),
            serial: Some(" 7XK2J13 ".to_owned()),
            macs: vec!["52:54:00:12:34:57".to_owned(), "52:54:00:12:34:56\n".to_owned()],
            vendor: Some("Dell Inc.".to_owned()),
            product: None,
        }
    }

    #[test]
    fn a_machine_gets_its_own() {
        let host = host(
            r#"{"system.hostname": {"text": "web-${serial}"}, "motd": {"text": "$${serial} ${uuid} ${mac} ${vendor}\n"},
                "fstab.extra": {"base64": "JHtzZXJpYWx9AP8="}}"#,
        )
        .unwrap();
        let expected: BTreeMap<&str, Vec<u8>> = BTreeMap::from([
            ("fstab.extra", b"${serial}\0\xff".to_vec()),
            ("motd", b"${serial} 4c4c4544-0034-3510-8052-b4c04f4a3132 52:54:00:12:34:56 Dell Inc.\n".to_vec()),
            ("system.hostname", b"web-7XK2J13".to_vec()),
        ]);
        assert_eq!(host.credentials.of(&machine()).unwrap(), expected);
        let fixed = host.credentials.for_machine(&machine()).unwrap();
        assert_eq!(fixed.of(&Identity::default()).unwrap(), expected);
        assert_eq!(
            host.credentials.of(&Identity::default()).unwrap_err(),
            "hold \"motd\", which has ${uuid} in line 1, but the machine says no UUID"
        );
    }

    #[test]
    fn what_pid_1_reads_is_binary_unless_said_otherwise() {
        let host = host(
            r#"{"system.hostname": {"text": ""}, "systemd.extra-unit.a.service": {"text": ""}, "network.dns": {"text": ""},
                "fstab.extra": {"text": "", "file": "base64"}, "x": {"text": "", "file": "binary"}}"#,
        );
        let host = host.unwrap();
        let binary = host.credentials.iter().map(|(name, one)| (name, one.file.is_binary(name)));
        let expected = [
            ("fstab.extra", false),
            ("network.dns", false),
            ("system.hostname", true),
            ("systemd.extra-unit.a.service", true),
            ("x", true),
        ];
        assert_eq!(binary.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_cannot_hold_is_refused_by_name() {
        let refusal = |credentials: &str| {
            let text = host(credentials).unwrap_err();
            text.strip_prefix("the host config's credentials ").unwrap_or(&text).to_owned()
        };
        let name =
            "which is not 1 to 250 of printable ASCII without \"*/:<>?\\| and without a space or dot at its start";
        for wrong in ["", ".", "..", ".a", " a", "a/b", "a:b", "ü", "a*", &"x".repeat(251)] {
            let shown: String = wrong.chars().take(80).collect();
            assert_eq!(
                refusal(&format!(r#"{{"{wrong}": {{"text": "x"}}}}"#)),
                format!("hold the name {shown:?}, {name}")
            );
        }
        assert!(host(r#"{"systemd.unit-dropin.getty@tty1.service~10-x": {"text": ""}}"#).is_ok());
        assert_eq!(refusal(r#"{"a": {}}"#), "hold \"a\", which has neither text nor base64");
        assert_eq!(refusal(r#"{"a": {"text": "x", "base64": ""}}"#), "hold \"a\", which has both text and base64");
        for wrong in ["x", "eA", "eA==\\n", "eB=="] {
            assert_eq!(
                refusal(&format!(r#"{{"a": {{"base64": "{wrong}"}}}}"#)),
                "hold \"a\", which has base64 that is none"
            );
        }
        assert_eq!(
            refusal(r#"{"a": {"text": "x"}, "A": {"text": "x"}}"#),
            "hold \"a\" twice: upper and lower case are one"
        );
        let long = format!(r#"{{"text": "{}"}}"#, "x".repeat(MOST_BYTES + 1));
        assert_eq!(refusal(&format!(r#"{{"a": {long}}}"#)), "hold \"a\", which has 65537 bytes, more than 65536");
        let many = |count: usize, text: &str| {
            let all: Vec<_> = (0..count).map(|n| format!(r#""c{n}": {{"text": "{text}"}}"#)).collect();
            format!("{{{}}}", all.join(","))
        };
        assert_eq!(refusal(&many(5, &"x".repeat(60_000))), "have 300000 bytes, more than 262144");
        assert_eq!(refusal(&many(129, "x")), "are 129, more than 128");
        assert!(host(&many(128, "x")).is_ok());
    }

    #[test]
    fn shapes_other_than_the_format_are_refused() {
        let refusal = |credentials: &str| {
            let text = host(credentials).unwrap_err();
            text.split(" at line").next().unwrap().to_owned()
        };
        let invalid = "the host config is not valid: ";
        assert_eq!(
            refusal(r#"{"a": {"text": "x"}, "a": {"text": "x"}}"#),
            format!("{invalid}duplicate credential \"a\"")
        );
        assert_eq!(
            refusal(r#"{"a": {"text": "x", "secret": true}}"#),
            format!("{invalid}unknown field `secret`, expected one of `text`, `base64`, `file`")
        );
        assert_eq!(
            refusal(r#"[]"#),
            format!("{invalid}invalid type: sequence, expected an object with credentials by their names")
        );
        assert_eq!(
            refusal(r#"{"a": {"file": "hex"}}"#),
            format!("{invalid}unknown variant `hex`, expected one of `by-name`, `base64`, `binary`")
        );
        assert_eq!(refusal(r#"{"a": ["x"]}"#), format!("{invalid}credentials.a is a list, not an object"));
    }

    #[test]
    fn what_is_written_reads_back_and_nothing_shows_the_content() {
        let host = host(r#"{"a": {"text": "hush ${serial}"}, "b": {"base64": "aHVzaA==", "file": "binary"}}"#).unwrap();
        assert_eq!(Host::parse(&serde_json::to_vec(&host).unwrap()).unwrap(), host);
        let shown = format!("{host:?}");
        assert!(!shown.contains("hush") && !shown.contains("aHVzaA"), "{shown}");
    }
}
