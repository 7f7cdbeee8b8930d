//! Settings of a run that are not baked into its netboot image: where to look (repository, mirrors, report URL) and which host
//! config to take; never whom to believe. The trusted root, the CA and the clock's floor come from the site config alone.
//!
//! # Design
//! Each [`Source`] has a parser of its own that turns its bytes into [`Word`]s; nothing here reads anything. They are offered to
//! a [`Discovery`]: of those that set a setting the first in the order of the sources wins, whenever it is heard, and of one source
//! its first word; each setting remembers its source. A value is checked by the rules of the site config, since it takes the
//! place of one of its values.
//!
//! Who may set what is the table of [`Setting::rule`], which `docs/configuration.md` shows.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::document::DocumentError;
use crate::host::HostKey;
use crate::site::Site;

pub mod boot_url;
pub mod command_line;
pub mod dhcp;
pub mod medium;
mod setting;
pub mod smbios;
#[cfg(test)]
mod tests;
mod word;

pub use setting::{Rule, Setting, Source, table};
pub use word::{PREFIX, Word, mentioned};

/// What takes the place of a number where a failed installation is to hold for a person.
const NEVER: &str = "never";

/// Why a source's word is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiscoveryError {
    /// Ours by its prefix, and no setting.
    #[error("the {by} sets metalstrap.{}, and there is no such setting; there are {}", .key.escape_debug(), setting::names())]
    Unknown {
        /// Who says it.
        by: Source,
        /// What stands behind the prefix, cut.
        key: String,
    },
    /// Twice in one source.
    #[error("the {by} sets metalstrap.{setting} twice")]
    Twice {
        /// Who says it.
        by: Source,
        /// The setting.
        setting: Setting,
    },
    /// A source that has no say in it.
    #[error("the {by} sets metalstrap.{setting}, which is not for it to say")]
    NotAllowed {
        /// Who says it.
        by: Source,
        /// The setting.
        setting: Setting,
    },
    /// A value that cannot hold.
    #[error("the {by}'s metalstrap.{setting} {problem}")]
    Value {
        /// Who says it.
        by: Source,
        /// The setting.
        setting: Setting,
        /// What is wrong with it.
        problem: String,
    },
    /// Nobody says where the repository is.
    #[error(
        "nothing names the repository: not the site config, the kernel command line, the SMBIOS table, the boot URL, a DHCP server \
         or a labelled medium"
    )]
    NoRepository,
}

/// A setting as it holds, and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chosen {
    /// The setting.
    pub setting: Setting,
    /// Its value as text; several are separated by spaces.
    pub value: String,
    /// Who set it. What the site config leaves out and has a default counts as said by it.
    pub source: Source,
    /// The medium that set it, as a person knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub medium: Option<String>,
}

/// The settings of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The site config with what else was found in the place of its own values.
    pub site: Site,
    /// The host config that the machine is to take, whatever it says of itself.
    pub host: Option<HostKey>,
    /// Every setting that has a value.
    pub chosen: Vec<Chosen>,
}

/// The settings while the sources are looked at, one after the other.
#[derive(Debug, Clone)]
pub struct Discovery {
    site: Site,
    host: Option<HostKey>,
    /// Whether the site config itself gives them.
    given: BTreeSet<Setting>,
    sources: BTreeMap<Setting, Source>,
    /// The medium that was offered, as a person knows it.
    medium: Option<String>,
}

impl Discovery {
    /// Begins with the site config alone.
    #[must_use]
    pub fn new(site: Site) -> Self {
        let mut given = BTreeSet::new();
        if repository(&site).is_ok() {
            given.insert(Setting::Repository);
        }
        if !site.mirrors.is_empty() {
            given.insert(Setting::Mirrors);
        }
        Self { site, host: None, given, sources: BTreeMap::new(), medium: None }
    }

    /// The site config as it holds so far.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Whether a repository that `source` names would be taken.
    #[must_use]
    pub fn wants_repository(&self, source: Source) -> bool {
        self.is_open(Setting::Repository, source)
    }

    /// Takes what the medium says that a person knows as `name`, as [`offer`](Self::offer) does.
    #[must_use]
    pub fn offer_medium(&mut self, name: &str, words: &[Word]) -> Vec<DiscoveryError> {
        self.medium = Some(name.to_owned());
        self.offer(Source::Medium, words)
    }

    /// Takes what `source` says, as far as neither it nor a source before it has said it, and returns what was not to be taken.
    #[must_use]
    pub fn offer(&mut self, source: Source, words: &[Word]) -> Vec<DiscoveryError> {
        let mut seen = BTreeSet::new();
        let refused = words.iter().filter_map(|word| self.offer_one(source, word, &mut seen).err());
        refused.collect()
    }

    fn offer_one(&mut self, source: Source, word: &Word, seen: &mut BTreeSet<Setting>) -> Result<(), DiscoveryError> {
        let setting = word.setting().ok_or_else(|| DiscoveryError::Unknown { by: source, key: word.shown_key() })?;
        if !seen.insert(setting) {
            return Err(DiscoveryError::Twice { by: source, setting });
        }
        if setting.rule(source) == Rule::Never {
            return Err(DiscoveryError::NotAllowed { by: source, setting });
        }
        let value = |problem| DiscoveryError::Value { by: source, setting, problem };
        let (site, host) = self.with(setting, word.text().map_err(value)?).map_err(value)?;
        if self.is_open(setting, source) {
            (self.site, self.host) = (site, host);
            self.sources.insert(setting, source);
        }
        Ok(())
    }

    /// Whether site config and sources before it leave `setting` to `source`.
    fn is_open(&self, setting: Setting, source: Source) -> bool {
        if self.sources.get(&setting).is_some_and(|known| *known <= source) {
            return false;
        }
        let may = source == Source::Dhcp && self.site.dhcp_may_set.contains(&setting);
        match setting.rule(source) {
            Rule::Always => true,
            Rule::IfLeftOut => may || !self.given.contains(&setting),
            Rule::Never => false,
        }
    }

    /// Site config and host with a setting made `text`; else what is wrong with it.
    fn with(&self, setting: Setting, text: &str) -> Result<(Site, Option<HostKey>), String> {
        let (mut site, mut host) = (self.site.clone(), self.host.clone());
        match setting {
            Setting::Repository if text.is_empty() => return Err("is empty".into()),
            Setting::Repository => text.clone_into(&mut site.repository),
            Setting::Mirrors => site.mirrors = text.split_ascii_whitespace().map(str::to_owned).collect(),
            Setting::ReportUrl => site.report_url = Some(text.to_owned()),
            Setting::Host => host = Some(text.parse::<HostKey>().map_err(|error| format!("cannot be taken: {error}"))?),
            Setting::Connections => site.connections = number(text)?,
            Setting::NetworkTimeout => site.network_timeout = number(text)?,
            Setting::RebootOnFailureAfter if text == NEVER => site.reboot_on_failure_after = None,
            Setting::RebootOnFailureAfter => site.reboot_on_failure_after = Some(number(text)?),
        }
        match site.check() {
            Ok(()) => Ok((site, host)),
            Err(DocumentError::Value { problem, .. }) => Err(problem),
            Err(other) => Err(other.to_string()),
        }
    }

    /// The settings, when every source has been looked at.
    #[must_use]
    pub fn finish(self) -> Settings {
        Settings { chosen: self.chosen(), site: self.site, host: self.host }
    }

    /// Every setting that has a value so far, with its source.
    #[must_use]
    pub fn chosen(&self) -> Vec<Chosen> {
        let entry = |setting: &Setting| {
            let source = self.sources.get(setting).copied().unwrap_or(Source::SiteConfig);
            let value = self.value(*setting).filter(|value| !value.is_empty())?;
            let medium = self.medium.clone().filter(|_| source == Source::Medium);
            Some(Chosen { setting: *setting, value, source, medium })
        };
        Setting::ALL.iter().filter_map(entry).collect()
    }

    fn value(&self, setting: Setting) -> Option<String> {
        let site = &self.site;
        match setting {
            Setting::Repository => Some(site.repository.clone()),
            Setting::Mirrors => Some(site.mirrors.join(" ")),
            Setting::ReportUrl => site.report_url.clone(),
            Setting::Host => self.host.as_ref().map(ToString::to_string),
            Setting::Connections => Some(site.connections.to_string()),
            Setting::NetworkTimeout => Some(site.network_timeout.to_string()),
            Setting::RebootOnFailureAfter => {
                Some(site.reboot_on_failure_after.map_or_else(|| NEVER.to_owned(), |seconds| seconds.to_string()))
            }
        }
    }
}

/// The repository that a site config names by itself or by what took its place.
///
/// # Errors
/// It names none.
pub fn repository(site: &Site) -> Result<&str, DiscoveryError> {
    Some(site.repository.as_str()).filter(|url| !url.is_empty()).ok_or(DiscoveryError::NoRepository)
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("is {:?}, not a number that can hold", word::cut(text)))
}
