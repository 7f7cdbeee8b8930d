//! What the installer has measured, as its records have it. That something was measured is proved, by its digest; that nothing
//! else of its kind was is not: a name is no part of what is measured, and who can alter the log can call another one something
//! else.

use super::super::{Finding, Outcome};
use super::logs::Logs;
use crate::digest::Digest;
use crate::document::DocumentError;
use crate::eventlog::userspace::Record;
use crate::manifest::Manifest;
use crate::pcr::BankDigest;

/// What no digest tells.
const NO_OTHER: &str = "that nothing else was in its place is only what the log says";

/// The release that is expected.
#[derive(Debug, Clone)]
pub struct Release {
    pub(super) manifest: Vec<u8>,
    pub(super) name: String,
    pub(super) root_hash: Digest,
    pub(super) uki: Digest,
}

impl Release {
    /// From its manifest.
    ///
    /// # Errors
    /// It is none.
    pub fn of_manifest(bytes: Vec<u8>) -> Result<Self, DocumentError> {
        let manifest = Manifest::parse(&bytes)?;
        let (root_hash, uki) = (manifest.root()?.root_hash, manifest.boot.uki.sha256);
        Ok(Self { name: format!("{} {}", manifest.name, manifest.version), root_hash, uki, manifest: bytes })
    }
}

/// How the records that the log calls by one name stand to what is expected.
enum Stand {
    /// There is none.
    Absent,
    /// All are of it, so that it was measured.
    Same,
    /// One is of something else.
    Other,
}

fn stand(records: &[&Record], input: &str, bytes: &[u8]) -> Stand {
    // Whoever sends thousands of them does not have the bytes hashed thousands of times.
    let mut known: Vec<&[BankDigest]> = Vec::new();
    for record in records.iter().filter(|record| record.input() == Some(input)) {
        let digests = record.digests.as_slice();
        if known.contains(&digests) {
            continue;
        }
        if !record.is_of(bytes) {
            return Stand::Other;
        }
        known.push(digests);
    }
    if known.is_empty() { Stand::Absent } else { Stand::Same }
}

/// What `logs` say of the release.
pub(super) fn release(logs: &Logs, expected: Option<&Release>) -> Finding {
    let finding = |outcome, text: String| Finding::new("release", outcome, text);
    let (Release { manifest, name, root_hash, uki }, records) = match (expected, logs.proved()) {
        (None, _) => return finding(Outcome::Unknown, "none was expected".to_owned()),
        (_, None) => return finding(Outcome::Unknown, "the userspace log is not proved".to_owned()),
        (Some(release), Some(records)) => (release, records),
    };
    match stand(&records, "manifest", manifest) {
        Stand::Absent => return finding(Outcome::Refuted, "no manifest was measured".to_owned()),
        Stand::Other => return finding(Outcome::Refuted, format!("another manifest than that of {name} was measured")),
        Stand::Same => (),
    }
    let results = [("root-hash", root_hash.to_string()), ("uki", uki.to_string())];
    for (input, expected) in results {
        match stand(&records, input, expected.as_bytes()) {
            Stand::Same => (),
            Stand::Other => return finding(Outcome::Refuted, format!("the {input} is not that of {name}")),
            Stand::Absent => {
                let text = format!(
                    "the manifest is that of {name}, but no {input} was measured: it was not installed to the end"
                );
                return finding(Outcome::Unknown, text);
            }
        }
    }
    let text = format!("manifest, root hash and UKI of {name} were measured; {NO_OTHER}");
    finding(Outcome::Proved, text)
}

/// What `logs` say of the host config.
pub(super) fn host_config(logs: &Logs, expected: Option<&[u8]>) -> Finding {
    let finding = |outcome, text: String| Finding::new("host-config", outcome, text);
    let (expected, records) = match (expected, logs.proved()) {
        (None, _) => return finding(Outcome::Unknown, "none was expected".to_owned()),
        (_, None) => return finding(Outcome::Unknown, "the userspace log is not proved".to_owned()),
        (Some(expected), Some(records)) => (expected, records),
    };
    match stand(&records, "host-config", expected) {
        Stand::Same => finding(Outcome::Proved, format!("it was measured; {NO_OTHER}")),
        Stand::Other => finding(Outcome::Refuted, "another one was measured".to_owned()),
        Stand::Absent => {
            finding(Outcome::Refuted, "none was measured: the machine went by a group's, or by none".to_owned())
        }
    }
}
