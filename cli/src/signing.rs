//! Signing: from a repository to the next state of its metadata.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use metalstrap_release::metadata::{
    Anchor, Draft, Lifetimes, Metadata, MetadataSource, PrivateKey, RoleName, SignError, TrustedRoot, Written,
};
use serde_json::{Value, json};

use crate::clock::{self, DAY};
use crate::directory::{Directory, Overlay};
use crate::keys::Keys;
use crate::lifetimes::LifetimeArgs;
use crate::passphrase::{PassphraseArgs, Passphrases};
use crate::repository::Repository;
use crate::seen::Seen;
use crate::stage::{Stage, StageArgs};
use crate::wait::wait;

mod staging;

pub use staging::Done;

/// The last of metadata to be written the first time: without it there is no repository.
const TIMESTAMP: &str = "metadata/timestamp.json";
/// Days before its end from which on a root is warned of.
const ROOT_WARNING: i64 = 90;

/// By which keys, and for how long.
#[derive(Debug, Clone, clap::Args)]
pub struct SigningArgs {
    /// Directory of the keys, as `metalstrap keygen` makes it
    #[arg(long, value_name = "DIR")]
    pub keys: PathBuf,
    /// Sign a repository that is older than what was signed with these keys last, as after a restore
    #[arg(long, help_heading = "Signatures")]
    accept_older: bool,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    #[command(flatten)]
    lifetimes: LifetimeArgs,
}

/// What signs a repository.
#[derive(Debug)]
pub struct Signing {
    keys: Keys,
    passphrases: Passphrases,
    /// What was read so far, so that nobody is asked twice.
    read: RefCell<BTreeMap<RoleName, Vec<PrivateKey>>>,
    lifetimes: Lifetimes,
    now: i64,
    accept_older: bool,
    /// Where nothing is signed: the stage, and what joins the repository later.
    staging: Option<(Repository, Stage)>,
}

impl SigningArgs {
    /// Checks that there are keys of these roles, and reads them.
    ///
    /// # Errors
    /// Names the file that is missing, or what is wrong with it.
    pub fn open(&self, roles: &[RoleName]) -> Result<Signing> {
        let keys = Keys(self.keys.clone());
        keys.check_present(roles)?;
        let (lifetimes, now) = (self.lifetimes.lifetimes(), self.lifetimes.now()?);
        let signing = Signing::new(keys, self.passphrase.open()?, lifetimes, now, self.accept_older);
        // Now, not after an hour of compression: a passphrase may be wrong.
        roles.iter().try_for_each(|role| signing.private(*role).map(drop))?;
        Ok(signing)
    }

    /// The same, or without keys, where what is to be signed is staged.
    ///
    /// # Errors
    /// As [`SigningArgs::open`]; or the stage cannot be made.
    pub fn open_or_stage(&self, roles: &[RoleName], stage: &StageArgs) -> Result<Signing> {
        let Some(directory) = &stage.stage else { return self.open(roles) };
        let mut signing = self.open(&[])?;
        let stage = Stage::create(directory)?;
        signing.staging = Some((stage.additions()?, stage));
        Ok(signing)
    }
}

impl Signing {
    /// With keys that are not looked for yet.
    pub fn new(keys: Keys, passphrases: Passphrases, lifetimes: Lifetimes, now: i64, accept_older: bool) -> Self {
        Self { keys, passphrases, read: RefCell::default(), lifetimes, now, accept_older, staging: None }
    }

    fn private(&self, role: RoleName) -> Result<Vec<PrivateKey>> {
        if let Some(keys) = self.read.borrow().get(&role) {
            return Ok(keys.clone());
        }
        let keys = self.keys.private(role, &self.passphrases)?;
        self.read.borrow_mut().insert(role, keys.clone());
        Ok(keys)
    }

    /// The time that signatures count from.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// Whether there is a key of the role, or whoever has it is asked later.
    ///
    /// # Errors
    /// When the directory of keys cannot be read.
    pub fn has(&self, role: RoleName) -> Result<bool> {
        Ok(self.staging.is_some() || !self.keys.files(role)?.is_empty())
    }

    /// Where new files go: into the repository, or into what joins it later.
    pub fn place<'a>(&'a self, repository: &'a Repository) -> &'a Repository {
        self.staging.as_ref().map_or(repository, |(additions, _)| additions)
    }

    /// The repository as it is, or a new one.
    ///
    /// # Errors
    /// When its metadata is not what these keys' roots vouch for.
    pub fn draft(&self, repository: &Repository) -> Result<Draft> {
        if repository.has(TIMESTAMP) {
            let draft = self.open(repository)?;
            return self.follow(draft);
        }
        let root = self.keys.root()?;
        let mut draft = Draft::new(&root, &self.keys.delegation()?).context("making the repository's metadata")?;
        draft.adopt(self.keys.roots()?.into_iter().map(|(_, root)| root).collect(), &root);
        Ok(draft)
    }

    /// The repository as it is, which must be there.
    ///
    /// # Errors
    /// As [`Signing::draft`]; or it holds no release yet.
    pub fn existing(&self, repository: &Repository) -> Result<Draft> {
        let directory = repository.directory().display();
        anyhow::ensure!(repository.has(TIMESTAMP), "{directory} is no repository yet: publish a release first");
        self.open(repository)
    }

    fn open(&self, repository: &Repository) -> Result<Draft> {
        let scratch = tempfile::tempdir().context("making a temporary directory")?;
        let source = Arc::new(Directory(repository.directory().to_owned()));
        let draft = wait(Draft::open(&self.keys.oldest_root()?, source, scratch.path()))?;
        let draft = draft.with_context(|| format!("reading the metadata of {}", repository.directory().display()))?;
        if !self.accept_older {
            self.seen(repository).check(&draft.versions(&self.keys.oldest_root()?))?;
        }
        Ok(draft)
    }

    /// Takes over what `keygen --rotate` has made since.
    fn follow(&self, mut draft: Draft) -> Result<Draft> {
        let root = self.keys.root()?;
        let known = draft.root_version();
        if root.version() > known {
            let newer = self.keys.roots()?.into_iter().filter(|(version, _)| *version > known);
            draft.adopt(newer.map(|(_, root)| root).collect(), &root);
        }
        let delegation = self.keys.delegation()?;
        if !draft.delegates_to(&delegation)? {
            draft.renew_targets(Some(&delegation))?;
        }
        Ok(draft)
    }

    /// As [`Signing::draft`] for a repository that is there already.
    ///
    /// # Errors
    /// As [`Signing::existing`].
    pub fn following(&self, repository: &Repository) -> Result<Draft> {
        self.follow(self.existing(repository)?)
    }

    /// Signs the draft and publishes it, in the order that never exposes half of it; then reads it back as a machine
    /// would.
    ///
    /// # Errors
    /// A key that is missing, by the name of its file; or what a machine would refuse.
    fn publish(&self, repository: &Repository, draft: Draft) -> Result<Metadata> {
        let mut keys: Vec<PrivateKey> = Vec::new();
        for role in draft.to_be_signed() {
            keys.extend(self.private(role)?);
        }
        let signed = wait(draft.sign(&keys, &self.lifetimes, self.now))?;
        let files = signed.map_err(|error| self.name_file(error)).context("signing the repository's metadata")?;
        self.write(repository, &files)
    }

    /// Signs a new timestamp and nothing else, and publishes it.
    ///
    /// # Errors
    /// As [`Signing::publish`]; the snapshot would end before it.
    pub fn publish_timestamp(&self, repository: &Repository, draft: &Draft) -> Result<Metadata> {
        let keys = self.private(RoleName::Timestamp)?;
        let signed = wait(draft.sign_timestamp(&keys, &self.lifetimes, self.now))?;
        let file = signed.map_err(|error| self.name_file(error)).context("signing the timestamp")?;
        self.write(repository, &[file])
    }

    /// Writes what was signed, if a machine would take it.
    fn write(&self, repository: &Repository, files: &[Written]) -> Result<Metadata> {
        let metadata = self.judge_new(repository, files)?;
        self.put(repository, files, &metadata)
    }

    /// As a machine will see it, before anything is where a machine looks.
    fn judge_new(&self, repository: &Repository, files: &[Written]) -> Result<Metadata> {
        let new = files.iter().map(|file| (file.path.clone(), file.bytes.clone())).collect();
        let overlay = Overlay { new, old: Directory(repository.directory().to_owned()) };
        let metadata = judge(&self.keys.oldest_root()?, Arc::new(overlay), self.now);
        metadata.context("checking what was signed; nothing is published")
    }

    fn put(&self, repository: &Repository, files: &[Written], metadata: &Metadata) -> Result<Metadata> {
        for file in files {
            repository.put(&file.path, &file.bytes)?;
        }
        self.seen(repository).remember(&metadata.versions);
        self.load(repository)
    }

    /// What was signed for this repository last.
    fn seen(&self, repository: &Repository) -> Seen {
        Seen::new(&self.keys, repository.directory())
    }

    /// What a machine sees now.
    ///
    /// # Errors
    /// What it would refuse.
    pub fn load(&self, repository: &Repository) -> Result<Metadata> {
        let metadata = load(&self.keys.oldest_root()?, repository.directory(), self.now)?;
        for (role, at) in &metadata.expires {
            let left = at.saturating_sub(self.now) / DAY;
            if *role == RoleName::Root.as_str() && left < ROOT_WARNING {
                eprintln!(
                    "warning: the root metadata expires in {left} days, at {}: `metalstrap keygen --renew` makes the \
                     next one",
                    clock::text(*at)
                );
            }
        }
        Ok(metadata)
    }

    fn name_file(&self, error: SignError) -> anyhow::Error {
        let file = match &error {
            SignError::KeysMissing { role, .. } => {
                let on_token = self.keys.path(&format!("{role}.uri"));
                if on_token.exists() { on_token } else { self.keys.path(&format!("{role}.pem")) }
            }
            _ => return error.into(),
        };
        anyhow::Error::new(error).context(format!("looking for the key {}", file.display()))
    }
}

/// The metadata of the repository in `directory`, as a machine with `root` in its site config judges it.
///
/// # Errors
/// What that machine would refuse.
pub fn load(root: &TrustedRoot, directory: &std::path::Path, now: i64) -> Result<Metadata> {
    let source = Arc::new(Directory(directory.to_owned()));
    judge(root, source, now).with_context(|| format!("checking the metadata of {}", directory.display()))
}

fn judge(root: &TrustedRoot, source: Arc<dyn MetadataSource>, now: i64) -> Result<Metadata> {
    let scratch = tempfile::tempdir().context("making a temporary directory")?;
    Ok(wait(TrustedRoot::load(source, scratch.path(), Anchor { root, known: &[], now }))??)
}

/// Versions and expiries, for the result.
pub fn summary(metadata: &Metadata) -> Value {
    let versions = &metadata.versions;
    let expires: serde_json::Map<_, _> =
        metadata.expires.iter().map(|(role, at)| ((*role).to_owned(), clock::text(*at).into())).collect();
    json!({
        "versions": {
            "root": versions.root,
            "targets": versions.targets,
            "snapshot": versions.snapshot,
            "timestamp": versions.timestamp,
            "hosts": versions.hosts,
        },
        "expires": expires,
    })
}
