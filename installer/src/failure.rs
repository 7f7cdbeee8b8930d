//! A failure a person meets: its code (docs/errors.md), what happened, what was not touched, what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What the person at the console reads, and what the last event of a failed run carries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Code, listed in docs/errors.md.
    pub code: Code,
    /// The step that failed.
    pub step: String,
    /// What happened: the whole chain of causes on one line.
    pub happened: String,
    /// What was not touched.
    pub untouched: String,
    /// What to do about it.
    pub advice: String,
}

/// The codes of docs/errors.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// A fault of the installer or of a kind that has no code yet.
    Internal,
    /// The installer process ended without an ending: killed, crashed or out of memory.
    InstallerDied,
    /// The site config in the netboot image cannot be used.
    SiteConfig,
    /// No network device has a driver, or none is there.
    NoNetworkDevice,
    /// No link or no address before the time ran out.
    NoNetwork,
    /// A host name could not be resolved.
    NameResolution,
    /// The repository could not be reached, or its server answered with an error.
    Repository,
    /// The server's certificate was refused.
    Certificate,
    /// The manifest is not the pinned one, or not one this installer takes.
    Manifest,
    /// A payload's bytes are not what the manifest says.
    Corrupt,
    /// No disk matches the selector.
    NoDisk,
    /// Several disks match the selector.
    SeveralDisks,
    /// The disk is too small for the layout.
    DiskTooSmall,
    /// The disk is mounted or held.
    DiskInUse,
    /// The disk is not blank and the site config does not permit wiping it.
    DiskNotBlank,
    /// Reading or writing the disk failed.
    DiskIo,
    /// A TPM is required and there is none, or it failed.
    Tpm,
    /// The kernel command line is longer than the kernel takes.
    CommandLine,
    /// The installed kernel could not be loaded or started.
    Handoff,
}

/// An error with its code: what [`anyhow::Error::downcast_ref`] finds below the context of a step.
#[derive(Debug)]
pub struct Coded {
    /// The code.
    pub code: Code,
    message: String,
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Coded {}

/// An error with a code and a message: `return Err(coded(Code::NoDisk, "…"))`.
pub fn coded(code: Code, message: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Coded { code, message: message.into() })
}

/// Adds a code and a message to an error: `.code(Code::DiskIo, || format!("reading {disk}"))`.
pub trait WithCode<T> {
    /// The message is context like any other; the outermost code of a chain is the one that counts.
    ///
    /// # Errors
    /// The error it was called on, with the context.
    fn code(self, code: Code, message: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithCode<T> for Result<T, E> {
    fn code(self, code: Code, message: impl FnOnce() -> String) -> anyhow::Result<T> {
        self.map_err(|error| error.into().context(Coded { code, message: message() }))
    }
}

/// The outermost code in an error's chain.
#[must_use]
pub fn code_of(error: &anyhow::Error) -> Code {
    error.downcast_ref::<Coded>().map_or(Code::Internal, |coded| coded.code)
}
