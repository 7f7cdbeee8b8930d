//! Host configs for groups of machines: one document, `host-groups.json`, that the role `hosts` signs, so that ten thousand
//! machines need no ten thousand files. A machine with a host config of its own is in no group; the first group that a machine
//! belongs to counts.

use serde::{Deserialize, Serialize};

use super::{Host, Identity, is_like};
use crate::document::{DocumentError, Kind};

/// Name of the document among the repository's targets.
pub const TARGET: &str = "host-groups.json";
/// No such document is larger.
pub const MAX_BYTES: usize = 1 << 20;
const KIND: Kind = Kind { name: "list of host groups", max_bytes: MAX_BYTES };
/// Bytes of a group's name at most.
const MAX_NAME: usize = 64;

/// The groups, in the order in which they are tried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Groups {
    /// Format of this document: 1.
    pub format: u32,
    /// The groups; the first that a machine belongs to counts.
    pub groups: Vec<Group>,
}

/// Machines that get the same host config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// What people call it: 1 to 64 letters, digits and `._-`. No two groups have the same.
    pub name: String,
    /// Which machines belong to it.
    #[serde(rename = "match")]
    pub members: Members,
    /// What they get.
    pub config: Host,
}

/// Which machines belong to a group: all that is said must hold, and something must be said. `*` stands for any characters,
/// `?` for any one; case does not count.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Members {
    /// SMBIOS system UUID.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// SMBIOS system serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Address of any of its Ethernet ports, with colons.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// SMBIOS manufacturer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// SMBIOS product name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
}

impl Groups {
    /// Parses and checks the document.
    ///
    /// # Errors
    /// Names the group, the field, and what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let groups: Self = KIND.parse(bytes)?;
        KIND.check_format(groups.format)?;
        for (index, group) in groups.groups.iter().enumerate() {
            group.check()?;
            if groups.groups.iter().take(index).any(|other| other.name == group.name) {
                return KIND.refuse("name", format!("{:?} is that of two groups", group.name));
            }
        }
        Ok(groups)
    }

    /// The group that a machine belongs to.
    #[must_use]
    pub fn of(&self, machine: &Identity) -> Option<&Group> {
        self.groups.iter().find(|group| group.members.have(machine))
    }
}

impl Group {
    fn check(&self) -> Result<(), DocumentError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=MAX_NAME).contains(&self.name.len()) || !self.name.bytes().all(plain) {
            let name: String = self.name.chars().take(80).collect();
            return KIND.refuse("name", format!("{name:?} is not 1 to {MAX_NAME} of a-z, A-Z, 0-9 and '._-'"));
        }
        if self.members == Members::default() {
            return KIND.refuse("match", format!("of {} is empty: every machine would belong to it", self.name));
        }
        match self.config.check() {
            Err(DocumentError::Value { field, problem, .. }) => {
                KIND.refuse("config", format!("of {} has {field}, which {problem}", self.name))
            }
            checked => checked,
        }
    }
}

impl Members {
    /// Whether all that is said holds for a machine. What it does not say of itself fits nothing.
    fn have(&self, machine: &Identity) -> bool {
        let is_like = |text: &String, pattern: &str| is_like(&text.trim().to_lowercase(), &pattern.to_lowercase());
        let holds = |pattern: &Option<String>, said: &[String]| {
            pattern.as_ref().is_none_or(|pattern| said.iter().any(|text| is_like(text, pattern)))
        };
        let one = |said: &Option<String>| said.iter().cloned().collect::<Vec<_>>();
        holds(&self.uuid, &one(&machine.uuid))
            && holds(&self.serial, &one(&machine.serial))
            && holds(&self.mac, &machine.macs)
            && holds(&self.vendor, &one(&machine.vendor))
            && holds(&self.product, &one(&machine.product))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"{"format": 1, "groups": [
        {"name": "web", "match": {"serial": "7xk*", "vendor": "dell*"},
         "config": {"format": 1, "release": {"name": "debian", "version": "1"}}},
        {"name": "lab", "match": {"mac": "52:54:00:*"},
         "config": {"format": 1, "release": {"name": "debian", "version": "2"}}},
        {"name": "rest", "match": {"uuid": "4c4c4544-*"},
         "config": {"format": 1, "release": {"name": "debian", "version": "3"}}}]}"#;

    #[test]
    fn the_first_group_that_a_machine_belongs_to_counts() {
        let groups = Groups::parse(TEXT.as_bytes()).unwrap();
        let of = |serial: &str, vendor: &str, macs: &[&str]| {
            let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
            let macs = macs.iter().map(|mac| (*mac).to_owned()).collect();
            let uuid = some("4C4C4544-0042-1234-8058-B7C04F5A4D33");
            let machine = Identity { uuid, serial: some(serial), macs, vendor: some(vendor), product: None };
            groups.of(&machine).map(|group| group.name.clone())
        };
        let lab = ["aa:00:00:00:00:01", "52:54:00:12:34:56"];
        assert_eq!(of(" 7XK2J13\n", "Dell Inc.", &lab).as_deref(), Some("web"));
        assert_eq!(of("7XK2J13", "HPE", &lab).as_deref(), Some("lab"));
        assert_eq!(of("", "", &lab[..1]).as_deref(), Some("rest"));
        assert_eq!(groups.of(&Identity::default()), None);
    }

    #[test]
    fn what_cannot_hold_is_refused_by_name() {
        let refusal = |from: &str, to: &str| {
            assert!(TEXT.contains(from));
            Groups::parse(TEXT.replacen(from, to, 1).as_bytes()).unwrap_err().to_string()
        };
        let list = "the list of host groups's";
        assert_eq!(refusal("\"lab\"", "\"web\""), format!("{list} name \"web\" is that of two groups"));
        assert_eq!(
            refusal("\"lab\"", "\"a b\""),
            format!("{list} name \"a b\" is not 1 to 64 of a-z, A-Z, 0-9 and '._-'")
        );
        assert_eq!(
            refusal("\"mac\": \"52:54:00:*\"", ""),
            format!("{list} match of lab is empty: every machine would belong to it")
        );
        assert_eq!(
            refusal("\"version\": \"2\"}", "\"version\": \"2\"}, \"erase\": \"zeroes\""),
            format!("{list} config of lab has erase, which is set, but existing is not \"wipe\"")
        );
        assert_eq!(
            refusal("{\"format\": 1, \"groups\"", "{\"format\": 2, \"groups\""),
            format!("{list} format is 2, but this installer reads 1")
        );
        assert_eq!(refusal("\"mac\"", "\"mcs\""), "the list of host groups is not valid");
    }
}
