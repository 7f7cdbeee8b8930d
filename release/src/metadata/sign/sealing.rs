//! From a draft to the files of the next state, in the order in which they are written.

use std::collections::HashMap;

use tough::schema::{DelegatedTargets, Hashes, KeyHolder, Metafile, Role, Signed, Snapshot, Targets};

use super::draft::version;
use super::signers::Signers;
use super::timestamp::last;
use super::{
    Draft, Lifetimes, SPEC_VERSION, SignError, Written, after, bytes_of, count_at_hand, signed, tough, written,
};
use crate::digest::Digest;
use crate::metadata::{DIRECTORY, HOSTS, PrivateKey, RoleName};

impl Draft {
    /// Signs what has changed, and snapshot and timestamp anew. The files are in the order in which they must be
    /// written: after each of them a client sees the old state or the new one. Each is reached only through those
    /// behind it, and only `timestamp.json` replaces another. Root metadata that was adopted comes last, if the keys
    /// of the root before it are at hand too: then both sign, and a client takes the rest by either. Else it comes
    /// first, and until `timestamp.json` is written too, clients may refuse the repository.
    ///
    /// # Errors
    /// The keys at hand are too few.
    pub async fn sign(self, keys: &[PrivateKey], lifetimes: &Lifetimes, now: i64) -> Result<Vec<Written>, SignError> {
        let signers = Signers::new(&self, keys, self.targets_changed)?;
        let mut made = Vec::new();
        if self.targets_changed {
            made.push((RoleName::Targets, signers.sign(self.next_targets(lifetimes, now)?).await?));
        }
        if self.hosts_changed {
            made.push((RoleName::Hosts, self.sign_hosts(self.next_hosts(lifetimes, now)?, keys).await?));
        }
        self.seal(made, &signers, lifetimes, now).await
    }

    /// Puts snapshot and timestamp on what was signed.
    pub(super) async fn seal(
        mut self,
        made: Vec<(RoleName, Signed<Targets>)>,
        signers: &Signers<'_>,
        lifetimes: &Lifetimes,
        now: i64,
    ) -> Result<Vec<Written>, SignError> {
        let mut files = Vec::new();
        for (role, signed) in made {
            self.meta.insert(format!("{role}.json"), metafile(&signed)?);
            files.push(Written {
                path: format!("{DIRECTORY}/{}.{role}.json", signed.signed.version),
                bytes: bytes_of(&signed)?,
            });
        }
        let expires = after(now, lifetimes.snapshot)?;
        let mut snapshot = Snapshot::new(SPEC_VERSION.to_owned(), version(self.snapshot)?, expires);
        snapshot.meta.clone_from(&self.meta);
        let snapshot = signers.sign(snapshot).await?;
        files.push(written(&snapshot)?);
        let timestamp = self.next_timestamp(metafile(&snapshot)?, after(now, lifetimes.timestamp)?)?;
        files.push(last(&signers.sign(timestamp).await?)?);
        let roots = self.adopted.map(|(roots, _)| roots).unwrap_or_default();
        Ok(if signers.old.is_some() { [files, roots].concat() } else { [roots, files].concat() })
    }

    /// The releases as the next metadata lists them.
    pub(super) fn next_targets(&self, lifetimes: &Lifetimes, now: i64) -> Result<Targets, SignError> {
        let (version, expires) = (self.next(RoleName::Targets)?, after(now, lifetimes.targets)?);
        Ok(Targets { version, expires, ..self.targets.clone() })
    }

    /// The host configs as the next metadata lists them.
    pub(super) fn next_hosts(&self, lifetimes: &Lifetimes, now: i64) -> Result<Targets, SignError> {
        let hosts = self.hosts.clone().ok_or_else(|| tough("there are no host configs"))?;
        Ok(Targets { version: self.next(RoleName::Hosts)?, expires: after(now, lifetimes.hosts)?, ..hosts })
    }

    async fn sign_hosts(&self, hosts: Targets, keys: &[PrivateKey]) -> Result<Signed<Targets>, SignError> {
        let delegations = self.targets.delegations.clone().ok_or_else(|| tough("nobody may sign host configs"))?;
        let role = delegations.roles.iter().find(|role| role.name == HOSTS);
        let role = role.ok_or_else(|| tough("nobody may sign host configs"))?;
        count_at_hand(HOSTS, &role.keyids, role.threshold, keys)?;
        let hosts = DelegatedTargets { name: HOSTS.to_owned(), targets: hosts };
        Ok(signed(hosts, &KeyHolder::Delegations(delegations), keys).await?.signed().clone().targets().1)
    }
}

fn metafile<T: Role>(role: &Signed<T>) -> Result<Metafile, SignError> {
    let bytes = bytes_of(role)?;
    let hashes = Hashes { sha256: Digest::of(&bytes).0.to_vec().into(), _extra: HashMap::new() };
    Ok(Metafile {
        length: Some(bytes.len() as u64),
        hashes: Some(hashes),
        version: role.signed.version(),
        _extra: HashMap::new(),
    })
}
