//! What a release is: its manifest, the payload format, the verity tree, the sections of a UKI and what they make of
//! PCR 11; what vouches for it: site config, repository metadata and host config; and what a machine's event logs say of it.
//!
//! Shared by the installer, the operator's command and the tests. It reads and writes through `std::io` traits
//! only: where bytes come from and where they go is the caller's policy.

pub mod allowed;
pub mod attest;
pub mod digest;
pub mod discovery;
pub mod document;
pub mod eventlog;
pub mod host;
pub mod manifest;
pub mod metadata;
pub mod os_release;
pub mod payload;
mod payload_frames;
mod payload_writer;
pub mod pcr;
#[cfg(feature = "schema")]
pub mod schema;
pub mod secure_boot;
pub mod seek_table;
pub mod site;
mod sys;
pub mod tpm2;
pub mod uki;
mod utf16;
pub mod verity;
pub mod version;
