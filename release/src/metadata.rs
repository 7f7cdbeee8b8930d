//! The repository's metadata by The Update Framework (<https://theupdateframework.github.io/specification/latest/>):
//! which releases and host configs there are, by size and SHA-256. `tough` makes and judges signatures, thresholds and
//! key rotation; what is here says which roles there are, what their files are called, and what a refusal reads like.
//!
//! Roles: `root`, `targets` (releases), `snapshot`, `timestamp`, and `hosts`, to which `targets` delegates the names
//! `host-*.json` and nothing else.

use std::collections::BTreeMap;

use crate::digest::Digest;

mod error;
mod key;
mod load;
mod public;
mod record;
mod role;
mod sign;
mod source;
#[cfg(test)]
mod tests;
mod versions;

pub use error::MetadataError;
pub use key::{PrivateKey, Signer};
pub use load::Anchor;
pub use public::PublicKey;
pub use record::{RECORD_BYTES, RecordError};
pub use role::{NotARole, RoleName};
pub use sign::{
    Draft, Keyring, Lifetimes, PublicSigners, Quorum, RoleSigners, RootRole, SignError, Staged, Written, delegation,
    new_root, next_root, stage_root,
};
pub use source::{BoxError, Finding, MetadataSource};
pub use versions::Versions;

/// Directory of the metadata below the repository.
pub const DIRECTORY: &str = "metadata";
/// The delegated role that signs host configs.
pub const HOSTS: &str = "hosts";
/// What it may sign.
const HOST_PATTERN: &str = "host-*.json";
/// No metadata file is larger: enough for the host configs of a hundred thousand machines.
pub const MAX_BYTES: usize = 32 << 20;

/// The root metadata that a site config holds: whom to believe.
#[derive(Debug, Clone)]
pub struct TrustedRoot {
    bytes: Vec<u8>,
    root: tough::schema::Root,
}

/// A file that the metadata vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetFile {
    /// Its name in the metadata.
    pub name: String,
    /// Its path below the repository.
    pub path: String,
    /// Its bytes.
    pub size: u64,
    /// Its digest.
    pub sha256: Digest,
}

/// What a repository holds, checked up to the trusted root. Plain data: nothing is fetched any more.
#[derive(Debug, Clone)]
pub struct Metadata {
    /// Releases, by the name of their manifest.
    pub releases: BTreeMap<String, TargetFile>,
    /// The list of the releases that host configs may name, if `targets` has signed one.
    pub allowed: Option<TargetFile>,
    /// Host configs, by their name.
    pub hosts: BTreeMap<String, TargetFile>,
    /// What a machine remembers of it.
    pub versions: Versions,
    /// Role and second since 1970 of each expiry, the soonest first.
    pub expires: Vec<(&'static str, i64)>,
}
