//! The directory of keys: private keys as `ROLE.pem` (`ROLE-1.pem` and so on where a role has several,
//! `ROLE.old-1.pem` for what was replaced), or `ROLE.uri` with the PKCS#11 URI of one on a token; root metadata as
//! `root.json` and `N.root.json`, and `delegation.json`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_installer::escapes;
use metalstrap_release::metadata::{DIRECTORY, PrivateKey, RoleName, TrustedRoot, Written};
use metalstrap_token::KeyUri;
use serde_json::Value;

use crate::encrypted;
use crate::passphrase::Passphrases;
use crate::tokens::{Found, Tokens};

/// The newest root metadata.
pub const ROOT: &str = "root.json";
/// Who may sign host configs.
pub const DELEGATION: &str = "delegation.json";

/// How a file with a private key ends.
const PEM: &str = ".pem";
/// How a file ends that says which key on a token it is.
const URI: &str = ".uri";
/// What the names of keys have that were replaced.
const OLD: &str = ".old-";

/// A directory of keys. Which private ones are there depends on the machine.
#[derive(Debug, Clone)]
pub struct Keys(pub PathBuf);

impl Keys {
    /// Path of a file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The private keys of a role, old ones too: which of them count is for the root to say. Encrypted ones are decrypted,
    /// and tokens are logged in to. A token that is not there is no error where the role has other keys: of several people's
    /// tokens one is plugged in at a time.
    ///
    /// # Errors
    /// A file that holds no key, one whose passphrase or PIN is not to be had, or only tokens that are not there.
    pub fn private(&self, role: RoleName, passphrases: &Passphrases) -> Result<Vec<PrivateKey>> {
        let (mut keys, mut absent) = (Vec::new(), Vec::new());
        for name in self.files(role)? {
            let path = self.path(&name);
            let reading = || format!("reading the key {}", path.display());
            if !name.ends_with(URI) {
                keys.push(read(&path, passphrases)?);
                continue;
            }
            let uri = read_uri(&path)?;
            // An old key is not worth asking a person for its PIN, as long as nothing is to be signed by it.
            match find(passphrases.tokens(), &uri, !name.contains(OLD)).with_context(reading)? {
                Found::Key(key) => keys.push(*key),
                Found::Absent(text) => absent.push(format!("the key {} is not at hand: {text}", path.display())),
            }
        }
        match absent.first() {
            Some(text) if keys.is_empty() => bail!("{text}"),
            _ => absent.iter().for_each(|text| eprintln!("warning: {}", escapes::line(text))),
        }
        Ok(keys)
    }

    /// Names of the files with private keys of a role, or with URIs of such keys, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn files(&self, role: RoleName) -> Result<Vec<String>> {
        let of_role = |name: &String| {
            let stem = name.strip_suffix(PEM).or_else(|| name.strip_suffix(URI));
            let rest = stem.and_then(|stem| stem.strip_prefix(role.as_str()));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '-']))
        };
        Ok(self.names()?.into_iter().filter(of_role).collect())
    }

    /// Checks that there is a key of each role.
    ///
    /// # Errors
    /// Names the file that is missing.
    pub fn check_present(&self, roles: &[RoleName]) -> Result<()> {
        for role in roles {
            let path = self.path(&format!("{role}.pem"));
            let there = !self.files(*role)?.is_empty();
            ensure!(there, "{} is missing: without this key, {role} metadata cannot be signed", path.display());
        }
        Ok(())
    }

    /// Every version of the root metadata that is here, as it is published, the oldest first.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn roots(&self) -> Result<Vec<(u64, Written)>> {
        let version = |name: &String| name.strip_suffix(".root.json")?.parse::<u64>().ok();
        let mut versions: Vec<u64> = self.names()?.iter().filter_map(version).collect();
        versions.sort_unstable();
        let read = |version: u64| {
            let path = self.path(&format!("{version}.root.json"));
            let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            Ok((version, Written { path: format!("{DIRECTORY}/{version}.root.json"), bytes }))
        };
        versions.into_iter().map(read).collect()
    }

    /// The newest root.
    ///
    /// # Errors
    /// When it is not there, or no root.
    pub fn root(&self) -> Result<TrustedRoot> {
        read_root(&self.path(ROOT))
    }

    /// The root that any version of the repository can be reached from.
    ///
    /// # Errors
    /// When there is none.
    pub fn oldest_root(&self) -> Result<TrustedRoot> {
        read_root(&self.oldest_root_path()?)
    }

    /// Path of the oldest root.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn oldest_root_path(&self) -> Result<PathBuf> {
        let name = self.roots()?.first().map_or_else(|| ROOT.to_owned(), |(version, _)| format!("{version}.root.json"));
        Ok(self.path(&name))
    }

    /// Who may sign host configs.
    ///
    /// # Errors
    /// When that is not there, or no JSON.
    pub fn delegation(&self) -> Result<Value> {
        let path = self.path(DELEGATION);
        let reading = || format!("reading {}: `metalstrap keygen` makes it", path.display());
        let bytes = fs::read(&path).with_context(reading)?;
        serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
    }

    fn names(&self) -> Result<Vec<String>> {
        let reading = || format!("reading the directory of keys {}", self.0.display());
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0).with_context(reading)? {
            names.extend(entry.with_context(reading)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }
}

/// Reads a private key from a file.
fn read(path: &Path, passphrases: &Passphrases) -> Result<PrivateKey> {
    let (shown, mode) = (path.display(), mode(path));
    ensure!(mode & 0o077 == 0, "the key {shown} is open to others (mode {mode:03o}): chmod 600 it");
    let text = fs::read_to_string(path).with_context(|| format!("reading the key {shown}"))?;
    match encrypted::find(&text) {
        Some(der) => passphrases.unlock(path, &der),
        None => PrivateKey::from_pem(&text).with_context(|| format!("reading the key {shown}")),
    }
}

/// Reads which key on a token a file means. It names a module, whose code is run: nobody else may write it.
fn read_uri(path: &Path) -> Result<KeyUri> {
    let (shown, mode) = (path.display(), mode(path));
    ensure!(mode & 0o022 == 0, "the key {shown} can be changed by others (mode {mode:03o}): chmod go-w it");
    let reading = || format!("reading the key {shown}");
    fs::read_to_string(path).with_context(reading)?.trim().parse().with_context(reading)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).map(|found| found.permissions().mode() & 0o777).unwrap_or_default()
}

/// Looks for a key on a token, and now whether it can sign: not after an hour of compression.
fn find(tokens: &Tokens, uri: &KeyUri, check: bool) -> Result<Found> {
    let found = tokens.find(uri)?;
    if check && matches!(found, Found::Key(_)) {
        tokens.check(uri)?;
    }
    Ok(found)
}

/// Reads root metadata from a file.
///
/// # Errors
/// When it cannot be read, or is none that its own keys have signed.
pub fn read_root(path: &Path) -> Result<TrustedRoot> {
    Ok(read_root_value(path)?.1)
}

/// The same, and the document that it is.
///
/// # Errors
/// As [`read_root`].
pub fn read_root_value(path: &Path) -> Result<(Value, TrustedRoot)> {
    let reading = || format!("reading the root metadata {}", path.display());
    let bytes = fs::read(path).with_context(reading)?;
    let value: Value = serde_json::from_slice(&bytes).with_context(reading)?;
    let root = TrustedRoot::parse(&value).with_context(reading)?;
    Ok((value, root))
}
