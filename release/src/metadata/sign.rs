//! Making metadata: the root of a new repository and its successors, and drafts of the other roles. Only bytes are
//! made here; in which order they are written, see [`Draft::sign`]. What is signed elsewhere goes from signer to signer as
//! [`Staged`].

use std::collections::HashMap;
use std::num::NonZeroU64;

use aws_lc_rs::rand::SystemRandom;
use jiff::Timestamp as Time;
use serde::Serialize;
use serde_json::Value;
use tough::editor::signed::SignedRole;
use tough::key_source::KeySource;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::{DelegatedRole, Delegations, KeyHolder, PathPattern, PathSet, Role, RoleType, Root, Signed};

use super::{DIRECTORY, HOST_PATTERN, HOSTS, PrivateKey, PublicKey, RoleName, TrustedRoot};

mod draft;
mod quorum;
mod roots;
mod sealing;
mod signers;
mod staged;
mod staging;
mod timestamp;

pub use draft::Draft;
pub use quorum::Quorum;
pub use roots::{new_root, next_root, stage_root};
pub use staged::{RootRole, Staged};

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
    /// Not the public half of one.
    #[error("this is no public key of Ed25519 or P-256 in PEM, as `openssl pkey -pubout` writes it")]
    NoPublicKey,
    /// A key that is elsewhere did not sign.
    #[error("{0}")]
    Elsewhere(String),
    /// A key that is elsewhere is another one by now.
    #[error("the signature by {place} is not by the key {id}: it is of another key by now")]
    OtherKey {
        /// Where it is.
        place: String,
        /// The id of the key that should have signed.
        id: String,
    },
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
    /// What was staged has not been signed by enough people.
    #[error("the staged {role} metadata has {valid} valid signatures by keys of {by}, but needs {needed}")]
    Unsigned {
        /// The role.
        role: RoleName,
        /// Who names the keys.
        by: &'static str,
        /// Signatures that count.
        valid: u64,
        /// Threshold.
        needed: u64,
    },
    /// What was staged is about another state than the one that is there.
    #[error("{0} since this was staged: stage it again")]
    MovedOn(String),
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

impl RoleSigners {
    /// What others may know of them.
    #[must_use]
    pub fn public(&self) -> PublicSigners {
        let keys = self.keys.iter().map(PrivateKey::public_key).collect();
        PublicSigners { keys, threshold: self.threshold }
    }
}

/// The public keys of one role, of which a threshold must sign.
#[derive(Debug, Clone)]
pub struct PublicSigners {
    /// The keys.
    pub keys: Vec<PublicKey>,
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
