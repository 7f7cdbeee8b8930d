//! Metadata that goes from one signer to the next, until enough have signed it.

use std::collections::BTreeMap;

use serde_json::Value;
use tough::schema::{Delegations, Role, RoleType, Root, Signature, Signed, Targets};

use super::{PrivateKey, Quorum, SignError, TrustedRoot, Written, bytes_of, tough};
use crate::digest::to_hex;
use crate::metadata::load::files;
use crate::metadata::{DIRECTORY, MetadataError, RoleName, TargetFile};

/// Metadata of one role on its way from signer to signer.
#[derive(Debug, Clone)]
pub struct Staged {
    pub(super) body: Body,
}

/// What is signed, and the signatures so far.
#[derive(Debug, Clone)]
pub(super) enum Body {
    Root(Signed<Root>),
    /// Of `targets` or `hosts`.
    Targets(RoleName, Signed<Targets>),
}

/// A role as root metadata has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootRole {
    /// Its name.
    pub role: RoleName,
    /// Ids of its keys, hexadecimal, sorted.
    pub key_ids: Vec<String>,
    /// How many of them must sign.
    pub threshold: u64,
}

impl Body {
    pub fn role(&self) -> RoleName {
        match self {
            Self::Root(_) => RoleName::Root,
            Self::Targets(role, _) => *role,
        }
    }

    pub fn signatures(&self) -> &[Signature] {
        match self {
            Self::Root(signed) => &signed.signatures,
            Self::Targets(_, signed) => &signed.signatures,
        }
    }

    pub fn with_signatures(&self, signatures: Vec<Signature>) -> Self {
        match self.clone() {
            Self::Root(signed) => Self::Root(Signed { signatures, ..signed }),
            Self::Targets(role, signed) => Self::Targets(role, Signed { signatures, ..signed }),
        }
    }

    fn message(&self) -> Result<Vec<u8>, SignError> {
        match self {
            Self::Root(signed) => signed.signed.canonical_form().map_err(tough),
            Self::Targets(_, signed) => signed.signed.canonical_form().map_err(tough),
        }
    }
}

impl Staged {
    pub(super) fn root(root: Root) -> Self {
        Self { body: Body::Root(unsigned(root)) }
    }

    pub(super) fn targets(role: RoleName, targets: Targets) -> Self {
        Self { body: Body::Targets(role, unsigned(targets)) }
    }

    /// Reads what [`Staged::to_bytes`] has written for a role.
    ///
    /// # Errors
    /// It is no metadata of that role, or the role is none that is staged.
    pub fn parse(role: RoleName, bytes: &[u8]) -> Result<Self, SignError> {
        let body = match role {
            RoleName::Root => Body::Root(serde_json::from_slice(bytes).map_err(tough)?),
            RoleName::Targets | RoleName::Hosts => Body::Targets(role, serde_json::from_slice(bytes).map_err(tough)?),
            RoleName::Snapshot | RoleName::Timestamp => return Err(tough(format!("{role} metadata is not staged"))),
        };
        Ok(Self { body })
    }

    /// As a file holds it.
    ///
    /// # Errors
    /// None that occur.
    pub fn to_bytes(&self) -> Result<Vec<u8>, SignError> {
        match &self.body {
            Body::Root(signed) => bytes_of(signed),
            Body::Targets(_, signed) => bytes_of(signed),
        }
    }

    /// Whose metadata it is.
    #[must_use]
    pub fn role(&self) -> RoleName {
        self.body.role()
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> u64 {
        match &self.body {
            Body::Root(signed) => signed.signed.version.get(),
            Body::Targets(_, signed) => signed.signed.version.get(),
        }
    }

    /// Second since 1970 at which it ends.
    #[must_use]
    pub fn expires(&self) -> i64 {
        match &self.body {
            Body::Root(signed) => signed.signed.expires.as_second(),
            Body::Targets(_, signed) => signed.signed.expires.as_second(),
        }
    }

    /// What it vouches for, by name; nothing, if it is a root.
    ///
    /// # Errors
    /// A name or digest that cannot be.
    pub fn files(&self) -> Result<BTreeMap<String, TargetFile>, MetadataError> {
        match &self.body {
            Body::Root(_) => Ok(BTreeMap::new()),
            Body::Targets(role, signed) => files(*role, &signed.signed.targets),
        }
    }

    /// Who may sign host configs by it, as [`super::delegation`] makes it; null where it does not say.
    ///
    /// # Errors
    /// None that occur.
    pub fn delegation(&self) -> Result<Value, SignError> {
        match &self.body {
            Body::Root(_) => Ok(Value::Null),
            Body::Targets(_, signed) => serde_json::to_value(&signed.signed.delegations).map_err(tough),
        }
    }

    /// The roles as it names them, if it is a root.
    #[must_use]
    pub fn root_roles(&self) -> Vec<RootRole> {
        match &self.body {
            Body::Root(signed) => root_roles(&signed.signed),
            Body::Targets(..) => Vec::new(),
        }
    }

    /// Who must sign it behind `old`, if it is a root: as many as the old one wants, and as many as it wants itself.
    #[must_use]
    pub fn root_quorums(&self, old: &TrustedRoot) -> Vec<Quorum> {
        let Body::Root(signed) = &self.body else { return Vec::new() };
        let of = |by, root| Quorum::of_root(by, true, RoleType::Root, root);
        vec![of("the old root", &old.root), of("the new root", &signed.signed)]
    }

    /// Ids of the keys of `quorum` whose signatures on it hold, sorted.
    #[must_use]
    pub fn signed_by(&self, quorum: &Quorum) -> Vec<String> {
        let mut ids: Vec<_> = quorum.valid(&self.body).iter().map(|signature| to_hex(&signature.keyid)).collect();
        ids.sort();
        ids.dedup();
        ids
    }

    /// Adds the signatures of those of `keys` that one of `quorums` names and that have not signed it yet; signatures that
    /// nobody needs or that do not hold are dropped. Returns the ids of the keys that have signed now.
    ///
    /// # Errors
    /// None that occur.
    pub fn sign(&mut self, quorums: &[Quorum], keys: &[PrivateKey]) -> Result<Vec<String>, SignError> {
        let mut kept = self.valid(quorums);
        let message = self.body.message()?;
        let mut new = Vec::new();
        for key in keys.iter().filter(|key| quorums.iter().any(|quorum| quorum.names(key))) {
            let keyid = key.public().0;
            if kept.iter().all(|signature| signature.keyid != keyid) {
                kept.push(Signature { keyid, sig: key.signature(&message)?.into() });
                new.push(key.id());
            }
        }
        self.body = self.body.with_signatures(kept);
        Ok(new)
    }

    /// The signatures that one of `quorums` counts, each key's once.
    fn valid(&self, quorums: &[Quorum]) -> Vec<Signature> {
        let mut kept: Vec<Signature> = Vec::new();
        for signature in quorums.iter().flat_map(|quorum| quorum.valid(&self.body)) {
            if kept.iter().all(|other| other.keyid != signature.keyid) {
                kept.push(signature);
            }
        }
        kept
    }

    /// Refuses what not enough people have signed.
    ///
    /// # Errors
    /// [`SignError::Unsigned`] for the first of the required quorums that is not reached.
    pub fn check(&self, quorums: &[Quorum]) -> Result<(), SignError> {
        let body = self.body.with_signatures(self.valid(quorums));
        quorums.iter().filter(|quorum| quorum.is_required()).try_for_each(|quorum| quorum.check(&body))
    }

    /// Refuses what not enough people of one quorum have signed, whether it is required or not.
    pub(super) fn check_one(&self, quorum: &Quorum) -> Result<(), SignError> {
        quorum.check(&self.body.with_signatures(self.valid(std::slice::from_ref(quorum))))
    }

    /// Who may sign host configs by it.
    pub(super) fn delegations(&self) -> Option<&Delegations> {
        match &self.body {
            Body::Targets(RoleName::Targets, signed) => signed.signed.delegations.as_ref(),
            Body::Root(_) | Body::Targets(..) => None,
        }
    }

    /// The root metadata as it is published, once enough have signed it to come behind `old`.
    ///
    /// # Errors
    /// [`SignError::Unsigned`]; it does not come right behind the old one; it is no root.
    pub fn finish_root(&self, old: &TrustedRoot) -> Result<Written, SignError> {
        let quorums = self.root_quorums(old);
        if quorums.is_empty() {
            return Err(tough("this is no root metadata"));
        }
        if Some(self.version()) != old.version().checked_add(1) {
            return Err(SignError::MovedOn(format!("the root has version {}", old.version())));
        }
        self.check(&quorums)?;
        let whole = Self { body: self.body.with_signatures(self.valid(&quorums)) };
        Ok(Written { path: format!("{DIRECTORY}/{}.root.json", self.version()), bytes: whole.to_bytes()? })
    }

    /// Only the signatures that count, for publication.
    pub(super) fn tidy(&self, quorums: &[Quorum]) -> Option<(RoleName, Signed<Targets>)> {
        match self.body.with_signatures(self.valid(quorums)) {
            Body::Root(_) => None,
            Body::Targets(role, signed) => Some((role, signed)),
        }
    }
}

impl TrustedRoot {
    /// The roles as it names them.
    #[must_use]
    pub fn roles(&self) -> Vec<RootRole> {
        root_roles(&self.root)
    }

    /// The root behind this one: `bytes`, which as many keys of this one have signed as it wants, and of its own as it wants
    /// itself (TUF 5.3.4 and 5.3.5).
    ///
    /// # Errors
    /// It is no root metadata, not signed so, or not of the next version.
    pub fn follow(&self, bytes: &[u8]) -> Result<Self, SignError> {
        let next = Staged::parse(RoleName::Root, bytes)?;
        if Some(next.version()) != self.version().checked_add(1) {
            return Err(tough(format!("root version {} does not come behind {}", next.version(), self.version())));
        }
        next.finish_root(self)?;
        let value: Value = serde_json::from_slice(bytes).map_err(tough)?;
        Ok(Self::parse(&value)?)
    }
}

fn unsigned<T>(signed: T) -> Signed<T> {
    Signed { signed, signatures: Vec::new() }
}

fn root_roles(root: &Root) -> Vec<RootRole> {
    let of = |role: RoleName| {
        let keys = root.roles.get(&role.of_root()?)?;
        let mut key_ids: Vec<_> = keys.keyids.iter().map(|id| to_hex(id)).collect();
        key_ids.sort();
        Some(RootRole { role, key_ids, threshold: keys.threshold.get() })
    };
    RoleName::ALL.into_iter().filter_map(of).collect()
}
