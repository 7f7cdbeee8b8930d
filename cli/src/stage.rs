//! A stage: a directory that goes from signer to signer, with what is to be signed and what is added once it is.
//!
//! ```text
//! stage.json              that the stage is complete, and whose metadata waits
//! sign/<role>.json        that metadata, with the signatures so far
//! base/metadata/          the metadata that it comes behind, so that signers can check what it was before
//! add/                    what joins the repository with it: targets, payloads, root metadata
//! ```

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::digest::Digest;
use metalstrap_release::document::FORMAT;
use metalstrap_release::metadata::{Draft, RoleName, Staged, TrustedRoot, Written};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::directory::Directory;
use crate::files::{UNFINISHED, replace};
use crate::repository::Repository;
use crate::wait::wait;

const DESCRIPTION: &str = "stage.json";
const SIGN: &str = "sign";
const BASE: &str = "base";
const ADD: &str = "add";
/// Nothing in it is secret.
const MODE: u32 = 0o644;

/// Where what is to be signed goes, if the keys for it are elsewhere.
#[derive(Debug, Clone, clap::Args)]
pub struct StageArgs {
    /// Sign nothing and change nothing of the repository: write what is to be signed to this new directory, for `metalstrap
    /// sign` where the keys are, and then `metalstrap finish`
    #[arg(long, value_name = "DIR", help_heading = "Signatures")]
    pub stage: Option<PathBuf>,
}

/// A directory that goes from signer to signer.
#[derive(Debug, Clone)]
pub struct Stage {
    directory: PathBuf,
    roles: Vec<RoleName>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: u32,
    roles: Vec<String>,
}

impl Stage {
    /// Begins a new one, which is none until [`Stage::complete`].
    ///
    /// # Errors
    /// There is one already, or the directory cannot be made.
    pub fn create(directory: &Path) -> Result<Self> {
        let shown = directory.display();
        ensure!(
            !directory.join(DESCRIPTION).exists(),
            "{shown} is a stage already: finish it, or take another --stage"
        );
        for part in [SIGN, ADD, "base/metadata"] {
            let path = directory.join(part);
            fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        }
        Ok(Self { directory: directory.to_owned(), roles: Vec::new() })
    }

    /// Opens one that is complete.
    ///
    /// # Errors
    /// It is none.
    pub fn open(directory: &Path) -> Result<Self> {
        let path = directory.join(DESCRIPTION);
        let reading = || format!("reading {}: `--stage` of publish, host, refresh and keygen makes it", path.display());
        let bytes = fs::read(&path).with_context(reading)?;
        let Description { format, roles } = serde_json::from_slice(&bytes).with_context(reading)?;
        ensure!(format == FORMAT, "{} has the format {format}, but this metalstrap reads {FORMAT}", path.display());
        let roles: Result<Vec<RoleName>, _> = roles.iter().map(|role| role.parse()).collect();
        Ok(Self { directory: directory.to_owned(), roles: roles.with_context(reading)? })
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The roles whose metadata waits for signatures.
    pub fn roles(&self) -> &[RoleName] {
        &self.roles
    }

    /// Whether it is about the root, which stands beside the keys, and not about the repository.
    pub fn is_of_root(&self) -> bool {
        self.roles.contains(&RoleName::Root)
    }

    /// What joins the repository, laid out like it.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn additions(&self) -> Result<Repository> {
        Repository::create(&self.directory.join(ADD))
    }

    /// Where files that join the repository are.
    pub fn added(&self, part: &str) -> PathBuf {
        self.directory.join(ADD).join(part)
    }

    /// Writes what is to be signed, behind `base`, and says that the stage is complete.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn complete(mut self, base: &[Written], staged: &[Staged]) -> Result<Self> {
        for file in base {
            replace(&self.directory.join(BASE).join(&file.path), &file.bytes, MODE)?;
        }
        staged.iter().try_for_each(|one| self.write(one))?;
        self.roles = staged.iter().map(Staged::role).collect();
        let roles = self.roles.iter().map(ToString::to_string).collect();
        let bytes = serde_json::to_vec(&Description { format: FORMAT, roles }).context("encoding JSON")?;
        replace(&self.directory.join(DESCRIPTION), &bytes, MODE)?;
        Ok(self)
    }

    /// Writes metadata with its signatures, in place of what was there.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn write(&self, staged: &Staged) -> Result<()> {
        let path = self.directory.join(SIGN).join(format!("{}.json", staged.role()));
        replace(&path, &staged.to_bytes()?, MODE)
    }

    /// What is to be signed, with the signatures so far.
    ///
    /// # Errors
    /// It cannot be read, or is no metadata.
    pub fn staged(&self) -> Result<Vec<Staged>> {
        let read = |role: &RoleName| {
            let path = self.directory.join(SIGN).join(format!("{role}.json"));
            let reading = || format!("reading {}", path.display());
            Staged::parse(*role, &fs::read(&path).with_context(reading)?).with_context(reading)
        };
        self.roles.iter().map(read).collect()
    }

    /// Copies what joins the repository into it, but for metadata. Names of these files say their digest.
    ///
    /// # Errors
    /// A file is damaged, or cannot be written.
    pub fn add_to(&self, repository: &Repository) -> Result<()> {
        for part in ["payloads", "targets"] {
            let directory = self.added(part);
            let reading = || format!("reading {}", directory.display());
            for entry in fs::read_dir(&directory).with_context(reading)? {
                let path = entry.with_context(reading)?.path();
                copy(&path, repository, part).with_context(|| format!("adding {}", path.display()))?;
            }
        }
        Ok(())
    }

    /// The repository's state that the stage comes behind, checked from `root` on; `None`: there was no repository.
    ///
    /// # Errors
    /// It is damaged, or not signed by what `root` leads to.
    pub fn base(&self, root: &TrustedRoot) -> Result<Option<Draft>> {
        let base = self.directory.join(BASE);
        if !base.join("metadata/timestamp.json").exists() {
            return Ok(None);
        }
        let scratch = tempfile::tempdir().context("making a temporary directory")?;
        let draft = wait(Draft::open(root, Arc::new(Directory(base.clone())), scratch.path()))?;
        draft.map(Some).with_context(|| format!("checking the metadata of {}", base.display()))
    }

    /// The newest root that the stage has, reached from `trusted`, which is the value `own`, by its signatures.
    ///
    /// # Errors
    /// A root that the one before has not signed; or another one of the version of `trusted`.
    pub fn climb(&self, trusted: TrustedRoot, own: &Value) -> Result<TrustedRoot> {
        let mut root = trusted;
        if let Some((path, bytes)) = self.root(root.version())? {
            let theirs: Value =
                serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))?;
            let same = theirs.get("signed") == own.get("signed");
            ensure!(
                same,
                "{} is not the root that the keys here have: this stage is of another repository",
                path.display()
            );
        }
        while let Some((path, bytes)) = self.root(root.version().saturating_add(1))? {
            root = root.follow(&bytes).with_context(|| format!("checking {}", path.display()))?;
        }
        Ok(root)
    }

    fn root(&self, version: u64) -> Result<Option<(PathBuf, Vec<u8>)>> {
        let name = format!("metadata/{version}.root.json");
        let places = [BASE, ADD].map(|part| self.directory.join(part).join(&name));
        let Some(path) = places.into_iter().find(|path| path.exists()) else { return Ok(None) };
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(Some((path, bytes)))
    }
}

/// Copies the file at `path` into a part of the repository, if it is the one that its name says and is not there yet.
fn copy(path: &Path, repository: &Repository, part: &str) -> Result<()> {
    let name = path.file_name().and_then(|name| name.to_str()).context("it has no name of ours")?;
    if name.starts_with(UNFINISHED) {
        return Ok(());
    }
    let said: Digest = name.split('.').next().unwrap_or_default().parse().context("its name says no digest")?;
    let mut from = File::open(path)?;
    let mut to = repository.temporary(part)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let length = from.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..length).filter(|bytes| !bytes.is_empty()) else { break };
        hasher.update(bytes);
        to.write_all(bytes)?;
    }
    let found = Digest(hasher.finalize().into());
    ensure!(found == said, "it has SHA-256 {found}");
    repository.keep(to, &format!("{part}/{name}"))
}
