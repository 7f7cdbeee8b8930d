//! The next state of a repository: what it holds now, and what is to be added.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tough::schema::{Delegations, Hashes, Metafile, Root, Target, Targets};
use tough::{ExpirationEnforcement, RepositoryLoader, TargetName};
use url::Url;

use super::timestamp::SNAPSHOT;
use super::{SPEC_VERSION, SignError, Time, Written, after, tough};
use crate::allowed;
use crate::digest::Digest;
use crate::metadata::load::{files, hosts_of};
use crate::metadata::source::Adapter;
use crate::metadata::{MetadataSource, RoleName, TargetFile, TrustedRoot, Versions};

/// The next state of a repository.
#[derive(Debug, Clone)]
pub struct Draft {
    pub(super) root: Root,
    /// Root metadata that the repository does not have yet, the newest first, and the root that it leads to.
    pub(super) adopted: Option<(Vec<Written>, Root)>,
    pub(super) targets: Targets,
    pub(super) hosts: Option<Targets>,
    /// What the snapshot says of the roles as they are.
    pub(super) meta: HashMap<String, Metafile>,
    pub(super) snapshot: u64,
    pub(super) timestamp: u64,
    /// What the timestamp says of the snapshot as it is, and when that expires.
    pub(super) latest: Option<(Metafile, Time)>,
    pub(super) targets_changed: bool,
    pub(super) hosts_changed: bool,
}

impl Draft {
    /// A repository with nothing in it, whose host configs the keys of `delegation` sign.
    ///
    /// # Errors
    /// `delegation` is not what [`super::delegation`] makes.
    pub fn new(root: &TrustedRoot, delegation: &Value) -> Result<Self, SignError> {
        let delegations: Delegations = serde_json::from_value(delegation.clone()).map_err(tough)?;
        // Version 0 cannot be said; signing makes it 1.
        let mut targets = Targets::new(SPEC_VERSION.to_owned(), NonZeroU64::MIN, after(0, 0)?);
        targets.delegations = Some(delegations);
        Ok(Self {
            root: root.root.clone(),
            adopted: None,
            targets,
            hosts: None,
            meta: HashMap::new(),
            snapshot: 0,
            timestamp: 0,
            latest: None,
            targets_changed: true,
            hosts_changed: false,
        })
    }

    /// The repository that `source` holds, checked up to `root` but for its expiry: that is what signing anew mends.
    ///
    /// # Errors
    /// Metadata that is damaged or signed by others.
    pub async fn open(root: &TrustedRoot, source: Arc<dyn MetadataSource>, scratch: &Path) -> Result<Self, SignError> {
        let adapter = Adapter::new(source);
        let loader = RepositoryLoader::new(
            &root.bytes,
            Url::parse("repository:/").map_err(tough)?,
            Url::parse("targets:/").map_err(tough)?,
        );
        let loading = loader
            .transport(adapter.clone())
            .datastore(scratch)
            .expiration_enforcement(ExpirationEnforcement::Unsafe)
            .load();
        let repository = loading.await.map_err(|error| adapter.explain(&error))?;
        let targets = repository.targets().signed.clone();
        let latest = repository.timestamp().signed.meta.get(SNAPSHOT).cloned();
        Ok(Self {
            root: repository.root().signed.clone(),
            adopted: None,
            hosts: hosts_of(&targets).cloned(),
            targets,
            meta: repository.snapshot().signed.meta.clone(),
            snapshot: repository.snapshot().signed.version.get(),
            timestamp: repository.timestamp().signed.version.get(),
            latest: latest.map(|meta| (meta, repository.snapshot().signed.expires)),
            targets_changed: false,
            hosts_changed: false,
        })
    }

    /// Adds a release's manifest by name, size and digest. True: it was not there yet.
    ///
    /// # Errors
    /// It is there with another digest.
    pub fn add_release(&mut self, name: &str, size: u64, sha256: Digest) -> Result<bool, SignError> {
        let key = TargetName::new(name).map_err(tough)?;
        if let Some(there) = self.targets.targets.get(&key) {
            let same = there.hashes.sha256.to_vec() == sha256.0 && there.length == size;
            return if same { Ok(false) } else { Err(SignError::Published { name: name.to_owned() }) };
        }
        self.targets.add_target(key, target(size, sha256));
        self.targets_changed = true;
        Ok(true)
    }

    /// Adds or replaces the list of the releases that host configs may name. True: it was not so yet.
    ///
    /// # Errors
    /// None that occur.
    pub fn set_allowed(&mut self, size: u64, sha256: Digest) -> Result<bool, SignError> {
        let key = TargetName::new(allowed::TARGET).map_err(tough)?;
        let wanted = target(size, sha256);
        if self.targets.targets.get(&key) == Some(&wanted) {
            return Ok(false);
        }
        self.targets.add_target(key, wanted);
        self.targets_changed = true;
        Ok(true)
    }

    /// Adds or replaces a host config by name, size and digest. True: it was not so yet.
    ///
    /// # Errors
    /// A name that the role `hosts` may not sign.
    pub fn set_host(&mut self, name: &str, size: u64, sha256: Digest) -> Result<bool, SignError> {
        let key = TargetName::new(name).map_err(tough)?;
        if !name.starts_with("host-") || !name.ends_with(".json") {
            return Err(tough(format!("{name} is no name of a host config")));
        }
        let hosts = match &mut self.hosts {
            Some(hosts) => hosts,
            none => {
                let mut hosts = Targets::new(SPEC_VERSION.to_owned(), NonZeroU64::MIN, after(0, 0)?);
                hosts.delegations = None;
                none.insert(hosts)
            }
        };
        let wanted = target(size, sha256);
        if hosts.targets.get(&key) == Some(&wanted) {
            return Ok(false);
        }
        hosts.add_target(key, wanted);
        self.hosts_changed = true;
        Ok(true)
    }

    /// Takes a host config out. False: it was not there.
    pub fn remove_host(&mut self, name: &str) -> bool {
        let Ok(key) = TargetName::new(name) else { return false };
        let removed = self.hosts.as_mut().is_some_and(|hosts| hosts.remove_target(&key).is_some());
        self.hosts_changed |= removed;
        removed
    }

    /// Signs releases anew though none was added, for a longer life or other keys; with `delegation`, by whom host
    /// configs are signed from now on.
    ///
    /// # Errors
    /// `delegation` is not what [`super::delegation`] makes.
    pub fn renew_targets(&mut self, delegation: Option<&Value>) -> Result<(), SignError> {
        self.targets_changed = true;
        if let Some(delegation) = delegation {
            self.targets.delegations = Some(serde_json::from_value(delegation.clone()).map_err(tough)?);
            // The old signatures do not count any more.
            self.hosts_changed = self.hosts.is_some();
        }
        Ok(())
    }

    /// Signs host configs anew though none was changed.
    pub fn renew_hosts(&mut self) {
        self.hosts_changed = self.hosts.is_some();
    }

    /// Makes `newest` the repository's root, with whatever root metadata leads to it: `roots`, in any order. Releases
    /// are signed anew, by its keys.
    pub fn adopt(&mut self, mut roots: Vec<Written>, newest: &TrustedRoot) {
        // A client climbs from version to version: what is missing at the bottom hides what is above.
        roots.reverse();
        self.adopted = Some((roots, newest.root.clone()));
        self.targets_changed = true;
    }

    /// The versions of the state that was opened, as a machine with `trusted` in its site config would remember them.
    #[must_use]
    pub fn versions(&self, trusted: &TrustedRoot) -> Versions {
        let (targets, hosts) = (self.version(RoleName::Targets), self.version(RoleName::Hosts));
        Versions::of(&trusted.root, &self.root, [self.timestamp, self.snapshot, targets, hosts])
    }

    /// Whether anything but a fresh timestamp would come of signing.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.targets_changed || self.hosts_changed
    }

    /// The roles that signing would sign.
    #[must_use]
    pub fn to_be_signed(&self) -> Vec<RoleName> {
        let roles = [
            (RoleName::Targets, self.targets_changed),
            (RoleName::Hosts, self.hosts_changed),
            (RoleName::Snapshot, true),
            (RoleName::Timestamp, true),
        ];
        roles.into_iter().filter(|(_, signs)| *signs).map(|(role, _)| role).collect()
    }

    /// Version of the repository's root metadata, as it is.
    #[must_use]
    pub fn root_version(&self) -> u64 {
        self.root.version.get()
    }

    /// Whether host configs are signed by the keys of `delegation`.
    ///
    /// # Errors
    /// None that occur.
    pub fn delegates_to(&self, delegation: &Value) -> Result<bool, SignError> {
        Ok(serde_json::to_value(&self.targets.delegations).map_err(tough)? == *delegation)
    }

    /// Until when releases, host configs (if there are any) and the root hold, as they are: seconds since 1970.
    #[must_use]
    pub fn expires(&self) -> Vec<(RoleName, i64)> {
        let root = self.adopted.as_ref().map_or(&self.root, |(_, root)| root);
        let mut expires =
            vec![(RoleName::Root, root.expires.as_second()), (RoleName::Targets, self.targets.expires.as_second())];
        expires.extend(self.hosts.as_ref().map(|hosts| (RoleName::Hosts, hosts.expires.as_second())));
        expires
    }

    /// The releases, by the name of their manifest.
    ///
    /// # Errors
    /// A name or digest that cannot be.
    pub fn releases(&self) -> Result<BTreeMap<String, TargetFile>, SignError> {
        let mut releases = files(RoleName::Targets, &self.targets.targets)?;
        releases.remove(allowed::TARGET);
        Ok(releases)
    }

    /// The list of the releases that host configs may name, if there is one.
    ///
    /// # Errors
    /// A name or digest that cannot be.
    pub fn allowed(&self) -> Result<Option<TargetFile>, SignError> {
        Ok(files(RoleName::Targets, &self.targets.targets)?.remove(allowed::TARGET))
    }

    /// The host configs, by their name.
    ///
    /// # Errors
    /// A name or digest that cannot be.
    pub fn hosts(&self) -> Result<BTreeMap<String, TargetFile>, SignError> {
        let hosts = self.hosts.as_ref().map(|hosts| files(RoleName::Hosts, &hosts.targets));
        Ok(hosts.unwrap_or_else(|| Ok(BTreeMap::new()))?)
    }

    /// The version behind the one that the snapshot has of a role.
    pub(super) fn next(&self, role: RoleName) -> Result<NonZeroU64, SignError> {
        version(self.version(role))
    }

    /// The version that the snapshot has of a role; 0: none.
    pub(super) fn version(&self, role: RoleName) -> u64 {
        self.meta.get(&format!("{role}.json")).map_or(0, |meta| meta.version.get())
    }
}

/// The number behind `last`.
pub(super) fn version(last: u64) -> Result<NonZeroU64, SignError> {
    last.checked_add(1).and_then(NonZeroU64::new).ok_or_else(|| tough("no version is left"))
}

fn target(size: u64, sha256: Digest) -> Target {
    let hashes = Hashes { sha256: sha256.0.to_vec().into(), _extra: HashMap::new() };
    Target { length: size, hashes, custom: HashMap::new(), _extra: HashMap::new() }
}
