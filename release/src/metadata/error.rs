//! Why metadata is refused, in the words of this project.

use super::source::BoxError;

/// Why a repository's metadata is refused.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// A file could not be had.
    #[error(transparent)]
    Source(BoxError),
    /// A file that must be there is not.
    #[error("the repository has no {path}, or does not give it out")]
    Absent {
        /// Its path.
        path: String,
    },
    /// Too few of the right keys have signed.
    #[error("{path} has {valid} valid signatures by keys that are trusted with it, but needs {needed}")]
    Signatures {
        /// The file.
        path: String,
        /// Those that count.
        valid: u64,
        /// The threshold.
        needed: u64,
    },
    /// Its time is over.
    #[error("the repository's {role} metadata expired at {expired}, and the clock shows {now}")]
    Expired {
        /// Whose.
        role: &'static str,
        /// When (RFC 3339).
        expired: String,
        /// What the clock shows.
        now: String,
    },
    /// Older than what was seen before.
    #[error("the repository's {role} metadata has version {found}, but version {known} was seen here before")]
    Rollback {
        /// Whose.
        role: &'static str,
        /// The version that is served.
        found: u64,
        /// The version that is remembered.
        known: u64,
    },
    /// The bytes of a file are not what the file before it says.
    #[error("{path} has SHA-256 {found}, but the metadata says {expected}")]
    Digest {
        /// The file.
        path: String,
        /// Its digest.
        found: String,
        /// The one it should have.
        expected: String,
    },
    /// Anything else that is wrong with a file.
    #[error("{path} is not valid: {problem}")]
    Invalid {
        /// The file that was read last.
        path: String,
        /// What is wrong.
        problem: String,
    },
}
