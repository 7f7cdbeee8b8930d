//! What can be set from outside of the site config, who may set it, and the table of that.

use std::fmt;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// Where a setting can come from, in the order in which they are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The installer's own, `/proc/cmdline`.
    KernelCommandLine,
    /// Strings of SMBIOS structures of type 11.
    Smbios,
    /// The directory that the firmware has fetched the netboot image from.
    BootUrl,
    /// Options of a DHCP lease.
    Dhcp,
    /// A labelled file system on USB, a removable disk or in an optical drive.
    Medium,
    /// Baked into the netboot image.
    SiteConfig,
}

/// Who may set a setting, and over what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Over the site config.
    Always,
    /// Only what the site config leaves out; DHCP also what it names in `dhcp_may_set`.
    IfLeftOut,
    /// Not at all.
    Never,
}

/// What can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// HTTPS URL of the repository.
    Repository,
    /// HTTPS URLs of mirrors, separated by spaces.
    Mirrors,
    /// HTTPS URL that events are posted to.
    ReportUrl,
    /// Key of the host config that the machine takes, whatever it says of itself.
    Host,
    /// Connections at once.
    Connections,
    /// Seconds to wait for a network.
    NetworkTimeout,
    /// Seconds after which a failed installation reboots, or `never`.
    RebootOnFailureAfter,
}

impl Setting {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Repository,
        Self::Mirrors,
        Self::ReportUrl,
        Self::Host,
        Self::Connections,
        Self::NetworkTimeout,
        Self::RebootOnFailureAfter,
    ];

    /// Its name, as in the site config.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Repository => "repository",
            Self::Mirrors => "mirrors",
            Self::ReportUrl => "report_url",
            Self::Host => "host",
            Self::Connections => "connections",
            Self::NetworkTimeout => "network_timeout",
            Self::RebootOnFailureAfter => "reboot_on_failure_after",
        }
    }

    /// Whether `source` may set it.
    ///
    /// Whoever gives a machine its command line or its SMBIOS strings (its firmware, its BMC, the host of a virtual one), or a
    /// medium (who stands before it, or its BMC), controls what it boots, and may choose among what the site config trusts. The
    /// network may only fill a gap: where to fetch what is signed. It has no say in which host config a machine gets, since that
    /// of another machine may wipe its disk, nor in who hears of the installation.
    #[must_use]
    pub fn rule(self, source: Source) -> Rule {
        match (self, source) {
            (_, Source::KernelCommandLine | Source::Smbios | Source::Medium) => Rule::Always,
            (Self::Repository, Source::BootUrl | Source::Dhcp) | (Self::Mirrors, Source::Dhcp) => Rule::IfLeftOut,
            (_, Source::BootUrl | Source::Dhcp) => Rule::Never,
            // A site config is that of many machines.
            (Self::Host, Source::SiteConfig) => Rule::Never,
            (_, Source::SiteConfig) => Rule::Always,
        }
    }
}

impl Source {
    /// All of them, in their order.
    pub const ALL: [Self; 6] =
        [Self::KernelCommandLine, Self::Smbios, Self::BootUrl, Self::Dhcp, Self::Medium, Self::SiteConfig];
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Source {
    /// As in a sentence.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KernelCommandLine => "kernel command line",
            Self::Smbios => "SMBIOS table",
            Self::BootUrl => "boot URL",
            Self::Dhcp => "DHCP server",
            Self::Medium => "labelled medium",
            Self::SiteConfig => "site config",
        })
    }
}

/// The settings with their prefix, for a message.
pub(super) fn names() -> String {
    Setting::ALL.map(|setting| format!("{}{setting}", super::PREFIX)).join(", ")
}

/// Who may set what, as a Markdown table. The trust anchors stand in it to say that nobody may.
#[must_use]
pub fn table() -> String {
    let mut text = "| Setting | Kernel command line, SMBIOS | Boot URL | DHCP | Labelled medium | Site config |\n\
                    |---|---|---|---|---|---|\n"
        .to_owned();
    let columns = [Source::KernelCommandLine, Source::BootUrl, Source::Dhcp, Source::Medium, Source::SiteConfig];
    for setting in Setting::ALL {
        let cells = columns.map(|source| match (setting.rule(source), source) {
            (Rule::Always, _) => "yes",
            (Rule::IfLeftOut, Source::Dhcp) => "if left out or allowed",
            (Rule::IfLeftOut, _) => "if left out",
            (Rule::Never, _) => "no",
        });
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| `{setting}` | {} |", cells.join(" | "));
    }
    text + "| `root`, `ca`, and all other settings of the site config | no | no | no | no | yes |\n"
}
