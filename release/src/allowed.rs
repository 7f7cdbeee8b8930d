//! The releases that host configs may name: one document, `allowed-releases.json`, that the role `targets` signs. Without it
//! host configs may name any release that is published; with it whoever holds the key of `hosts` cannot bring back an old
//! release that has holes. Its name is none that `hosts` may sign.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::document::{DocumentError, Kind};
use crate::host::{ReleaseName, is_like};

/// Name of the document among the repository's targets. No release has it: theirs have a `_`.
pub const TARGET: &str = "allowed-releases.json";
/// No such document is larger.
pub const MAX_BYTES: usize = 1 << 20;
const KIND: Kind = Kind { name: "list of allowed releases", max_bytes: MAX_BYTES };
/// Bytes of an entry at most.
const MAX_ENTRY: usize = 64;
/// Entries that a refusal shows.
const SHOWN: usize = 20;

/// The releases that host configs may name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Allowed {
    /// Format of this document: 1.
    pub format: u32,
    /// `NAME_VERSION` of each, as `debian_13.2`; `*` stands for any characters, `?` for any one. Case counts. An empty list
    /// allows none.
    pub releases: Vec<String>,
}

/// A release that a host config names and may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} names the release {release}, but {TARGET}, which the role targets has signed, allows {allowed}")]
pub struct NotAllowed {
    /// The host config, in words.
    pub host: String,
    /// The release.
    pub release: ReleaseName,
    /// What the list allows, in words.
    pub allowed: String,
}

impl Allowed {
    /// Parses and checks the document.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let allowed: Self = KIND.parse(bytes)?;
        KIND.check_format(allowed.format)?;
        allowed.releases.iter().try_for_each(|entry| Self::check_entry(entry))?;
        Ok(allowed)
    }

    /// Checks an entry.
    ///
    /// # Errors
    /// Says which entries there are.
    pub fn check_entry(entry: &str) -> Result<(), DocumentError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".~^-_*?".contains(&byte);
        // Without one it could fit no release.
        let fits = entry.contains(['_', '*']);
        if entry.is_empty() || entry.len() > MAX_ENTRY || !entry.bytes().all(plain) || !fits {
            let entry: String = entry.chars().take(80).collect();
            let problem =
                format!("has {entry:?}, which is no NAME_VERSION of a-z, A-Z, 0-9 and '.~^-', nor a pattern of them");
            return KIND.refuse("releases", problem);
        }
        Ok(())
    }

    /// The document's bytes.
    ///
    /// # Errors
    /// What [`Allowed::parse`] would refuse.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        let encoded = serde_json::to_vec_pretty(self);
        let mut bytes = encoded.map_err(|source| DocumentError::Json { document: KIND.name, source })?;
        bytes.push(b'\n');
        Self::parse(&bytes)?;
        Ok(bytes)
    }

    /// Whether a host config may name `release`.
    #[must_use]
    pub fn allows(&self, release: &ReleaseName) -> bool {
        let name = format!("{}_{}", release.name, release.version);
        self.releases.iter().any(|entry| is_like(&name, entry))
    }

    /// Refuses a release that is not allowed; `host` says in words whose host config names it.
    ///
    /// # Errors
    /// It is not allowed.
    pub fn check(&self, host: &str, release: &ReleaseName) -> Result<(), NotAllowed> {
        if self.allows(release) {
            return Ok(());
        }
        Err(NotAllowed { host: host.to_owned(), release: release.clone(), allowed: self.in_words() })
    }

    fn in_words(&self) -> String {
        if self.releases.is_empty() {
            return "none".to_owned();
        }
        let mut text = format!("only {}", self.releases.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", "));
        let more = self.releases.len().saturating_sub(SHOWN);
        if more > 0 {
            // Writing to a string cannot fail.
            let _ = write!(text, " and {more} more");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(name: &str, version: &str) -> ReleaseName {
        ReleaseName { name: name.to_owned(), version: version.to_owned() }
    }

    fn list(entries: &[&str]) -> Allowed {
        Allowed { format: 1, releases: entries.iter().map(|entry| (*entry).to_owned()).collect() }
    }

    #[test]
    fn a_release_is_allowed_by_its_name_or_a_pattern() {
        let allowed = list(&["debian_13.2", "tiny_*", "edge_1.?"]);
        for (name, version, expected) in [
            ("debian", "13.2", true),
            ("debian", "13.1", false),
            ("debian", "13.20", false),
            ("Debian", "13.2", false),
            ("tiny", "1", true),
            ("tiny-2", "1", false),
            ("edge", "1.1", true),
            ("edge", "1.11", false),
        ] {
            assert_eq!(allowed.allows(&release(name, version)), expected, "{name} {version}");
        }
        assert!(list(&["*"]).allows(&release("any", "1")));
        assert!(!list(&[]).allows(&release("any", "1")));
    }

    #[test]
    fn a_refusal_names_host_config_release_and_list() {
        let refusal = |allowed: &Allowed| allowed.check("the host config default", &release("os", "1")).unwrap_err();
        let start = "the host config default names the release os 1, but allowed-releases.json, which the role targets has \
                     signed, allows";
        assert_eq!(refusal(&list(&["os_2", "tiny_*"])).to_string(), format!("{start} only os_2, tiny_*"));
        assert_eq!(refusal(&list(&[])).to_string(), format!("{start} none"));
        let entries: Vec<String> = (2..24).map(|version| format!("os_{version}")).collect();
        let many = Allowed { format: 1, releases: entries.clone() };
        let shown = entries[..20].join(", ");
        assert_eq!(refusal(&many).to_string(), format!("{start} only {shown} and 2 more"));
        assert_eq!(many.check("it", &release("os", "23")), Ok(()));
    }

    #[test]
    fn what_cannot_hold_is_refused_by_name() {
        let refusal = |text: &str| Allowed::parse(text.as_bytes()).unwrap_err().to_string();
        let entry = |entry: &str| refusal(&serde_json::json!({"format": 1, "releases": [entry]}).to_string());
        let text = |entry: &str| {
            format!(
                "the list of allowed releases's releases has {entry:?}, which is no NAME_VERSION of a-z, A-Z, 0-9 and \
                 '.~^-', nor a pattern of them"
            )
        };
        for wrong in ["", "os", "os 1", "os_1/..", "os_1\n", "ös_1", "??"] {
            assert_eq!(entry(wrong), text(wrong));
        }
        assert_eq!(entry(&format!("o_{}", "1".repeat(63))), text(&format!("o_{}", "1".repeat(63))));
        assert_eq!(
            refusal(r#"{"format": 2, "releases": []}"#),
            "the list of allowed releases's format is 2, but this installer reads 1"
        );
        for wrong in
            [r#"{"format": 1}"#, r#"{"format": 1, "releases": [], "more": 1}"#, r#"{"format": 1, "releases": "*"}"#]
        {
            assert_eq!(refusal(wrong), "the list of allowed releases is not valid");
        }
        let written = list(&["os_1", "*"]).to_bytes().unwrap();
        assert_eq!(Allowed::parse(&written).unwrap(), list(&["os_1", "*"]));
        assert_eq!(list(&["os 1"]).to_bytes().unwrap_err().to_string(), text("os 1"));
    }
}
