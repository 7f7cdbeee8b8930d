//! The list of files: `SHA256SUMS`, as sha256sum(1) writes it, by which systemd-sysupdate knows versions and digests.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::digest::Digest;
use sha2::{Digest as _, Sha256};

use crate::repository::Repository;

/// The list.
const LIST: &str = "SHA256SUMS";
/// Its signature.
pub const SIGNATURE: &str = "SHA256SUMS.gpg";

/// Digests by file name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Sums(BTreeMap<String, Digest>);

impl Sums {
    /// The list in a directory; an empty one where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read(directory: &Path) -> Result<Self> {
        let path = directory.join(LIST);
        let reading = || format!("reading {}", path.display());
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).with_context(reading),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(reading),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        let line = |line: &str| -> Result<(String, Digest)> {
            let (digest, name) =
                line.split_once("  ").with_context(|| format!("{line:?} is no digest and file name"))?;
            Ok((name.to_owned(), digest.parse()?))
        };
        text.lines().map(line).collect::<Result<_>>().map(Self)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (name, digest) in &self.0 {
            let _ = writeln!(text, "{digest}  {name}");
        }
        text
    }

    /// Whether the list has a file of this name.
    pub fn names(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether a file is in the list, and as the list says.
    pub fn is_sound(&self, directory: &Path, name: &str) -> bool {
        let Some(expected) = self.0.get(name) else { return false };
        let mut hasher = Sha256::new();
        let hashed = File::open(directory.join(name)).and_then(|mut file| io::copy(&mut file, &mut hasher));
        let sound = hashed.is_ok() && Digest(hasher.finalize().into()) == *expected;
        if !sound {
            eprintln!("warning: {} is lost or damaged: making it again", directory.join(name).display());
        }
        sound
    }

    /// Enters a file.
    pub fn set(&mut self, name: String, digest: Digest) {
        self.0.insert(name, digest);
    }

    /// Leaves only those files that `keep` says.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|name, _| keep(name));
    }

    /// Writes the list, if it is not there, and signs it with `key` of gpg. Between signature and list a machine finds a
    /// signature that does not hold, refuses the list, and asks again another time.
    ///
    /// # Errors
    /// When it cannot be written; gpg's words.
    pub fn write(&self, repository: &Repository, directory: &str, key: Option<&str>) -> Result<()> {
        let text = self.text();
        let place = repository.directory().join(directory);
        let same = fs::read(place.join(LIST)).is_ok_and(|found| found == text.as_bytes());
        let signature = match key {
            Some(key) if !same || !place.join(SIGNATURE).is_file() => Some(sign(key, text.as_bytes())?),
            _ => None,
        };
        // The signature first: a run that is stopped in between finds another list, and signs again.
        if let Some(signature) = signature {
            repository.put(&format!("{directory}/{SIGNATURE}"), &signature)?;
        }
        repository.put(&format!("{directory}/{LIST}"), text.as_bytes())
    }
}

/// A detached signature by gpg, which knows where the key is and asks for what unlocks it.
fn sign(key: &str, text: &[u8]) -> Result<Vec<u8>> {
    let signing = || format!("signing {LIST} by gpg with the key {key}");
    let mut gpg = Command::new("gpg")
        .args(["--batch", "--local-user", key, "--detach-sign", "--output", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(signing)?;
    // The list is short: gpg reads it whole before it writes. Closed at the end of the statement.
    let written = gpg.stdin.take().map_or(Ok(()), |mut input| input.write_all(text));
    let output = gpg.wait_with_output().with_context(signing)?;
    ensure!(output.status.success(), "{}: it ended with {}", signing(), output.status);
    written.with_context(signing)?;
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_read_as_it_is_written() {
        let mut sums = Sums::default();
        sums.set("b".to_owned(), Digest::of(b"b"));
        sums.set("a".to_owned(), Digest::of(b"a"));
        let text = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  a\n\
                    3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d  b\n";
        assert_eq!(sums.text(), text);
        assert_eq!(Sums::parse(text).unwrap(), sums);
        sums.retain(|name| name != "a");
        assert!(sums.names("b") && !sums.names("a"));
        assert_eq!(format!("{:#}", Sums::parse("a").unwrap_err()), "\"a\" is no digest and file name");
    }
}
