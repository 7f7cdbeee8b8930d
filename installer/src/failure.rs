//! A failure a person meets: its code (docs/errors.md), what happened, what was not touched, what to do.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::escapes;

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

impl Failure {
    /// What to show for `error`, which ended `step`.
    #[must_use]
    pub fn new(step: &str, error: &anyhow::Error, touched: &Touched) -> Self {
        let code = code_of(error);
        let advice = code.advice().to_owned();
        let (happened, untouched) = (escapes::line(&format!("{error:#}")), escapes::line(&touched.to_string()));
        Self { code, step: step.to_owned(), happened, untouched, advice }
    }
}

/// How far the run got with the disk.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Touched {
    /// Nothing was written.
    #[default]
    Nothing,
    /// Writes to this disk have begun.
    Begun(String),
    /// Writes have begun to this disk, which holds this very release from an earlier run.
    Again(String),
    /// Writes have begun to this disk, on which the release with this label boots all the while.
    Beside(String, String),
    /// The release on this disk is complete and bootable.
    Complete(String),
}

impl fmt::Display for Touched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "No disk was written to."),
            Self::Begun(disk) => {
                write!(f, "No disk but {disk} was written to. What is on {disk} is not complete and does not boot.")
            }
            Self::Again(disk) => {
                write!(
                    f,
                    "No disk but {disk} was written to. It holds this release from an earlier run, which may not boot."
                )
            }
            Self::Beside(disk, other) => {
                write!(f, "No disk but {disk} was written to. {other} on {disk} was not touched and boots.")
            }
            Self::Complete(disk) => {
                write!(f, "No disk but {disk} was written to. The release on {disk} is complete and boots.")
            }
        }
    }
}

impl Code {
    /// All of them.
    pub const ALL: [Self; 34] = [
        Self::Internal,
        Self::InstallerDied,
        Self::SiteConfig,
        Self::Discovery,
        Self::NoNetworkDevice,
        Self::NoNetwork,
        Self::NameResolution,
        Self::Repository,
        Self::Certificate,
        Self::Metadata,
        Self::MetadataExpired,
        Self::MetadataRollback,
        Self::HostConfig,
        Self::ReleaseNotAllowed,
        Self::Credentials,
        Self::Secrets,
        Self::Manifest,
        Self::Corrupt,
        Self::NoDisk,
        Self::SeveralDisks,
        Self::DiskTooSmall,
        Self::DiskInUse,
        Self::DiskNotBlank,
        Self::CannotErase,
        Self::EraseFailed,
        Self::NotClean,
        Self::NotInstalled,
        Self::Esp,
        Self::DiskIo,
        Self::Tpm,
        Self::Verifier,
        Self::Attestation,
        Self::CommandLine,
        Self::SecureBoot,
    ];

    /// What a person can do about a failure with this code: the first thing to try, in a sentence or two.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Self::Internal => "Retry; if it stays, keep the text above and report it.",
            Self::InstallerDied => {
                "Retry; if it stays, look for a lack of memory or failing hardware in the kernel's messages."
            }
            Self::SiteConfig => "Make the netboot image anew with a site config that `metalstrap netboot` accepts.",
            Self::Discovery => {
                "Correct the setting at the source that is named, or leave it out; docs/configuration.md lists them."
            }
            Self::NoNetworkDevice => "Look at the devices without a driver above; the netboot image may lack a module.",
            Self::NoNetwork => "Check cable, switch port and DHCP server, then retry.",
            Self::NameResolution => "Check the DNS servers that the network hands out, and the repository's name.",
            Self::Repository => "Check that the repository's server runs and holds the release, then retry.",
            Self::Certificate => {
                "Compare the server's certificate with the CA in the site config, and this machine's clock."
            }
            Self::Metadata => {
                "Check that this site's repository is served, whole, and that the netboot image has its root."
            }
            Self::MetadataExpired => {
                "Compare this machine's clock; then sign the metadata anew (`metalstrap refresh`)."
            }
            Self::MetadataRollback => "Serve the newest state of the repository: this mirror may be stale or hostile.",
            Self::HostConfig => "Add a host config for this machine, or a default one (`metalstrap host add`).",
            Self::ReleaseNotAllowed => {
                "Name another release in the host config, or have it allowed by whoever releases (`metalstrap host allow`)."
            }
            Self::Credentials => {
                "Change `credentials` in the host config; for one that the OS would refuse, make it one of `secrets`, leave it out, or \
                 do without Secure Boot and `secure_boot_keys`."
            }
            Self::Secrets => {
                "Encrypt the secrets to this machine's endorsement key (`metalstrap host add --secret … --ek …`); switch its TPM on."
            }
            Self::Manifest => "Publish the release again, or name one in the host config that is published.",
            Self::Corrupt => "Publish the payload again or repair the mirror; what did not verify was not written.",
            Self::NoDisk => "Compare the disks above with the selector in the host config.",
            Self::SeveralDisks => "Make the selector in the host config match exactly one of the disks above.",
            Self::DiskTooSmall => "Use a larger disk, or a release with a smaller layout.",
            Self::DiskInUse => "Unmount it and stop what holds it (LVM, RAID, device mapper), then retry.",
            Self::DiskNotBlank => {
                "Save what is on it; then wipe it, or set `existing` to `wipe` with an `intent` in the host config."
            }
            Self::CannotErase => {
                "Erase it by other means, or set `erase` to what the drive can (`zeroes`, `discard`) in the host config."
            }
            Self::EraseFailed => "Believe nothing on the disk to be erased: retry, or destroy the drive.",
            Self::NotClean => {
                "Look at the kernel's messages about the disk; it does not keep what is written: replace it."
            }
            Self::NotInstalled => {
                "Install it: a repair only mends the release that is there. Compare release and disk in the host config."
            }
            Self::Esp => {
                "Make room on it or mend it (`fsck.fat`); or let the disk be wiped, with a new `intent` in the host config."
            }
            Self::DiskIo => "Look at the kernel's messages about the disk; replace it if it fails again.",
            Self::Tpm => {
                "Switch the TPM on in the firmware, with its bank of SHA-256, or set `tpm` to `if-present` in the host config."
            }
            Self::Verifier => {
                "Check that the verifier runs at the `attestation` URL of the host config, then retry: the release is on the disk."
            }
            Self::Attestation => {
                "Compare what was not proved with what the verifier expects, and have it know this machine; then retry: the release is \
                 on the disk, but trust no secret to it."
            }
            Self::CommandLine => "Shorten `cmdline_extra` in the host config or the command line of the release.",
            Self::SecureBoot => {
                "Put the firmware into setup mode, or take `secure_boot_keys` out of the host config; sign the release by a certificate \
                 in their `db`."
            }
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The serialised name is the one in docs/errors.md.
        let name = serde_json::to_value(self).ok().and_then(|value| value.as_str().map(str::to_owned));
        f.write_str(name.as_deref().unwrap_or("internal"))
    }
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
    /// A setting from outside of the site config cannot be taken, or nothing names the repository.
    Discovery,
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
    /// The repository's metadata is damaged or not signed by keys that are trusted.
    Metadata,
    /// The repository's metadata has expired, or the clock is wrong.
    MetadataExpired,
    /// The repository's metadata is older than what this machine has seen.
    MetadataRollback,
    /// There is no host config for this machine, or not one this installer takes.
    HostConfig,
    /// The host config names a release that the signed list of allowed ones does not have, or that list is not one this
    /// installer takes.
    ReleaseNotAllowed,
    /// The host config has credentials that this machine cannot get, or that its OS would refuse.
    Credentials,
    /// The host config has secrets that this machine's TPM cannot open, or not seal for the OS.
    Secrets,
    /// The release is not in the repository, or its manifest is not one this installer takes.
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
    /// The disk is not blank and the host config does not permit wiping it.
    DiskNotBlank,
    /// The disk cannot be erased as the host config wants.
    CannotErase,
    /// The disk was to be erased and is not.
    EraseFailed,
    /// The disk was wiped and still shows a signature.
    NotClean,
    /// The disk does not hold the release that is to be mended or looked at.
    NotInstalled,
    /// The EFI system partition of a disk that is kept has no room, or a file system that cannot be changed.
    Esp,
    /// Reading or writing the disk failed.
    DiskIo,
    /// A TPM is required and there is none, or it failed.
    Tpm,
    /// The machine must attest itself, and the verifier could not be reached, or answered with an error.
    Verifier,
    /// The machine must attest itself, and its TPM could not, or the verifier does not accept it.
    Attestation,
    /// The kernel command line is longer than the kernel takes.
    CommandLine,
    /// The firmware does not take the host config's keys for Secure Boot, or would not start the release with them.
    SecureBoot,
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

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn every_code_is_in_the_documentation() {
        let page = include_str!("../../docs/errors.md");
        for code in Code::ALL {
            assert!(page.contains(&format!("\n| `{code}` |")), "docs/errors.md lacks {code}");
        }
        assert_eq!(page.matches("\n| `").count(), Code::ALL.len(), "docs/errors.md has a code too many");
    }

    #[test]
    fn the_outermost_code_of_a_chain_counts() {
        let inner: anyhow::Result<()> = Err(coded(Code::DiskIo, "reading sector 0"));
        let error = inner.code(Code::Corrupt, || "checking the tree".into()).context("writing the root").unwrap_err();
        assert_eq!(code_of(&error), Code::Corrupt);
        let failure = Failure::new("root", &error, &Touched::Begun("vda (serial X)".into()));
        assert_eq!(failure.happened, "writing the root: checking the tree: reading sector 0");
        assert_eq!(
            failure.untouched,
            "No disk but vda (serial X) was written to. What is on vda (serial X) is not complete and does not boot."
        );
    }
}
