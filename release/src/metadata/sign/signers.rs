//! Who signs a draft.

use serde::Serialize;
use tough::schema::{KeyHolder, Role, RoleType, Signed};

use super::{Draft, PrivateKey, SignError, check_at_hand, signed, tough};

/// Who signs: the keys of the root that the repository will have, and those of the one before if they are needed.
pub(super) struct Signers<'a> {
    new: KeyHolder,
    pub old: Option<KeyHolder>,
    keys: &'a [PrivateKey],
}

impl<'a> Signers<'a> {
    /// Of snapshot and timestamp, and of `targets` where they sign too.
    pub fn new(draft: &Draft, keys: &'a [PrivateKey], targets: bool) -> Result<Self, SignError> {
        let root = draft.adopted.as_ref().map_or(&draft.root, |(_, root)| root);
        let online = [RoleType::Snapshot, RoleType::Timestamp];
        let roles = || online.into_iter().chain(targets.then_some(RoleType::Targets));
        roles().try_for_each(|role| check_at_hand(root, role, keys))?;
        // A new repository has no client yet that knows an older root's keys.
        let climbs = draft.adopted.is_some() && draft.timestamp > 0;
        let old = climbs && roles().all(|role| check_at_hand(&draft.root, role, keys).is_ok());
        let old = old.then(|| KeyHolder::Root(draft.root.clone()));
        Ok(Self { new: KeyHolder::Root(root.clone()), old, keys })
    }

    pub async fn sign<T: Role + Serialize + Clone>(&self, role: T) -> Result<Signed<T>, SignError> {
        let by_new = signed(role.clone(), &self.new, self.keys).await?;
        let Some(old) = &self.old else { return Ok(by_new.signed().clone()) };
        let by_old = signed(role, old, self.keys).await?;
        Ok(by_new.add_old_signatures(by_old.signed().signatures.clone()).map_err(tough)?.signed().clone())
    }
}
