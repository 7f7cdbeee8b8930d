//! The directory that a web server serves: payloads, manifests and host configs under names that say their digest, and
//! metadata.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::Manifest;
use tempfile::NamedTempFile;

use crate::files::{self, UNFINISHED};

/// Directories below it.
const PARTS: [&str; 3] = ["payloads", "targets", "metadata"];
/// What the one who writes to it holds locked.
const LOCK: &str = ".lock";
/// Readable for the web server.
const MODE: u32 = 0o644;

/// A repository on this machine, locked for this process. What it holds is complete at any time: files appear under
/// their name by a rename.
#[derive(Debug)]
pub struct Repository {
    directory: PathBuf,
    _lock: File,
    /// Writes until one fails.
    #[cfg(test)]
    pub writes_left: std::cell::Cell<usize>,
}

impl Repository {
    /// Opens the repository in `directory`, which must be one.
    ///
    /// # Errors
    /// It is none; and as [`Repository::create`].
    pub fn open(directory: &Path) -> Result<Self> {
        if !PARTS.iter().all(|part| directory.join(part).is_dir()) {
            bail!("{} is no repository yet: publish a release first", directory.display());
        }
        Self::create(directory)
    }

    /// Opens the repository in `directory`, which is made if there is none, and clears away what a killed run has left.
    ///
    /// # Errors
    /// When its directories cannot be made, or somebody else writes to it.
    pub fn create(directory: &Path) -> Result<Self> {
        for part in PARTS {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        let path = directory.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.with_context(|| format!("making {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!("{} is being written to by another metalstrap: wait until it is done", directory.display())
            }
            Err(TryLockError::Error(error)) => return Err(error).context(format!("locking {}", path.display())),
        }
        let repository = Self {
            directory: directory.to_owned(),
            _lock: lock,
            #[cfg(test)]
            writes_left: std::cell::Cell::new(usize::MAX),
        };
        PARTS.iter().try_for_each(|part| repository.clear(part))?;
        Ok(repository)
    }

    /// Makes the directory `part` below it, if there is none, and clears away what a killed run has left in it.
    ///
    /// # Errors
    /// When that fails.
    pub fn make(&self, part: &str) -> Result<()> {
        let path = self.directory.join(part);
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        self.clear(part)
    }

    fn clear(&self, part: &str) -> Result<()> {
        let directory = self.directory.join(part);
        let clearing = || format!("clearing {}", directory.display());
        for entry in fs::read_dir(&directory).with_context(clearing)? {
            let entry = entry.with_context(clearing)?;
            if entry.file_name().as_encoded_bytes().starts_with(UNFINISHED.as_bytes()) {
                fs::remove_file(entry.path()).with_context(clearing)?;
            }
        }
        Ok(())
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether there is a file at `path` below it.
    pub fn has(&self, path: &str) -> bool {
        self.directory.join(path).is_file()
    }

    /// Bytes of the file at `path` below it, if there is one.
    pub fn size(&self, path: &str) -> Option<u64> {
        fs::metadata(self.directory.join(path)).ok().map(|metadata| metadata.len())
    }

    /// Writes the manifest to `targets/`, and returns its path below the repository, its digest and its bytes.
    ///
    /// # Errors
    /// When the manifest is none that the installer takes, or cannot be written.
    pub fn add_manifest(&self, manifest: &Manifest) -> Result<(String, Digest, u64)> {
        let mut bytes = serde_json::to_vec_pretty(manifest).context("encoding the manifest")?;
        bytes.push(b'\n');
        Manifest::parse(&bytes).context("checking the manifest")?;
        self.add_target(&format!("{}_{}.json", manifest.name, manifest.version), &bytes)
    }

    /// Writes a target, and returns its path below the repository, its digest and its bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_target(&self, name: &str, bytes: &[u8]) -> Result<(String, Digest, u64)> {
        let digest = Digest::of(bytes);
        let path = format!("targets/{digest}.{name}");
        self.put(&path, bytes)?;
        Ok((path, digest, bytes.len() as u64))
    }

    /// Writes the file at `path` below it, if it is not there with these bytes.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let whole = self.directory.join(path);
        if self.size(path) == Some(bytes.len() as u64) && fs::read(&whole).is_ok_and(|found| found == bytes) {
            return Ok(());
        }
        let (part, _) = path.rsplit_once('/').unwrap_or_default();
        let mut file = self.temporary(part)?;
        file.write_all(bytes).with_context(|| format!("writing {}", whole.display()))?;
        self.keep(file, path)
    }

    /// A file in the directory `part` that has no name yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn temporary(&self, part: &str) -> Result<NamedTempFile> {
        files::temporary(&self.directory.join(part), MODE)
    }

    /// Gives the file its name, once its bytes are on the disk.
    ///
    /// # Errors
    /// When that fails.
    pub fn keep(&self, file: NamedTempFile, path: &str) -> Result<()> {
        #[cfg(test)]
        {
            let left = self.writes_left.get().checked_sub(1);
            self.writes_left.set(left.context("no write is left to this test")?);
        }
        files::keep(file, &self.directory.join(path))
    }
}
