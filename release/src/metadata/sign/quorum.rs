//! Who must sign a role: so many of these keys.

use std::num::NonZeroU64;

use serde::Serialize;
use tough::schema::decoded::{Decoded, Hex};
use tough::schema::{Delegations, Error, Role, RoleType, Root, Signature, Signed};

use super::staged::Body;
use super::{PrivateKey, SignError, tough};
use crate::digest::to_hex;
use crate::metadata::HOSTS;

/// The keys of which so many must sign a role.
#[derive(Debug, Clone)]
pub struct Quorum {
    /// Who names the keys: "the root", say.
    by: &'static str,
    /// Whether nothing goes without them.
    required: bool,
    holder: Holder,
}

#[derive(Debug, Clone)]
enum Holder {
    /// Of a role that the root names.
    Root(RoleType, Box<Root>),
    /// Of the delegated role `hosts`.
    Hosts(Box<Delegations>),
}

impl Quorum {
    /// The keys that `root` names for a role.
    pub(super) fn of_root(by: &'static str, required: bool, role: RoleType, root: &Root) -> Self {
        Self { by, required, holder: Holder::Root(role, Box::new(root.clone())) }
    }

    /// The keys of `hosts`.
    pub(super) fn of_hosts(delegations: &Delegations) -> Self {
        let holder = Holder::Hosts(Box::new(delegations.clone()));
        Self { by: "the delegation to hosts", required: true, holder }
    }

    /// Who names the keys.
    #[must_use]
    pub fn by(&self) -> &'static str {
        self.by
    }

    /// Whether nothing goes without them. Others help: machines that know older keys see no gap.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// How many must sign.
    #[must_use]
    pub fn needed(&self) -> u64 {
        self.of().map_or(0, |(_, threshold)| threshold.get())
    }

    /// Ids of the keys, hexadecimal.
    #[must_use]
    pub fn key_ids(&self) -> Vec<String> {
        self.of().map(|(ids, _)| ids.iter().map(|id| to_hex(id)).collect()).unwrap_or_default()
    }

    fn of(&self) -> Option<(&[Decoded<Hex>], NonZeroU64)> {
        match &self.holder {
            Holder::Root(role, root) => root.roles.get(role).map(|keys| (keys.keyids.as_slice(), keys.threshold)),
            Holder::Hosts(delegations) => {
                let role = delegations.roles.iter().find(|role| role.name == HOSTS)?;
                Some((role.keyids.as_slice(), role.threshold))
            }
        }
    }

    /// Whether a key is one of them.
    pub(super) fn names(&self, key: &PrivateKey) -> bool {
        self.of().is_some_and(|(ids, _)| ids.contains(&key.public().0))
    }

    /// The signatures on a document that are by these keys and hold.
    pub(super) fn valid(&self, body: &Body) -> Vec<Signature> {
        let one = self.of_one();
        let holds = |signature: &&Signature| one.check(&body.with_signatures(vec![(*signature).clone()])).is_ok();
        body.signatures().iter().filter(holds).cloned().collect()
    }

    /// The same keys, any of which would do.
    fn of_one(&self) -> Self {
        let mut one = self.clone();
        match &mut one.holder {
            Holder::Root(role, root) => {
                if let Some(keys) = root.roles.get_mut(role) {
                    keys.threshold = NonZeroU64::MIN;
                }
            }
            Holder::Hosts(delegations) => {
                delegations.roles.iter_mut().for_each(|role| role.threshold = NonZeroU64::MIN);
            }
        }
        one
    }

    /// Whether enough of them have signed.
    ///
    /// # Errors
    /// [`SignError::Unsigned`].
    pub(super) fn check(&self, body: &Body) -> Result<(), SignError> {
        let checked = match (&self.holder, body) {
            (Holder::Root(_, root), Body::Root(signed)) => verify(root, signed),
            (Holder::Root(_, root), Body::Targets(_, signed)) => verify(root, signed),
            (Holder::Hosts(delegations), Body::Targets(_, signed)) => delegations.verify_role(signed, HOSTS),
            (Holder::Hosts(_), Body::Root(_)) => return Err(tough("hosts sign no root")),
        };
        checked.map_err(|error| match error {
            Error::SignatureThreshold { threshold, valid, .. } => {
                SignError::Unsigned { role: body.role(), by: self.by, valid, needed: threshold }
            }
            other => tough(other),
        })
    }
}

fn verify<T: Role + Serialize>(root: &Root, signed: &Signed<T>) -> Result<(), Error> {
    root.verify_role(signed)
}
