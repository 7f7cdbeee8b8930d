//! What a machine remembers from one installation to the next: the versions of the repository's metadata, so that
//! nobody can offer it an older state. In the netboot image an EFI variable, which outlives the disk; elsewhere a file.
//!
//! A memory that cannot be read or written is a warning: it makes the machine as trusting as a new one, no more.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use metalstrap_release::metadata::Versions;

use crate::bootvars::{Efivarfs, Variables as _};

/// Our own namespace of EFI variables (a random UUID).
const VENDOR: &str = "6f6b9b5c-2f0e-4b7b-9d57-0b5b4f6e8a31";
/// The variable in it.
const VARIABLE: &str = "MetalstrapVersions";
/// The file of an ordinary command.
pub const FILE: &str = "/var/lib/metalstrap/versions.json";
/// No memory is longer.
const MAX_BYTES: u64 = 4096;

/// Where the memory is.
#[derive(Debug)]
pub enum Memory {
    /// An EFI variable.
    Variable(Efivarfs),
    /// A file.
    File(PathBuf),
}

impl Memory {
    /// The machine's own.
    #[must_use]
    pub fn of_machine() -> Self {
        Self::Variable(Efivarfs::default().of_vendor(VENDOR))
    }

    /// What is remembered; `None`: nothing yet.
    ///
    /// # Errors
    /// It cannot be read, or is not what was written.
    pub fn recall(&self) -> Result<Option<Versions>> {
        let bytes = match self {
            Self::Variable(variables) => variables.read(VARIABLE)?,
            Self::File(path) => read(path).with_context(|| format!("reading {}", path.display()))?,
        };
        let versions = bytes.map(|bytes| Versions::parse(&bytes)).transpose();
        versions.with_context(|| format!("reading the metadata versions in {}", self.place()))
    }

    /// Remembers `versions`. Writes nothing if they are remembered already.
    ///
    /// # Errors
    /// The firmware's or the file system's.
    pub fn remember(&self, versions: &Versions) -> Result<()> {
        if self.recall().is_ok_and(|known| known.as_ref() == Some(versions)) {
            return Ok(());
        }
        match self {
            Self::Variable(variables) => variables.write(VARIABLE, &versions.to_bytes()),
            Self::File(path) => {
                replace(path, &versions.to_bytes()).with_context(|| format!("writing {}", path.display()))
            }
        }
    }

    fn place(&self) -> String {
        match self {
            Self::Variable(_) => format!("the EFI variable {VARIABLE}-{VENDOR}"),
            Self::File(path) => path.display().to_string(),
        }
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => anyhow::ensure!(found?.len() <= MAX_BYTES, "it has more than {MAX_BYTES} bytes"),
    }
    Ok(Some(fs::read(path)?))
}

/// Replaces the file as a whole, so that a power cut leaves the old one or the new one.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().context("the path names no directory")?;
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use metalstrap_release::digest::Digest;

    use super::*;

    fn versions() -> Versions {
        let digest = Digest::of(b"keys");
        let (root, timestamp, snapshot, targets, hosts) = (1, 5, 4, 3, 2);
        Versions { format: 1, anchor: digest, root, online_keys: digest, timestamp, snapshot, targets, hosts }
    }

    fn remembers(memory: &Memory) {
        assert_eq!(memory.recall().unwrap(), None);
        memory.remember(&versions()).unwrap();
        assert_eq!(memory.recall().unwrap(), Some(versions()));
        let newer = Versions { timestamp: 6, ..versions() };
        memory.remember(&newer).unwrap();
        assert_eq!(memory.recall().unwrap(), Some(newer));
    }

    #[test]
    fn a_file_and_a_variable_remember_the_same() {
        let place = tempfile::tempdir().unwrap();
        remembers(&Memory::File(place.path().join("lib/versions.json")));
        remembers(&Memory::Variable(Efivarfs::at(place.path()).of_vendor(VENDOR)));
        assert!(place.path().join(format!("{VARIABLE}-{VENDOR}")).exists());
    }

    #[test]
    fn what_is_not_a_memory_is_named() {
        let place = tempfile::NamedTempFile::new().unwrap();
        fs::write(place.path(), "{}").unwrap();
        let error = format!("{:#}", Memory::File(place.path().to_owned()).recall().unwrap_err());
        let expected = format!(
            "reading the metadata versions in {}: the memory of metadata versions is not valid",
            place.path().display()
        );
        assert!(error.starts_with(&expected), "{error}");
    }
}
