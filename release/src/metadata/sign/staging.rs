//! A draft whose signers are elsewhere: staged without signatures, and finished when enough have signed.

use tough::schema::RoleType;

use super::signers::Signers;
use super::{Draft, Lifetimes, Quorum, SignError, Staged, Written, tough};
use crate::metadata::{DIRECTORY, PrivateKey, RoleName};

impl Draft {
    /// What the keys of `targets` and `hosts` are to sign, without signatures.
    ///
    /// # Errors
    /// A time that no calendar has.
    pub fn stage(&self, lifetimes: &Lifetimes, now: i64) -> Result<Vec<Staged>, SignError> {
        let mut staged = Vec::new();
        if self.targets_changed {
            staged.push(Staged::targets(RoleName::Targets, self.next_targets(lifetimes, now)?));
        }
        if self.hosts_changed {
            staged.push(Staged::targets(RoleName::Hosts, self.next_hosts(lifetimes, now)?));
        }
        Ok(staged)
    }

    /// Who must sign the metadata of `role`, where all of `staged` are signed together: for `targets` the keys that the
    /// newest root names, and, so that no client sees a gap, those of the root before it; for `hosts` those that `targets`
    /// will name.
    ///
    /// # Errors
    /// Nobody may sign host configs.
    pub fn quorums(&self, role: RoleName, staged: &[Staged]) -> Result<Vec<Quorum>, SignError> {
        if role == RoleName::Hosts {
            let staged = staged.iter().find_map(Staged::delegations);
            let delegations = staged.or(self.targets.delegations.as_ref());
            return Ok(vec![Quorum::of_hosts(delegations.ok_or_else(|| tough("nobody may sign host configs"))?)]);
        }
        let of = |by, required, root| Quorum::of_root(by, required, RoleType::Targets, root);
        Ok(match &self.adopted {
            Some((_, root)) if self.timestamp > 0 => {
                vec![of("the new root", true, root), of("the old root", false, &self.root)]
            }
            Some((_, root)) => vec![of("the root", true, root)],
            None => vec![of("the root", true, &self.root)],
        })
    }

    /// Signs snapshot and timestamp for what was staged and signed. The files are in the order of [`Draft::sign`].
    ///
    /// # Errors
    /// [`SignError::Unsigned`]; a version that is not the next one; metadata that must be signed anew and is not among
    /// `staged`; the keys of snapshot and timestamp at hand are too few.
    pub async fn finish(
        self,
        staged: &[Staged],
        keys: &[PrivateKey],
        lifetimes: &Lifetimes,
        now: i64,
    ) -> Result<Vec<Written>, SignError> {
        for (role, changed) in [(RoleName::Targets, self.targets_changed), (RoleName::Hosts, self.hosts_changed)] {
            if changed && staged.iter().all(|staged| staged.role() != role) {
                return Err(SignError::MovedOn(format!("the {role} metadata must be signed by other keys")));
            }
        }
        let mut signers = Signers::new(&self, keys, false)?;
        let mut made = Vec::new();
        for one in staged {
            let (role, quorums) = (one.role(), self.quorums(one.role(), staged)?);
            if one.version() != self.next(role)?.get() {
                return Err(SignError::MovedOn(format!("the {role} metadata has version {}", self.version(role))));
            }
            one.check(&quorums)?;
            // A client that knows the old root alone must be able to take it too, or the new root comes first.
            if quorums.iter().any(|quorum| one.check_one(quorum).is_err()) {
                signers.old = None;
            }
            made.push(one.tidy(&quorums).ok_or_else(|| tough("a root is finished by itself"))?);
        }
        self.seal(made, &signers, lifetimes, now).await
    }

    /// Refuses a state that is another one than `base`, but for snapshot and timestamp, which are signed again and again.
    ///
    /// # Errors
    /// [`SignError::MovedOn`]: names the role.
    pub fn check_base(&self, base: &Self) -> Result<(), SignError> {
        let now = |role: RoleName| if role == RoleName::Root { self.root_version() } else { self.version(role) };
        let moved = |role: RoleName| {
            let file = format!("{role}.json");
            if role == RoleName::Root { self.root != base.root } else { self.meta.get(&file) != base.meta.get(&file) }
        };
        let roles = [RoleName::Root, RoleName::Targets, RoleName::Hosts];
        match roles.into_iter().find(|role| moved(*role)) {
            Some(role) => {
                Err(SignError::MovedOn(format!("the repository's {role} metadata has become version {}", now(role))))
            }
            None => Ok(()),
        }
    }

    /// Paths of the files of metadata that this state is made of, but for older roots.
    #[must_use]
    pub fn paths(&self) -> Vec<String> {
        let mut paths =
            vec![format!("{DIRECTORY}/timestamp.json"), format!("{DIRECTORY}/{}.snapshot.json", self.snapshot)];
        for role in [RoleName::Targets, RoleName::Hosts] {
            if self.version(role) > 0 {
                paths.push(format!("{DIRECTORY}/{}.{role}.json", self.version(role)));
            }
        }
        paths
    }
}
