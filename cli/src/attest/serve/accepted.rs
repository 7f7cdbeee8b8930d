//! The endorsement keys that were accepted, in a file.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use metalstrap_release::attest::Base64;
use metalstrap_release::document::{FORMAT, Kind};
use metalstrap_release::tpm2::Ek;
use serde::{Deserialize, Serialize};

use crate::{clock, files};

const KIND: Kind = Kind { name: "list of accepted keys", max_bytes: 64 << 20 };
const MODE: u32 = 0o600;

/// The keys.
#[derive(Debug)]
pub struct Accepted {
    path: PathBuf,
    list: List,
    eks: Vec<Ek>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    format: u32,
    accepted: Vec<Entry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// Name of the key, for people.
    name: String,
    /// Its public area.
    ek: Base64,
    /// When it was accepted first, by RFC 3339.
    since: String,
    /// What its machine has said of itself then.
    claims: BTreeMap<String, String>,
}

impl Accepted {
    /// Reads the file; there may be none yet.
    ///
    /// # Errors
    /// It cannot be read, or is no list of keys.
    pub fn open(path: PathBuf) -> Result<Self> {
        let list = match fs::read(&path) {
            Ok(bytes) => {
                let checking = || format!("checking the accepted keys {}", path.display());
                let list: List = KIND.parse(&bytes).with_context(checking)?;
                KIND.check_format(list.format).with_context(checking)?;
                list
            }
            Err(error) if error.kind() == ErrorKind::NotFound => List { format: FORMAT, accepted: Vec::new() },
            Err(error) => return Err(error).with_context(|| format!("reading the accepted keys {}", path.display())),
        };
        let ek = |entry: &Entry| {
            Ek::of_public(&entry.ek.0).with_context(|| {
                format!("checking the accepted keys {}: {:?} is no endorsement key", path.display(), entry.name)
            })
        };
        let eks = list.accepted.iter().map(ek).collect::<Result<_>>()?;
        Ok(Self { path, list, eks })
    }

    /// All of them.
    pub fn eks(&self) -> &[Ek] {
        &self.eks
    }

    /// Adds one, on the disk first; one that is there already, from another exchange of its machine, is not added again.
    ///
    /// # Errors
    /// The file cannot be written; the key is not accepted then.
    pub fn add(&mut self, ek: &Ek, claims: &BTreeMap<String, String>) -> Result<()> {
        if self.eks.contains(ek) {
            return Ok(());
        }
        let mut list = self.list.clone();
        list.accepted.push(Entry {
            name: ek.id(),
            ek: Base64(ek.public()),
            since: clock::text(clock::now()?),
            claims: claims.clone(),
        });
        let mut bytes = serde_json::to_vec_pretty(&list).context("encoding the accepted keys")?;
        bytes.push(b'\n');
        files::replace(&self.path, &bytes, MODE)?;
        self.list = list;
        self.eks.push(ek.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ek(byte: u8) -> Ek {
        Ek::EccP256 { x: [byte; 32], y: [byte; 32] }
    }

    #[test]
    fn what_was_accepted_is_so_after_a_restart() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("accepted.json");
        let mut accepted = Accepted::open(path.clone()).unwrap();
        assert!(accepted.eks().is_empty());
        let claims = BTreeMap::from([("serial".to_owned(), "7XK2J13".to_owned())]);
        accepted.add(&ek(1), &claims).unwrap();
        accepted.add(&ek(2), &BTreeMap::new()).unwrap();
        accepted.add(&ek(1), &BTreeMap::new()).unwrap();
        let again = Accepted::open(path.clone()).unwrap();
        assert_eq!(again.eks(), [ek(1), ek(2)]);
        assert_eq!((again.list.accepted[0].name.clone(), again.list.accepted[0].claims.clone()), (ek(1).id(), claims));

        let text = format!("checking the accepted keys {}", path.display());
        let text = format!("{text}: the list of accepted keys's format is 2, but this installer reads 1");
        fs::write(&path, r#"{"format": 2, "accepted": []}"#).unwrap();
        assert_eq!(format!("{:#}", Accepted::open(path.clone()).unwrap_err()), text);
        let entry = r#"{"name": "it", "ek": "AAAA", "since": "", "claims": {}}"#;
        fs::write(&path, format!(r#"{{"format": 1, "accepted": [{entry}]}}"#)).unwrap();
        let text = format!("checking the accepted keys {}: \"it\" is no endorsement key", path.display());
        assert_eq!(format!("{:#}", Accepted::open(path).unwrap_err()), text);
    }
}
