//! Making metadata: the root of a new repository and its successors, and drafts of the other roles. Only bytes are
//! made here; in which order they are written, see [`Draft::sign`].

use std::collections::HashMap;
use std::num::NonZeroU64;

use aws_lc_rs::rand::SystemRandom;
use jiff::Timestamp as Time;
use serde::Serialize;
use serde_json::Value;
use tough::editor::signed::SignedRole;
use tough::key_source::KeySource;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::{
    DelegatedRole, Delegations, KeyHolder, PathPattern, PathSet, Role, RoleKeys, RoleType, Root, Signed,
};

use super::{DIRECTORY, HOST_PATTERN, HOSTS, PrivateKey, RoleName, TrustedRoot};

mod draft;
mod signers;
mod timestamp;

pub use draft::Draft;

pub(super) const SPEC_VERSION: &str = "1.0.0";
const DAY: i64 = 24 * 3600;

/// Why metadata cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// No random bytes.
    #[error("the system gave no random bytes for a key")]
    Random,
    /// Not a key of ours.
    #[error("this is no Ed25519 private key in PKCS#8 and PEM")]
    NoKey,
    /// The keys at hand are not enough.
    #[error("the role {role} must be signed by {needed} of its keys, and {at_hand} of them are at hand")]
    KeysMissing {
        /// The role.
        role: String,
        /// Threshold.
        needed: u64,
        /// Keys that are here.
        at_hand: u64,
    },
    /// A release or version that is there with other bytes.
    #[error("{name} is published already, with other content: a published version never changes")]
    Published {
        /// Name of the target.
        name: String,
    },
    /// A timestamp that would hold for longer than what it is about.
    #[error(
        "the repository's snapshot metadata expires at {snapshot}, before the new timestamp would, at {timestamp}: sign the \
         snapshot anew (`metalstrap refresh`), or let the timestamp hold for fewer days"
    )]
    SnapshotEnds {
        /// When the snapshot does (RFC 3339).
        snapshot: String,
        /// When the timestamp would (RFC 3339).
        timestamp: String,
    },
    /// There is no snapshot that a timestamp could be about.
    #[error("the repository has no snapshot metadata yet: publish a release first")]
    NoSnapshot,
    /// What is there cannot be read.
    #[error(transparent)]
    Metadata(#[from] super::MetadataError),
    /// A time that no calendar has.
    #[error("the expiry lies outside of what a date can be")]
    Time,
    /// tough's own.
    #[error("{0}")]
    Tough(String),
}

pub(super) fn tough(error: impl std::fmt::Display) -> SignError {
    SignError::Tough(error.to_string())
}

/// The keys of one role, of which a threshold must sign.
#[derive(Debug, Clone)]
pub struct RoleSigners {
    /// The keys.
    pub keys: Vec<PrivateKey>,
    /// How many of them must sign.
    pub threshold: NonZeroU64,
}

/// The keys of a repository.
#[derive(Debug, Clone)]
pub struct Keyring {
    /// Names the keys of all other roles.
    pub root: RoleSigners,
    /// Signs releases.
    pub targets: RoleSigners,
    /// Signs which versions of the others belong together.
    pub snapshot: RoleSigners,
    /// Signs, again and again, that this is the newest state.
    pub timestamp: RoleSigners,
    /// Signs host configs.
    pub hosts: RoleSigners,
}

/// Days that signatures of each role hold.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// Root metadata.
    pub root: u32,
    /// Releases.
    pub targets: u32,
    /// Host configs.
    pub hosts: u32,
    /// Snapshot.
    pub snapshot: u32,
    /// Timestamp: how long a mirror can serve an old state unnoticed.
    pub timestamp: u32,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { root: 730, targets: 365, hosts: 365, snapshot: 30, timestamp: 30 }
    }
}

/// A file of metadata, ready to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its path below the repository.
    pub path: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// `now` in seconds since 1970, plus days.
pub(super) fn after(now: i64, days: u32) -> Result<Time, SignError> {
    let seconds = now.checked_add(i64::from(days) * DAY).ok_or(SignError::Time)?;
    Time::from_second(seconds).map_err(|_| SignError::Time)
}

/// Signs `role` with those of `keys` that `holder` names for it.
pub(super) async fn signed<T: Role + Serialize>(
    role: T,
    holder: &KeyHolder,
    keys: &[PrivateKey],
) -> Result<SignedRole<T>, SignError> {
    let sources: Vec<Box<dyn KeySource>> = keys.iter().map(|key| Box::new(key.clone()) as Box<dyn KeySource>).collect();
    SignedRole::new(role, holder, &sources, &SystemRandom::new()).await.map_err(tough)
}

/// The bytes of signed metadata: the same for the same content.
pub(super) fn bytes_of<T: Serialize>(signed: &Signed<T>) -> Result<Vec<u8>, SignError> {
    // Through a value, whose maps are sorted.
    let mut bytes = serde_json::to_vec_pretty(&serde_json::to_value(signed).map_err(tough)?).map_err(tough)?;
    bytes.push(b'\n');
    Ok(bytes)
}

pub(super) fn written<T: Role + Serialize>(signed: &Signed<T>) -> Result<Written, SignError> {
    Ok(Written { path: format!("{DIRECTORY}/{}", signed.signed.filename(true)), bytes: bytes_of(signed)? })
}

/// Version 1 of the root metadata of a new repository.
///
/// # Errors
/// A threshold that its keys cannot reach.
pub async fn new_root(keyring: &Keyring, lifetimes: &Lifetimes, now: i64) -> Result<Written, SignError> {
    let mut root = Root {
        spec_version: SPEC_VERSION.to_owned(),
        consistent_snapshot: true,
        version: NonZeroU64::MIN,
        expires: after(now, lifetimes.root)?,
        keys: HashMap::new(),
        roles: HashMap::new(),
        _extra: HashMap::new(),
    };
    name_keys(&mut root, keyring)?;
    let signed = signed(root.clone(), &KeyHolder::Root(root.clone()), &keyring.root.keys).await?;
    root.verify_role(signed.signed()).map_err(tough)?;
    written(signed.signed())
}

/// The next version of the root metadata: the roles of `changes` have new keys, the others keep theirs. `root_keys`
/// sign it: those that the old root trusts, and those that the new one does.
///
/// # Errors
/// The keys at hand are too few for the old root, or for the new one; `changes` names `hosts`, whose keys stand in the
/// delegation.
pub async fn next_root(
    old: &TrustedRoot,
    changes: &[(RoleName, RoleSigners)],
    root_keys: &[PrivateKey],
    lifetimes: &Lifetimes,
    now: i64,
) -> Result<Written, SignError> {
    let mut root = old.root.clone();
    root.version = root.version.checked_add(1).ok_or_else(|| tough("no version is left"))?;
    root.expires = after(now, lifetimes.root)?;
    for (role, signers) in changes {
        let kind = role.of_root().ok_or_else(|| tough(format!("the root names no keys for {role}")))?;
        name_keys_of(&mut root, kind, signers)?;
    }
    let used: Vec<_> = root.roles.values().flat_map(|role| role.keyids.clone()).collect();
    root.keys.retain(|id, _| used.contains(id));
    check_at_hand(&old.root, RoleType::Root, root_keys)?;
    check_at_hand(&root, RoleType::Root, root_keys)?;
    let by_old = signed(root.clone(), &KeyHolder::Root(old.root.clone()), root_keys).await?;
    let by_new = signed(root.clone(), &KeyHolder::Root(root.clone()), root_keys).await?;
    let both = by_new.add_old_signatures(by_old.signed().signatures.clone()).map_err(tough)?;
    old.root.verify_role(both.signed()).map_err(tough)?;
    root.verify_role(both.signed()).map_err(tough)?;
    written(both.signed())
}

fn name_keys(root: &mut Root, keyring: &Keyring) -> Result<(), SignError> {
    for (kind, role) in [
        (RoleType::Root, &keyring.root),
        (RoleType::Targets, &keyring.targets),
        (RoleType::Snapshot, &keyring.snapshot),
        (RoleType::Timestamp, &keyring.timestamp),
    ] {
        name_keys_of(root, kind, role)?;
    }
    Ok(())
}

fn name_keys_of(root: &mut Root, kind: RoleType, signers: &RoleSigners) -> Result<(), SignError> {
    let (keyids, keys): (Vec<_>, Vec<_>) = signers.keys.iter().map(|key| (key.public().0, key.public())).unzip();
    let at_hand = keyids.len() as u64;
    if at_hand < signers.threshold.get() {
        return Err(SignError::KeysMissing { role: kind.to_string(), needed: signers.threshold.get(), at_hand });
    }
    root.keys.extend(keys);
    root.roles.insert(kind, RoleKeys { keyids, threshold: signers.threshold, _extra: HashMap::new() });
    Ok(())
}

/// Whether enough of the keys that `root` names for a role are among `keys`.
pub(super) fn check_at_hand(root: &Root, role: RoleType, keys: &[PrivateKey]) -> Result<(), SignError> {
    let found = root.roles.get(&role).ok_or_else(|| tough(format!("the root names no keys for {role}")))?;
    count_at_hand(&role.to_string(), &found.keyids, found.threshold, keys)
}

pub(super) fn count_at_hand(
    role: &str,
    keyids: &[Decoded<Hex>],
    threshold: NonZeroU64,
    keys: &[PrivateKey],
) -> Result<(), SignError> {
    let at_hand = keyids.iter().filter(|id| keys.iter().any(|key| key.public().0 == **id)).count() as u64;
    if at_hand < threshold.get() {
        return Err(SignError::KeysMissing { role: role.to_owned(), needed: threshold.get(), at_hand });
    }
    Ok(())
}

/// Who may sign host configs, as `targets` will say it: public keys only, so that a repository can be made without the
/// private ones.
///
/// # Errors
/// None that occur.
pub fn delegation(signers: &RoleSigners) -> Result<Value, SignError> {
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
