//! What was signed last, kept beside the keys: whoever can write to the web server's directory, but has no key, must not
//! get an older state signed anew by putting it there.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use metalstrap_release::digest::Digest;
use metalstrap_release::metadata::Versions;

use crate::keys::Keys;

/// The memory of one repository.
#[derive(Debug)]
pub struct Seen {
    path: PathBuf,
}

impl Seen {
    /// That of the repository in `directory`.
    pub fn new(keys: &Keys, directory: &Path) -> Self {
        let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
        let name = Digest::of(directory.as_os_str().as_encoded_bytes()).to_string();
        Self { path: keys.path("seen").join(format!("{}.json", name.get(..16).unwrap_or(&name))) }
    }

    /// Refuses a state that is older than the one remembered.
    ///
    /// # Errors
    /// It is older; or the memory cannot be read.
    pub fn check(&self, found: &Versions) -> Result<()> {
        let bytes = match fs::read(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            read => read.with_context(|| format!("reading {}", self.path.display()))?,
        };
        let known = Versions::parse(&bytes).with_context(|| format!("reading {}", self.path.display()))?;
        found.check_against(&known).context(
            "this repository is older than what these keys signed last; if it was restored on purpose, say \
             --accept-older",
        )
    }

    /// Remembers a state. Keys may lie on a stick that cannot be written: then that is said.
    pub fn remember(&self, versions: &Versions) {
        if let Err(error) = self.write(versions) {
            eprintln!("warning: what was signed is not remembered in {}: {error:#}", self.path.display());
        }
    }

    fn write(&self, versions: &Versions) -> Result<()> {
        let directory = self.path.parent().context("the path names no directory")?;
        fs::create_dir_all(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.write_all(&versions.to_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        Ok(())
    }
}
