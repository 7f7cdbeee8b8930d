//! Loading: from the trusted root to the lists of releases and host configs.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;
use tough::schema::{Root, Signed, Target, Targets};
use tough::{ExpirationEnforcement, Limits, RepositoryLoader, TargetName};
use url::Url;

use super::source::{Adapter, MetadataSource};
use super::versions::Versions;
use super::{HOSTS, MAX_BYTES, Metadata, MetadataError, RoleName, TargetFile, TrustedRoot};
use crate::allowed;
use crate::digest::Digest;

/// What metadata is judged by.
#[derive(Debug, Clone, Copy)]
pub struct Anchor<'a> {
    /// The root that is trusted.
    pub root: &'a TrustedRoot,
    /// What was accepted before, as each memory has it: nothing may be older than what any of them says.
    pub known: &'a [Versions],
    /// The clock, in seconds since 1970.
    pub now: i64,
}

impl TrustedRoot {
    /// Takes root metadata that its own keys have signed.
    ///
    /// # Errors
    /// It is no root metadata, or not signed so.
    pub fn parse(root: &Value) -> Result<Self, MetadataError> {
        let path = "the trusted root".to_owned();
        let invalid = |problem: String| MetadataError::Invalid { path: path.clone(), problem };
        let signed: Signed<Root> = serde_json::from_value(root.clone()).map_err(|error| invalid(error.to_string()))?;
        signed.signed.verify_role(&signed).map_err(|error| invalid(error.to_string()))?;
        let bytes = serde_json::to_vec(root).map_err(|error| invalid(error.to_string()))?;
        Ok(Self { bytes, root: signed.signed })
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.root.version.get()
    }

    /// Second since 1970 at which it expires.
    #[must_use]
    pub fn expires(&self) -> i64 {
        self.root.expires.as_second()
    }

    /// How many keys it names for a role, and how many of them must sign; `None` for `hosts`, which it does not name.
    #[must_use]
    pub fn signers(&self, role: RoleName) -> Option<(usize, u64)> {
        let keys = self.root.roles.get(&role.of_root()?)?;
        Some((keys.keyids.len(), keys.threshold.get()))
    }

    /// Fetches the repository's metadata and judges all of it: signatures, thresholds, rotation of keys, digests,
    /// expiry, and that nothing is older than what was accepted before. `scratch` is an empty directory that tough
    /// writes to; nothing in it is needed afterwards.
    ///
    /// # Errors
    /// The first thing that is wrong; nothing is trusted then.
    pub async fn load(
        source: Arc<dyn MetadataSource>,
        scratch: &Path,
        anchor: Anchor<'_>,
    ) -> Result<Metadata, MetadataError> {
        let adapter = Adapter::new(source);
        let base = |path: &str| {
            Url::parse(path)
                .map_err(|error| MetadataError::Invalid { path: path.to_owned(), problem: error.to_string() })
        };
        let limit = MAX_BYTES as u64;
        let limits = Limits { max_targets_size: limit, max_snapshot_size: limit, ..Limits::default() };
        let loader = RepositoryLoader::new(&anchor.root.bytes, base("repository:/")?, base("targets:/")?);
        let loading = loader
            .transport(adapter.clone())
            .limits(limits)
            .datastore(scratch)
            // Not switched off: judged below, by the clock that the caller gives and with the time in the message.
            .expiration_enforcement(ExpirationEnforcement::Unsafe)
            .load();
        let repository = loading.await.map_err(|error| adapter.explain(&error))?;
        let metadata = Metadata::collect(anchor.root, &repository)?;
        metadata.check_expiry(anchor.now)?;
        anchor.known.iter().try_for_each(|known| metadata.versions.check_against(known))?;
        Ok(metadata)
    }
}

impl Metadata {
    fn collect(trusted: &TrustedRoot, repository: &tough::Repository) -> Result<Self, MetadataError> {
        let (root, targets) = (&repository.root().signed, &repository.targets().signed);
        let (snapshot, timestamp) = (&repository.snapshot().signed, &repository.timestamp().signed);
        let hosts = hosts_of(targets);
        let mut expires = vec![
            ("root", root.expires),
            ("timestamp", timestamp.expires),
            ("snapshot", snapshot.expires),
            ("targets", targets.expires),
        ];
        expires.extend(hosts.map(|hosts| (HOSTS, hosts.expires)));
        expires.sort_by_key(|(_, at)| *at);
        let mut releases = files(RoleName::Targets, &targets.targets)?;
        let allowed = releases.remove(allowed::TARGET);
        Ok(Self {
            releases,
            allowed,
            hosts: hosts.map_or_else(|| Ok(BTreeMap::new()), |hosts| files(RoleName::Hosts, &hosts.targets))?,
            versions: Versions::of(
                &trusted.root,
                root,
                [
                    timestamp.version.get(),
                    snapshot.version.get(),
                    targets.version.get(),
                    hosts.map_or(0, |hosts| hosts.version.get()),
                ],
            ),
            expires: expires.into_iter().map(|(role, at)| (role, at.as_second())).collect(),
        })
    }

    /// TUF 5.3.10 and its like for every role: an expiry that is not in the future stops.
    pub(super) fn check_expiry(&self, now: i64) -> Result<(), MetadataError> {
        let text = |seconds| Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |at| at.to_string());
        match self.expires.iter().find(|(_, at)| *at <= now) {
            Some(&(role, at)) => Err(MetadataError::Expired { role, expired: text(at), now: text(now) }),
            None => Ok(()),
        }
    }
}

/// The metadata of the delegated role `hosts`, if the repository has it.
pub(super) fn hosts_of(targets: &Targets) -> Option<&Targets> {
    let role = targets.delegations.as_ref()?.roles.iter().find(|role| role.name == HOSTS)?;
    role.targets.as_ref().map(|signed| &signed.signed)
}

/// The entries of one role. Only what it lists itself counts: `hosts` cannot publish a release, whatever its name.
pub(super) fn files(
    role: RoleName,
    targets: &HashMap<TargetName, Target>,
) -> Result<BTreeMap<String, TargetFile>, MetadataError> {
    let file = |(name, target): (&TargetName, &Target)| {
        let name = name.raw().to_owned();
        let invalid = |problem: &str| MetadataError::Invalid {
            path: format!("the repository's {role} metadata"),
            problem: format!("{:?} {problem}", name.chars().take(80).collect::<String>()),
        };
        if name.starts_with('.') || name.bytes().any(|byte| byte == b'/' || !byte.is_ascii_graphic()) {
            return Err(invalid("is no name of a file"));
        }
        let sha256: [u8; 32] = target.hashes.sha256.to_vec().try_into().map_err(|_| invalid("has no SHA-256"))?;
        let sha256 = Digest(sha256);
        let path = format!("targets/{sha256}.{name}");
        Ok((name.clone(), TargetFile { name, path, size: target.length, sha256 }))
    };
    targets.iter().map(file).collect()
}
