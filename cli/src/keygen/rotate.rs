//! New keys in place of old ones, and the root that names them.

use std::fs;
use std::num::NonZeroU64;
use std::path::Path;

use anyhow::{Context as _, Result};
use metalstrap_release::metadata::{
    PublicKey, PublicSigners, RoleName, RoleSigners, Staged, TrustedRoot, delegation, next_root, stage_root,
};
use serde_json::{Value, json};

use super::{Args, PUBLIC, SECRET, Seal, document, names, result};
use crate::files::{create, replace};
use crate::keys::{DELEGATION, Keys, ROOT};
use crate::passphrase::Passphrases;
use crate::stage::Stage;
use crate::wait::wait;

/// Replaces the keys of roles; the old ones stay under other names, since one last signature by them is what lets
/// clients see no gap.
pub fn rotate(keys: &Keys, args: &Args) -> Result<Value> {
    let old = keys.root()?;
    let mut roles = args.rotate.clone();
    roles.sort_unstable();
    roles.dedup();
    let passphrases = args.passphrase.open()?;
    let mut changes: Vec<(RoleName, RoleSigners)> = Vec::new();
    for role in roles {
        let (count, threshold) = match (role, old.signers(role)) {
            (RoleName::Root, _) if !args.root_public.is_empty() => continue,
            (RoleName::Root, Some((count, threshold))) => args.root_signers(count as u64, threshold)?,
            _ => (1, NonZeroU64::MIN),
        };
        changes.push((role, args.signers(role, count, threshold, passphrases.tokens())?));
    }
    let stage = args.stage.stage.as_deref().map(Stage::create).transpose()?;
    let (staged, next) = match &stage {
        Some(_) => (Some(unsigned(args, &old, &changes)?), None),
        None => (None, next(keys, args, &passphrases, &old, &changes)?),
    };
    let seal = Seal::new(args.encrypt && !changes.is_empty(), &passphrases)?;
    // Keys first: until the root names them, the old ones are used, under whatever name.
    let mut files = Vec::new();
    for (role, new) in &changes {
        files.extend(exchange(keys, *role, new, &seal)?);
    }
    if let Some((_, hosts)) = changes.iter().find(|(role, _)| *role == RoleName::Hosts) {
        replace(&keys.path(DELEGATION), &document(&delegation(hosts)?)?, PUBLIC)?;
        files.push(DELEGATION.to_owned());
    }
    if let Some(next) = next {
        files.extend(write_root(keys, old.version().saturating_add(1), &next)?);
    }
    let mut result = result(keys, files)?;
    if let (Some(stage), Some(staged)) = (stage, staged) {
        let base: Vec<_> = keys.roots()?.into_iter().map(|(_, root)| root).collect();
        let stage = stage.complete(&base, &[staged])?;
        let roles: Vec<_> = stage.roles().iter().map(|role| role.as_str()).collect();
        if let Some(result) = result.as_object_mut() {
            result.extend([("staged".to_owned(), json!(stage.directory())), ("roles".to_owned(), json!(roles))]);
        }
    }
    Ok(result)
}

/// The next root metadata, for whoever has the keys of the root.
fn unsigned(args: &Args, old: &TrustedRoot, changes: &[(RoleName, RoleSigners)]) -> Result<Staged> {
    let (lifetimes, now) = (args.lifetimes.lifetimes(), args.lifetimes.now()?);
    let mut new: Vec<_> = in_root(changes).iter().map(|(role, signers)| (*role, signers.public())).collect();
    if !args.root_public.is_empty() {
        let keys = args.root_public.iter().map(|path| public(path)).collect::<Result<Vec<_>>>()?;
        let before = old.signers(RoleName::Root).map_or(1, |(_, threshold)| threshold);
        let (_, threshold) = args.root_signers(keys.len() as u64, before)?;
        new.push((RoleName::Root, PublicSigners { keys, threshold }));
    }
    stage_root(old, &new, &lifetimes, now).context("making the next root")
}

/// Somebody's public key.
fn public(path: &Path) -> Result<PublicKey> {
    let reading = || format!("reading the public key {}", path.display());
    PublicKey::from_pem(&fs::read_to_string(path).with_context(reading)?).with_context(reading)
}

/// Takes the next root that was staged and signed into the directory of the keys.
///
/// # Errors
/// It cannot be written.
pub fn publish_root(keys: &Keys, version: u64, bytes: &[u8]) -> Result<Value> {
    result(keys, write_root(keys, version, bytes)?.into())
}

fn write_root(keys: &Keys, version: u64, bytes: &[u8]) -> Result<[String; 2]> {
    let name = format!("{version}.root.json");
    replace(&keys.path(&name), bytes, PUBLIC)?;
    replace(&keys.path(ROOT), bytes, PUBLIC)?;
    Ok([name, ROOT.to_owned()])
}

/// The changes that the root says.
fn in_root(changes: &[(RoleName, RoleSigners)]) -> Vec<(RoleName, RoleSigners)> {
    changes.iter().filter(|(role, _)| *role != RoleName::Hosts).cloned().collect()
}

/// The next root metadata, if one is needed.
fn next(
    keys: &Keys,
    args: &Args,
    passphrases: &Passphrases,
    old: &TrustedRoot,
    changes: &[(RoleName, RoleSigners)],
) -> Result<Option<Vec<u8>>> {
    let in_root = in_root(changes);
    if !args.renew && in_root.is_empty() {
        return Ok(None);
    }
    let mut root_keys = keys.private(RoleName::Root, passphrases)?;
    let new = in_root.iter().filter(|(role, _)| *role == RoleName::Root);
    root_keys.extend(new.flat_map(|(_, new)| new.keys.clone()));
    let (lifetimes, now) = (args.lifetimes.lifetimes(), args.lifetimes.now()?);
    let next = next_root(old, &in_root, &root_keys, &lifetimes, now);
    let next = wait(next)?.with_context(|| format!("signing the next root by keys in {}", keys.0.display()))?;
    Ok(Some(next.bytes))
}

/// Gives the old keys of a role other names and the new ones theirs.
fn exchange(keys: &Keys, role: RoleName, new: &RoleSigners, seal: &Seal) -> Result<Vec<String>> {
    let names = names(role, &new.keys);
    let bytes = new.keys.iter().map(|key| seal.file(key)).collect::<Result<Vec<_>>>()?;
    for name in keys.files(role)?.iter().filter(|name| !name.contains(".old-")) {
        let (path, old) = (keys.path(name), keys.path(&free_name(keys, name)?));
        fs::rename(&path, &old).with_context(|| format!("renaming {} to {}", path.display(), old.display()))?;
    }
    names.iter().zip(bytes).try_for_each(|(name, bytes)| create(&keys.path(name), &bytes, SECRET))?;
    Ok(names)
}

/// `timestamp.old-1.pem` for `timestamp.pem`, or the first number that is free.
fn free_name(keys: &Keys, name: &str) -> Result<String> {
    let (stem, end) = name.rsplit_once('.').unwrap_or((name, "pem"));
    let mut names = (1..=u16::MAX).map(|number| format!("{stem}.old-{number}.{end}"));
    names.find(|name| keys.path(name).symlink_metadata().is_err()).context("finding a name for the old key")
}
