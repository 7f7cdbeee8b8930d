//! The timestamp: that a snapshot is the newest one.

use std::collections::HashMap;

use tough::schema::{KeyHolder, Metafile, RoleType, Signed, Timestamp};

use super::draft::version;
use super::{Draft, Lifetimes, SPEC_VERSION, SignError, Time, Written, after, bytes_of, check_at_hand, signed};
use crate::metadata::{DIRECTORY, PrivateKey};

/// What the timestamp calls the snapshot.
pub(super) const SNAPSHOT: &str = "snapshot.json";

impl Draft {
    /// Signs a new timestamp for the snapshot as it is, and nothing else: for a machine that has this one key.
    ///
    /// # Errors
    /// [`SignError::SnapshotEnds`]: clients would refuse the repository while its timestamp holds; too few keys of the role
    /// are at hand; the repository holds nothing yet.
    pub async fn sign_timestamp(
        &self,
        keys: &[PrivateKey],
        lifetimes: &Lifetimes,
        now: i64,
    ) -> Result<Written, SignError> {
        let (snapshot, ends) = self.latest.clone().ok_or(SignError::NoSnapshot)?;
        let expires = after(now, lifetimes.timestamp)?;
        if ends < expires {
            return Err(SignError::SnapshotEnds { snapshot: ends.to_string(), timestamp: expires.to_string() });
        }
        check_at_hand(&self.root, RoleType::Timestamp, keys)?;
        let timestamp = self.next_timestamp(snapshot, expires)?;
        let signed = signed(timestamp, &KeyHolder::Root(self.root.clone()), keys).await?;
        last(signed.signed())
    }

    /// The timestamp behind the one that is there.
    pub(super) fn next_timestamp(&self, snapshot: Metafile, expires: Time) -> Result<Timestamp, SignError> {
        let meta = HashMap::from([(SNAPSHOT.to_owned(), snapshot)]);
        Ok(Timestamp { meta, ..Timestamp::new(SPEC_VERSION.to_owned(), version(self.timestamp)?, expires) })
    }
}

/// The one file of metadata that replaces another.
pub(super) fn last(timestamp: &Signed<Timestamp>) -> Result<Written, SignError> {
    Ok(Written { path: format!("{DIRECTORY}/timestamp.json"), bytes: bytes_of(timestamp)? })
}
