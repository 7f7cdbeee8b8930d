//! What a machine remembers of a repository: the versions of its metadata, so that nobody can serve it an older state.
//! Never a time: a boot with a clock that is wrong must not keep every later one from working.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tough::schema::{RoleType, Root};

use super::MetadataError;
use crate::digest::Digest;
use crate::document::{DocumentError, Kind};

/// No such memory is longer.
const KIND: Kind = Kind { name: "memory of metadata versions", max_bytes: 4096 };

/// Versions of the metadata that a machine has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// Format: 1.
    pub format: u32,
    /// Digest of the ids of the keys that the trusted root names for the role `root`: which repository this is about.
    pub anchor: Digest,
    /// Version of the newest root.
    pub root: u64,
    /// Digest of the ids of the keys of `timestamp` and `snapshot`. Changing them is how a repository recovers when
    /// somebody with its keys has signed absurdly high versions (TUF 5.3.11).
    pub online_keys: Digest,
    /// Version of the timestamp metadata.
    pub timestamp: u64,
    /// Version of the snapshot metadata.
    pub snapshot: u64,
    /// Version of the targets metadata.
    pub targets: u64,
    /// Version of the hosts metadata; 0: none.
    pub hosts: u64,
}

impl Versions {
    /// Those below `root`, which was reached from `trusted`: of timestamp, snapshot, targets and hosts.
    pub(super) fn of(trusted: &Root, root: &Root, [timestamp, snapshot, targets, hosts]: [u64; 4]) -> Self {
        Self {
            format: crate::document::FORMAT,
            anchor: keys_of(trusted, &[RoleType::Root]),
            root: root.version.get(),
            online_keys: keys_of(root, &[RoleType::Timestamp, RoleType::Snapshot]),
            timestamp,
            snapshot,
            targets,
            hosts,
        }
    }

    /// Reads what [`Versions::to_bytes`] wrote.
    ///
    /// # Errors
    /// Names what is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let versions: Self = KIND.parse(bytes)?;
        KIND.check_format(versions.format)?;
        Ok(versions)
    }

    /// One line of JSON.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        // Numbers and texts only: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Whether a machine that remembers `known` may accept these.
    ///
    /// # Errors
    /// A role whose version is lower than the one remembered.
    pub fn check_against(&self, known: &Self) -> Result<(), MetadataError> {
        if self.anchor != known.anchor {
            return Ok(());
        }
        let online = [
            ("timestamp", self.timestamp, known.timestamp),
            ("snapshot", self.snapshot, known.snapshot),
            ("targets", self.targets, known.targets),
            ("hosts", self.hosts, known.hosts),
        ];
        let count = if self.online_keys == known.online_keys { online.len() } else { 0 };
        let root = [("root", self.root, known.root)];
        match root.iter().chain(online.iter().take(count)).find(|(_, found, known)| found < known) {
            Some(&(role, found, known)) => Err(MetadataError::Rollback { role, found, known }),
            None => Ok(()),
        }
    }
}

/// Digest of the ids of the keys that `root` names for `roles`.
fn keys_of(root: &Root, roles: &[RoleType]) -> Digest {
    let of_role = |role: &RoleType| root.roles.get(role).map(|keys| keys.keyids.clone()).unwrap_or_default();
    let ids: BTreeSet<(String, Vec<u8>)> = roles
        .iter()
        .flat_map(|role| of_role(role).into_iter().map(move |id| (role.to_string(), id.to_vec())))
        .collect();
    let text: Vec<u8> = ids.into_iter().flat_map(|(role, id)| [role.into_bytes(), id].concat()).collect();
    Digest::of(&text)
}
