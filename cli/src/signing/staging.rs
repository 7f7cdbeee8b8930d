//! Signing where not all keys are at hand: a draft is staged, and finished once others have signed it.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::metadata::{Draft, Metadata, RoleName, Written};
use serde_json::{Value, json};

use super::{Signing, TIMESTAMP, summary};
use crate::repository::Repository;
use crate::stage::Stage;
use crate::wait::wait;

/// What became of a draft.
#[derive(Debug)]
pub enum Done {
    /// It is what machines see now.
    Published(Box<Metadata>),
    /// It waits for signatures.
    Staged(Stage),
}

impl Done {
    /// Whether machines see it.
    pub fn is_published(&self) -> bool {
        matches!(self, Self::Published(_))
    }

    /// Versions and expiries, or where it waits for whose signatures.
    pub fn summary(&self) -> Value {
        match self {
            Self::Published(metadata) => summary(metadata),
            Self::Staged(stage) => {
                let roles: Vec<_> = stage.roles().iter().map(|role| role.as_str()).collect();
                json!({"staged": stage.directory(), "roles": roles})
            }
        }
    }
}

impl Signing {
    /// Publishes or stages a draft that has changed; of another, says what machines see.
    ///
    /// # Errors
    /// As [`Signing::publish`].
    pub fn conclude(&self, repository: &Repository, draft: Draft, changed: bool) -> Result<Done> {
        match &self.staging {
            _ if !changed => Ok(Done::Published(Box::new(self.load(repository)?))),
            Some((additions, stage)) => self.stage(repository, additions, stage, &draft).map(Done::Staged),
            None => Ok(Done::Published(Box::new(self.publish(repository, draft)?))),
        }
    }

    /// Writes what is to be signed, and what signers need to judge it.
    fn stage(&self, repository: &Repository, additions: &Repository, stage: &Stage, draft: &Draft) -> Result<Stage> {
        let staged = draft.stage(&self.lifetimes, self.now).context("staging the repository's metadata")?;
        ensure!(!staged.is_empty(), "there is nothing to stage: snapshot and timestamp are signed by `refresh`");
        let mut base = Vec::new();
        if repository.has(TIMESTAMP) {
            let roots = (1..=draft.root_version()).map(|version| format!("metadata/{version}.root.json"));
            for path in roots.filter(|path| repository.has(path)).chain(draft.paths()) {
                let whole = repository.directory().join(&path);
                let bytes = fs::read(&whole).with_context(|| format!("reading {}", whole.display()))?;
                base.push(Written { path, bytes });
            }
        }
        for (_, root) in self.keys.roots()? {
            additions.put(&root.path, &root.bytes)?;
        }
        stage.clone().complete(&base, &staged)
    }

    /// The repository as it is, and what was staged behind it: signs snapshot and timestamp for that, adds what joins the
    /// repository, and publishes.
    ///
    /// # Errors
    /// The repository has moved on, or too few have signed; as [`Signing::publish`].
    pub fn finish(&self, repository: &Repository, stage: &Stage) -> Result<Metadata> {
        let staged = stage.staged()?;
        let all = stage.roles().contains(&RoleName::Targets);
        let draft = if all { self.draft(repository)? } else { self.existing(repository)? };
        match stage.base(&self.keys.oldest_root()?)? {
            Some(base) => draft.check_base(&base)?,
            None => ensure!(
                !repository.has(TIMESTAMP),
                "there is a repository by now, and there was none when this was staged: stage it again"
            ),
        }
        let keys = [self.private(RoleName::Snapshot)?, self.private(RoleName::Timestamp)?].concat();
        let files = wait(draft.finish(&staged, &keys, &self.lifetimes, self.now))?;
        let files = files.map_err(|error| self.name_file(error)).context("finishing what was staged")?;
        let metadata = self.judge_new(repository, &files)?;
        stage.add_to(repository)?;
        self.put(repository, &files, &metadata)
    }
}
