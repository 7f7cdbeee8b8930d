//! The next state of a repository: what it holds now, and what is to be added.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tough::schema::{
    DelegatedRole, DelegatedTargets, Delegations, Hashes, KeyHolder, Metafile, PathPattern, PathSet, Role, Root,
    Signed, Snapshot, Target, Targets, Timestamp,
};
use tough::{ExpirationEnforcement, RepositoryLoader, TargetName};
use url::Url;

use super::{Lifetimes, RoleSigners, SPEC_VERSION, SignError, Written, after, bytes_of, signed, tough, written};
use crate::digest::Digest;
use crate::metadata::load::hosts_of;
use crate::metadata::source::Adapter;
use crate::metadata::{DIRECTORY, HOST_PATTERN, HOSTS, MetadataSource, PrivateKey, TrustedRoot};

/// The next state of a repository.
#[derive(Debug, Clone)]
pub struct Draft {
    root: Root,
    targets: Targets,
    hosts: Option<Targets>,
    /// What the snapshot says of the roles as they are.
    meta: HashMap<String, Metafile>,
    snapshot: u64,
    timestamp: u64,
    targets_changed: bool,
    hosts_changed: bool,
}

impl Draft {
    /// A repository with nothing in it, whose host configs the keys of `delegation` sign.
    ///
    /// # Errors
    /// `delegation` is not what [`super::Keyring::delegation`] makes.
    pub fn new(root: &TrustedRoot, delegation: &Value) -> Result<Self, SignError> {
        let delegations: Delegations = serde_json::from_value(delegation.clone()).map_err(tough)?;
        // Version 0 cannot be said; signing makes it 1.
        let mut targets = Targets::new(SPEC_VERSION.to_owned(), NonZeroU64::MIN, after(0, 0)?);
        targets.delegations = Some(delegations);
        Ok(Self {
            root: root.root.clone(),
            targets,
            hosts: None,
            meta: HashMap::new(),
            snapshot: 0,
            timestamp: 0,
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
        Ok(Self {
            root: repository.root().signed.clone(),
            hosts: hosts_of(&targets).cloned(),
            targets,
            meta: repository.snapshot().signed.meta.clone(),
            snapshot: repository.snapshot().signed.version.get(),
            timestamp: repository.timestamp().signed.version.get(),
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
    /// `delegation` is not what [`super::Keyring::delegation`] makes.
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

    /// Whether anything but a fresh timestamp would come of signing.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.targets_changed || self.hosts_changed
    }

    /// Signs what has changed, and snapshot and timestamp anew. The files are in the order in which they must be
    /// written: each is reached only through those behind it, and the last one, `timestamp.json`, is the only one that
    /// replaces another.
    ///
    /// # Errors
    /// The keys at hand are too few.
    pub async fn sign(
        mut self,
        keys: &[PrivateKey],
        lifetimes: &Lifetimes,
        now: i64,
    ) -> Result<Vec<Written>, SignError> {
        let mut files = Vec::new();
        if self.targets_changed {
            let mut targets = self.targets.clone();
            targets.version = self.next("targets.json")?;
            targets.expires = after(now, lifetimes.targets)?;
            let holder = self.holder_of_root("targets", keys)?;
            self.push(&mut files, "targets.json", signed(targets, &holder, keys).await?.signed())?;
        }
        if let Some(mut hosts) = self.hosts.clone().filter(|_| self.hosts_changed) {
            hosts.version = self.next("hosts.json")?;
            hosts.expires = after(now, lifetimes.hosts)?;
            let delegations = self.targets.delegations.clone().ok_or_else(|| tough("nobody may sign host configs"))?;
            check_at_hand(HOSTS, &delegations.roles, keys)?;
            let role = DelegatedTargets { name: HOSTS.to_owned(), targets: hosts };
            let signed = signed(role, &KeyHolder::Delegations(delegations), keys).await?;
            self.push(&mut files, "hosts.json", signed.signed())?;
        }
        let expires = after(now, lifetimes.online)?;
        let mut snapshot = Snapshot::new(SPEC_VERSION.to_owned(), version(self.snapshot)?, expires);
        snapshot.meta.clone_from(&self.meta);
        let holder = self.holder_of_root("snapshot", keys)?;
        let snapshot = signed(snapshot, &holder, keys).await?;
        let mut timestamp = Timestamp::new(SPEC_VERSION.to_owned(), version(self.timestamp)?, expires);
        timestamp.meta.insert("snapshot.json".to_owned(), metafile(snapshot.signed())?);
        files.push(written(snapshot.signed())?);
        let holder = self.holder_of_root("timestamp", keys)?;
        let timestamp = signed(timestamp, &holder, keys).await?;
        files.push(Written { path: format!("{DIRECTORY}/timestamp.json"), bytes: bytes_of(timestamp.signed())? });
        Ok(files)
    }

    fn push<T: Role>(&mut self, files: &mut Vec<Written>, name: &str, role: &Signed<T>) -> Result<(), SignError> {
        self.meta.insert(name.to_owned(), metafile(role)?);
        files.push(written(role)?);
        Ok(())
    }

    /// The version behind the one that the snapshot has of `file`.
    fn next(&self, file: &str) -> Result<NonZeroU64, SignError> {
        version(self.meta.get(file).map_or(0, |meta| meta.version.get()))
    }

    /// The root as holder of a role's keys, if enough of them are at hand.
    fn holder_of_root(&self, role: &str, keys: &[PrivateKey]) -> Result<KeyHolder, SignError> {
        let found = self.root.roles.iter().find(|(kind, _)| kind.to_string() == role).map(|(_, keys)| keys);
        let found = found.ok_or_else(|| tough(format!("the root names no keys for {role}")))?;
        let at_hand = keys.iter().filter(|key| found.keyids.contains(&key.public().0)).count() as u64;
        if at_hand < found.threshold.get() {
            return Err(SignError::KeysMissing { role: role.to_owned(), needed: found.threshold.get(), at_hand });
        }
        Ok(KeyHolder::Root(self.root.clone()))
    }
}

fn check_at_hand(role: &str, roles: &[DelegatedRole], keys: &[PrivateKey]) -> Result<(), SignError> {
    let Some(found) = roles.iter().find(|delegated| delegated.name == role) else {
        return Err(tough(format!("nobody may sign {role}")));
    };
    let at_hand = keys.iter().filter(|key| found.keyids.contains(&key.public().0)).count() as u64;
    if at_hand < found.threshold.get() {
        return Err(SignError::KeysMissing { role: role.to_owned(), needed: found.threshold.get(), at_hand });
    }
    Ok(())
}

/// The number behind `last`.
fn version(last: u64) -> Result<NonZeroU64, SignError> {
    last.checked_add(1).and_then(NonZeroU64::new).ok_or_else(|| tough("no version is left"))
}

fn target(size: u64, sha256: Digest) -> Target {
    let hashes = Hashes { sha256: sha256.0.to_vec().into(), _extra: HashMap::new() };
    Target { length: size, hashes, custom: HashMap::new(), _extra: HashMap::new() }
}

fn metafile<T: Role>(role: &Signed<T>) -> Result<Metafile, SignError> {
    let bytes = bytes_of(role)?;
    let hashes = Hashes { sha256: Digest::of(&bytes).0.to_vec().into(), _extra: HashMap::new() };
    Ok(Metafile {
        length: Some(bytes.len() as u64),
        hashes: Some(hashes),
        version: role.signed.version(),
        _extra: HashMap::new(),
    })
}

/// The delegation of host configs to `signers`, as JSON.
pub(super) fn delegation(signers: &RoleSigners) -> Result<Value, SignError> {
    let (keyids, keys): (Vec<_>, HashMap<_, _>) = signers.keys.iter().map(|key| (key.public().0, key.public())).unzip();
    let role = DelegatedRole {
        name: HOSTS.to_owned(),
        keyids,
        threshold: signers.threshold,
        paths: PathSet::Paths(vec![PathPattern::new(HOST_PATTERN).map_err(tough)?]),
        terminating: true,
        targets: None,
    };
    serde_json::to_value(Delegations { keys, roles: vec![role] }).map_err(tough)
}
