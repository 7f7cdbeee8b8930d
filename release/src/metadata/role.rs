//! The names of the roles.

use std::fmt;
use std::str::FromStr;

use tough::schema::RoleType;

/// A role: what its keys are trusted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleName {
    /// Names the keys of the others.
    Root,
    /// Signs releases.
    Targets,
    /// Signs which versions of the others belong together.
    Snapshot,
    /// Signs that this is the newest state.
    Timestamp,
    /// Signs host configs.
    Hosts,
}

impl RoleName {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Root, Self::Targets, Self::Snapshot, Self::Timestamp, Self::Hosts];

    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Targets => "targets",
            Self::Snapshot => "snapshot",
            Self::Timestamp => "timestamp",
            Self::Hosts => super::HOSTS,
        }
    }

    /// The same for tough, where root metadata names its keys.
    pub(super) fn of_root(self) -> Option<RoleType> {
        match self {
            Self::Root => Some(RoleType::Root),
            Self::Targets => Some(RoleType::Targets),
            Self::Snapshot => Some(RoleType::Snapshot),
            Self::Timestamp => Some(RoleType::Timestamp),
            Self::Hosts => None,
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no name of a role.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a role: root, targets, snapshot, timestamp or hosts")]
pub struct NotARole;

impl FromStr for RoleName {
    type Err = NotARole;

    fn from_str(text: &str) -> Result<Self, NotARole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(NotARole)
    }
}
