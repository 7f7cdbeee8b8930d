//! Root metadata: the first of a new repository, and the next behind another.

use std::collections::HashMap;
use std::num::NonZeroU64;

use tough::schema::{KeyHolder, RoleKeys, RoleType, Root};

use super::{
    Keyring, Lifetimes, PrivateKey, PublicSigners, RoleName, RoleSigners, SPEC_VERSION, SignError, Staged, TrustedRoot,
    Written, after, check_at_hand, signed, tough, written,
};

/// Version 1 of the root metadata of a new repository.
///
/// # Errors
/// A threshold that its keys cannot reach.
pub async fn new_root(keyring: &Keyring, lifetimes: &Lifetimes, now: i64) -> Result<Written, SignError> {
    let mut root = Root {
        spec_version: SPEC_VERSION.to_owned(),
        consistent_snapshot: true,
        version: NonZeroU64::MIN,
        expires: after(now, lifetimes.root)?,
        keys: HashMap::new(),
        roles: HashMap::new(),
        _extra: HashMap::new(),
    };
    name_keys(&mut root, keyring)?;
    let signed = signed(root.clone(), &KeyHolder::Root(root.clone()), &keyring.root.keys).await?;
    root.verify_role(signed.signed()).map_err(tough)?;
    written(signed.signed())
}

/// The next version of the root metadata, without signatures: the roles of `changes` have new keys, the others keep theirs.
///
/// # Errors
/// As [`next_root`], but for keys that are not at hand.
pub fn stage_root(
    old: &TrustedRoot,
    changes: &[(RoleName, PublicSigners)],
    lifetimes: &Lifetimes,
    now: i64,
) -> Result<Staged, SignError> {
    Ok(Staged::root(root_behind(old, changes, lifetimes, now)?))
}

fn root_behind(
    old: &TrustedRoot,
    changes: &[(RoleName, PublicSigners)],
    lifetimes: &Lifetimes,
    now: i64,
) -> Result<Root, SignError> {
    let mut root = old.root.clone();
    root.version = root.version.checked_add(1).ok_or_else(|| tough("no version is left"))?;
    root.expires = after(now, lifetimes.root)?;
    for (role, signers) in changes {
        let kind = role.of_root().ok_or_else(|| tough(format!("the root names no keys for {role}")))?;
        name_keys_of(&mut root, kind, signers)?;
    }
    let used: Vec<_> = root.roles.values().flat_map(|role| role.keyids.clone()).collect();
    root.keys.retain(|id, _| used.contains(id));
    Ok(root)
}

/// The next version of the root metadata: the roles of `changes` have new keys, the others keep theirs. `root_keys`
/// sign it: those that the old root trusts, and those that the new one does.
///
/// # Errors
/// The keys at hand are too few for the old root, or for the new one; `changes` names `hosts`, whose keys stand in the
/// delegation.
pub async fn next_root(
    old: &TrustedRoot,
    changes: &[(RoleName, RoleSigners)],
    root_keys: &[PrivateKey],
    lifetimes: &Lifetimes,
    now: i64,
) -> Result<Written, SignError> {
    let changes: Vec<_> = changes.iter().map(|(role, signers)| (*role, signers.public())).collect();
    let root = root_behind(old, &changes, lifetimes, now)?;
    check_at_hand(&old.root, RoleType::Root, root_keys)?;
    check_at_hand(&root, RoleType::Root, root_keys)?;
    let by_old = signed(root.clone(), &KeyHolder::Root(old.root.clone()), root_keys).await?;
    let by_new = signed(root.clone(), &KeyHolder::Root(root.clone()), root_keys).await?;
    let both = by_new.add_old_signatures(by_old.signed().signatures.clone()).map_err(tough)?;
    old.root.verify_role(both.signed()).map_err(tough)?;
    root.verify_role(both.signed()).map_err(tough)?;
    written(both.signed())
}

fn name_keys(root: &mut Root, keyring: &Keyring) -> Result<(), SignError> {
    for (kind, role) in [
        (RoleType::Root, &keyring.root),
        (RoleType::Targets, &keyring.targets),
        (RoleType::Snapshot, &keyring.snapshot),
        (RoleType::Timestamp, &keyring.timestamp),
    ] {
        name_keys_of(root, kind, &role.public())?;
    }
    Ok(())
}

fn name_keys_of(root: &mut Root, kind: RoleType, signers: &PublicSigners) -> Result<(), SignError> {
    let (keyids, keys): (Vec<_>, Vec<_>) = signers.keys.iter().map(|key| (key.parts().0, key.parts())).unzip();
    let at_hand = keyids.len() as u64;
    if at_hand < signers.threshold.get() {
        return Err(SignError::KeysMissing { role: kind.to_string(), needed: signers.threshold.get(), at_hand });
    }
    root.keys.extend(keys);
    root.roles.insert(kind, RoleKeys { keyids, threshold: signers.threshold, _extra: HashMap::new() });
    Ok(())
}
