//! What a stage would change, in words for the person who is to sign it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use metalstrap_installer::escapes;
use metalstrap_release::allowed::{self, Allowed};
use metalstrap_release::digest::Digest;
use metalstrap_release::host::{Groups, Host, groups};
use metalstrap_release::manifest::Manifest;
use metalstrap_release::metadata::{Draft, Quorum, RoleName, RootRole, Staged, TargetFile, TrustedRoot};
use serde::Serialize;

use crate::clock;
use crate::stage::Stage;

/// What a stage comes behind.
#[derive(Debug)]
pub struct Review {
    base: Base,
    /// All that is signed together.
    staged: Vec<Staged>,
    stage: Stage,
}

#[derive(Debug)]
enum Base {
    /// For the next root.
    Root(Box<TrustedRoot>),
    /// For the next state of a repository; true: there is one.
    Repository(Box<Draft>, bool),
}

impl Review {
    /// Checks what the stage comes behind, from `root` on, which `newest` was reached from.
    ///
    /// # Errors
    /// It is not what `root` vouches for.
    pub fn new(stage: &Stage, root: &TrustedRoot, newest: &TrustedRoot, staged: &[Staged]) -> Result<Self> {
        let base = if stage.is_of_root() {
            Base::Root(Box::new(newest.clone()))
        } else if let Some(mut draft) = stage.base(root)? {
            if newest.version() > draft.root_version() {
                draft.adopt(Vec::new(), newest);
            }
            Base::Repository(Box::new(draft), true)
        } else {
            let targets = staged.iter().find(|one| one.role() == RoleName::Targets);
            let targets = targets.context("the stage makes a repository, but lists no releases")?;
            let draft = Draft::new(newest, &targets.delegation()?).context("reading the delegation to hosts")?;
            Base::Repository(Box::new(draft), false)
        };
        Ok(Self { base, staged: staged.to_vec(), stage: stage.clone() })
    }

    /// Who must sign one of them.
    ///
    /// # Errors
    /// Nobody may.
    pub fn quorums(&self, one: &Staged) -> Result<Vec<Quorum>> {
        match &self.base {
            Base::Root(root) => Ok(one.root_quorums(root)),
            Base::Repository(draft, _) => draft.quorums(one.role(), &self.staged).context("looking for who must sign"),
        }
    }

    /// What would be signed.
    ///
    /// # Errors
    /// What joins the repository is not what would be signed.
    pub fn lines(&self, staged: &[Staged]) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for one in staged {
            let (role, version, until) = (one.role(), one.version(), clock::text(one.expires()));
            lines.push(format!("{role} metadata, version {version}, holds until {until}:"));
            match &self.base {
                Base::Root(old) => lines.extend(keys(&old.roles(), &one.root_roles())),
                Base::Repository(draft, there) => {
                    lines.extend(self.entries(&listed(draft, role)?, &one.files()?)?);
                    if role == RoleName::Targets && !(*there && draft.delegates_to(&one.delegation()?)?) {
                        lines.push(format!("  host configs are signed by: {}", signers_of_hosts(one)?));
                    }
                }
            }
            for quorum in self.quorums(one)? {
                let (needed, valid) = (quorum.needed(), one.signed_by(&quorum).len());
                let must = if quorum.is_required() { "must" } else { "may" };
                lines.push(format!("  {needed} of the keys of {} {must} sign; {valid} have", quorum.by()));
            }
        }
        Ok(lines)
    }

    /// How a list changes.
    fn entries(&self, old: &BTreeMap<String, TargetFile>, new: &BTreeMap<String, TargetFile>) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for name in old.keys().filter(|name| !new.contains_key(*name)) {
            lines.push(format!("  - {name}"));
        }
        for (name, target) in new.iter().filter(|(name, target)| old.get(*name) != Some(*target)) {
            let sign = if old.contains_key(name) { '~' } else { '+' };
            lines.push(format!("  {sign} {name}: {}", self.content(target)?));
        }
        if lines.is_empty() {
            lines.push(format!("  what it listed before: {} files", new.len()));
        }
        Ok(lines)
    }

    /// What a file says that joins the repository.
    fn content(&self, target: &TargetFile) -> Result<String> {
        let name = Path::new(&target.path).file_name().context("the path names no file")?;
        let path = self.stage.added("targets").join(name);
        let reading = || format!("reading {}", path.display());
        if !path.exists() {
            return Ok(format!("SHA-256 {}, which is not in the stage", target.sha256));
        }
        let bytes = std::fs::read(&path).with_context(reading)?;
        let found = Digest::of(&bytes);
        anyhow::ensure!(found == target.sha256, "{} has SHA-256 {found}, not {}", path.display(), target.sha256);
        describe(&target.name, &bytes).with_context(reading)
    }
}

/// A file in words.
fn describe(name: &str, bytes: &[u8]) -> Result<String> {
    if name == allowed::TARGET {
        return Ok(format!("host configs may name {}", json(&Allowed::parse(bytes)?.releases)?));
    }
    if name == groups::TARGET {
        return json(&Groups::parse(bytes)?);
    }
    if name.starts_with("host-") {
        return json(&Host::parse(bytes)?);
    }
    let manifest = Manifest::parse(bytes)?;
    let (root, uki) = (manifest.root()?.root_hash, manifest.boot.uki.sha256);
    Ok(format!("{} {}, root hash {root}, UKI {uki}", manifest.name, manifest.version))
}

/// As JSON on one line, without what a terminal would obey.
fn json(value: &impl Serialize) -> Result<String> {
    let text = serde_json::to_string(value).context("writing JSON")?;
    Ok(escapes::json(&text))
}

/// What a role lists as it is.
fn listed(draft: &Draft, role: RoleName) -> Result<BTreeMap<String, TargetFile>> {
    if role == RoleName::Hosts {
        return Ok(draft.hosts()?);
    }
    let mut files = draft.releases()?;
    files.extend(draft.allowed()?.map(|file| (file.name.clone(), file)));
    Ok(files)
}

/// The keys that will sign host configs.
fn signers_of_hosts(one: &Staged) -> Result<String> {
    let delegation = one.delegation()?;
    let roles = delegation.get("roles").and_then(|roles| roles.as_array()).map_or(&[][..], Vec::as_slice);
    let ids = roles.iter().flat_map(|role| role.get("keyids").and_then(|ids| ids.as_array()).into_iter().flatten());
    Ok(ids.filter_map(|id| id.as_str()).collect::<Vec<_>>().join(", "))
}

/// How the keys of the roles change.
fn keys(old: &[RootRole], new: &[RootRole]) -> Vec<String> {
    let mut lines = Vec::new();
    for RootRole { role, key_ids, threshold } in new {
        let count = key_ids.len();
        let Some(before) = old.iter().find(|other| other.role == *role) else { continue };
        if before.key_ids == *key_ids && before.threshold == *threshold {
            lines.push(format!("  {role}: {threshold} of {count}, as before"));
            continue;
        }
        lines.push(format!(
            "  {role}: {threshold} of {count}, before {} of {}",
            before.threshold,
            before.key_ids.len()
        ));
        let (gone, come) = (
            before.key_ids.iter().filter(|id| !key_ids.contains(id)).map(|id| format!("    - {id}")),
            key_ids.iter().map(|id| format!("    {} {id}", if before.key_ids.contains(id) { '=' } else { '+' })),
        );
        lines.extend(gone.chain(come));
    }
    lines
}
