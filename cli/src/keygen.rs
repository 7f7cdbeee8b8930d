//! `metalstrap keygen`: makes keys, replaces them, and makes certificates to try things out with.

use std::fs;
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_release::metadata::{Keyring, PrivateKey, RoleName, RoleSigners, delegation, new_root};
use metalstrap_token::KeyUri;
use serde_json::{Value, json};

use crate::files::create;
use crate::keys::{DELEGATION, Keys, ROOT};
use crate::lifetimes::LifetimeArgs;
use crate::passphrase::{Passphrase, PassphraseArgs, Passphrases};
use crate::stage::StageArgs;
use crate::tokens::Tokens;
use crate::wait::wait;
use crate::{clock, encrypted, output};

mod rotate;
mod tls;

pub use rotate::publish_root;

/// What only its owner may read.
const SECRET: u32 = 0o600;
/// What everybody may.
const PUBLIC: u32 = 0o644;
/// The most root keys.
const MAX_KEYS: u64 = 16;

/// Makes the keys of a repository: one of each role, and the root metadata that a site config embeds.
///
/// No key is ever overwritten. root.pem (and targets.pem) belong on a machine without a network, or on a stick in a
/// safe; snapshot.pem and timestamp.pem where `metalstrap refresh` runs.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  metalstrap keygen --keys keys
  metalstrap keygen --keys keys --root-keys 3 --root-threshold 2
  metalstrap keygen --keys keys --encrypt                              # asks for a passphrase
  metalstrap keygen --keys keys --token 'root=pkcs11:token=safe;object=root?module-path=/usr/lib/softhsm/libsofthsm2.so'
  metalstrap keygen --keys keys --rotate timestamp --rotate snapshot   # then publish or refresh
  metalstrap keygen --keys keys --renew                                # the same keys, a root that holds longer
  metalstrap keygen --keys keys --renew --stage stage                  # for root keys that are elsewhere
  metalstrap keygen --keys keys --rotate root --root-public ann.pub --root-public bob.pub --root-threshold 2 --stage stage
  metalstrap keygen --keys tls --tls repo.test --tls-ip 10.0.0.1       # certificates to try things out with
It prints one line of JSON: the directory, the files made, and version and expiry of the root.")]
pub struct Args {
    /// Directory of the keys, for its owner's eyes only; made if there is none
    #[arg(long, value_name = "DIR")]
    keys: PathBuf,
    /// How many keys the root has [default: 1, or as many as it has]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=MAX_KEYS))]
    root_keys: Option<u64>,
    /// How many of them must sign the next root [default: 1, or as many as must now]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u64).range(1..=MAX_KEYS))]
    root_threshold: Option<u64>,
    /// Makes a new key for this role, and the next root; needs the root's keys (but for hosts). May be repeated
    #[arg(long, value_name = "ROLE")]
    rotate: Vec<RoleName>,
    /// Public key (PEM) of somebody who holds a root key, for --rotate root with --stage: the new root has these keys, and none
    /// is made here. May be repeated
    #[arg(long, value_name = "FILE", requires = "stage", conflicts_with = "root_keys")]
    root_public: Vec<PathBuf>,
    /// Makes the next root with the same keys, so that it holds longer
    #[arg(long)]
    renew: bool,
    /// Makes a CA and a server certificate for this name, for tests only, and nothing else
    #[arg(long, value_name = "NAME", conflicts_with_all = ["rotate", "renew", "root_keys", "root_threshold"])]
    tls: Option<String>,
    /// Address that the server certificate is good for too. May be repeated
    #[arg(long, value_name = "IP", requires = "tls")]
    tls_ip: Vec<std::net::IpAddr>,
    /// Takes the key of this role from a PKCS#11 token, where it was made, instead of making one: ROLE.uri says which it is
    /// (docs/repository.md). May be repeated, for the root with several keys too
    // Not read by clap, which shows a value that it refuses: a PIN may stand in it.
    #[arg(long, value_name = "ROLE=URI", conflicts_with_all = ["tls", "root_public"])]
    token: Vec<String>,
    /// The same, read.
    #[arg(skip)]
    on_tokens: Vec<(RoleName, KeyUri)>,
    /// Encrypts the new private keys by a passphrase
    #[arg(long, conflicts_with = "tls")]
    encrypt: bool,
    #[command(flatten)]
    stage: StageArgs,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    #[command(flatten)]
    lifetimes: LifetimeArgs,
}

impl Args {
    /// Makes what is asked for and prints what it was.
    ///
    /// # Errors
    /// When a file is there already, or cannot be written.
    pub fn run(mut self) -> Result<()> {
        self.on_tokens = self.token.iter().map(|text| on_token(text)).collect::<Result<_>>()?;
        let rotates = self.renew || !self.rotate.is_empty();
        let counts = self.root_keys.or(self.root_threshold).is_some();
        ensure!(
            !rotates || !counts || self.rotate.contains(&RoleName::Root),
            "--root-keys and --root-threshold are for new root keys: say --rotate root too"
        );
        let in_root = self.renew || self.rotate.iter().any(|role| *role != RoleName::Hosts);
        ensure!(
            self.stage.stage.is_none() || in_root,
            "--stage is for the next root: say --renew, or --rotate with a role other than hosts"
        );
        ensure!(
            self.root_public.is_empty() || self.rotate.contains(&RoleName::Root),
            "--root-public is for new root keys: say --rotate root too"
        );
        if let Some((role, _)) = self.on_tokens.iter().find(|(role, _)| rotates && !self.rotate.contains(role)) {
            bail!("--token is for new keys: say --rotate {role} too");
        }
        make_directory(&self.keys)?;
        let keys = Keys(self.keys.clone());
        let result = if let Some(name) = &self.tls {
            tls::make(&keys, name, &self.tls_ip)?
        } else if rotates {
            rotate::rotate(&keys, &self)?
        } else {
            self.make(&keys)?
        };
        output::print(&result)
    }

    fn make(&self, keys: &Keys) -> Result<Value> {
        let (count, threshold) = self.root_signers(1, 1)?;
        let passphrases = self.passphrase.open()?;
        let tokens = passphrases.tokens();
        let root = self.signers(RoleName::Root, count, threshold, tokens)?;
        let seal = Seal::new(self.encrypt, &passphrases)?;
        let one = |role| self.signers(role, 1, NonZeroU64::MIN, tokens);
        let keyring = Keyring {
            root,
            targets: one(RoleName::Targets)?,
            snapshot: one(RoleName::Snapshot)?,
            timestamp: one(RoleName::Timestamp)?,
            hosts: one(RoleName::Hosts)?,
        };
        let root = wait(new_root(&keyring, &self.lifetimes.lifetimes(), self.lifetimes.now()?))?;
        let root = root.context("making the root metadata")?.bytes;
        let delegation = document(&delegation(&keyring.hosts)?)?;
        let mut files: Vec<(String, Vec<u8>, u32)> = Vec::new();
        for (role, signers) in [
            (RoleName::Root, &keyring.root),
            (RoleName::Targets, &keyring.targets),
            (RoleName::Snapshot, &keyring.snapshot),
            (RoleName::Timestamp, &keyring.timestamp),
            (RoleName::Hosts, &keyring.hosts),
        ] {
            for (name, key) in names(role, &signers.keys).into_iter().zip(&signers.keys) {
                files.push((name, seal.file(key)?, SECRET));
            }
        }
        files.push(("1.root.json".to_owned(), root.clone(), PUBLIC));
        files.push((DELEGATION.to_owned(), delegation, PUBLIC));
        // What says that all of them are there.
        files.push((ROOT.to_owned(), root, PUBLIC));
        create_all(keys, &files)?;
        result(keys, files.into_iter().map(|(name, ..)| name).collect())
    }

    /// The keys on tokens that a role gets.
    fn on_tokens(&self, role: RoleName) -> impl Iterator<Item = &KeyUri> {
        self.on_tokens.iter().filter(move |(of, _)| *of == role).map(|(_, uri)| uri)
    }

    /// The new keys of a role: those on tokens first.
    fn signers(&self, role: RoleName, count: u64, threshold: NonZeroU64, tokens: &Tokens) -> Result<RoleSigners> {
        let mut keys: Vec<PrivateKey> = Vec::new();
        for uri in self.on_tokens(role) {
            let looking = || format!("looking for the key {uri}");
            let key = tokens.key(uri).with_context(looking)?;
            // Not when the root names it already, and the old key is gone.
            tokens.check(uri).with_context(looking)?;
            ensure!(keys.iter().all(|other| other.id() != key.id()), "the key {uri} is given for {role} twice");
            keys.push(key);
        }
        let given = keys.len() as u64;
        ensure!(given <= count, "the role {role} gets {count} keys, and --token names {given} of them");
        for _ in given..count {
            keys.push(PrivateKey::generate()?);
        }
        Ok(RoleSigners { keys, threshold })
    }

    /// How many keys the root gets, and how many of them must sign.
    fn root_signers(&self, keys: u64, threshold: u64) -> Result<(u64, NonZeroU64)> {
        let keys = self.root_keys.unwrap_or_else(|| keys.max(self.on_tokens(RoleName::Root).count() as u64));
        let threshold = self.root_threshold.unwrap_or(threshold);
        ensure!(threshold <= keys, "a root with {keys} keys cannot be signed by {threshold} of them");
        Ok((keys, NonZeroU64::new(threshold).context("a root must be signed by a key")?))
    }
}

/// A role, and the key on a token that it gets.
fn on_token(text: &str) -> Result<(RoleName, KeyUri)> {
    let (role, uri) = text.split_once('=').context("--token is ROLE=URI")?;
    let role: RoleName = role.parse().context("reading the role of --token")?;
    let uri = uri.parse().with_context(|| format!("reading the URI of --token {role}=…"))?;
    Ok((role, uri))
}

/// How new private keys are written.
struct Seal(Option<Passphrase>);

impl Seal {
    fn new(encrypt: bool, passphrases: &Passphrases) -> Result<Self> {
        Ok(Self(if encrypt { Some(passphrases.for_new_keys()?) } else { None }))
    }

    /// What the file of a key holds: where it is, if it is on a token.
    fn file(&self, key: &PrivateKey) -> Result<Vec<u8>> {
        let text = match (key.place(), key.to_pem(), &self.0) {
            (Some(uri), ..) => format!("{uri}\n"),
            (None, _, Some(passphrase)) => encrypted::to_pem(key, passphrase)?,
            (None, pem, None) => pem.context("writing a key that is not here")?,
        };
        Ok(text.into_bytes())
    }
}

fn make_directory(path: &std::path::Path) -> Result<()> {
    let making = || format!("making {}", path.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(making)?;
    let mode = fs::metadata(path).with_context(making)?.permissions().mode() & 0o777;
    let path = path.display();
    ensure!(mode & 0o077 == 0, "{path} is open to others (mode {mode:03o}): chmod 700 {path}");
    Ok(())
}

/// Names of the files with the keys of a role.
fn names(role: RoleName, keys: &[PrivateKey]) -> Vec<String> {
    let end = |key: &PrivateKey| if key.place().is_some() { "uri" } else { "pem" };
    match keys {
        [key] => vec![format!("{role}.{}", end(key))],
        _ => keys.iter().zip(1..).map(|(key, number)| format!("{role}-{number}.{}", end(key))).collect(),
    }
}

fn document(value: &Value) -> Result<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).context("encoding JSON")?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Writes new files, all or (but for a failing disk) none.
fn create_all(keys: &Keys, files: &[(String, Vec<u8>, u32)]) -> Result<()> {
    for (name, ..) in files {
        let path = keys.path(name);
        let there = path.symlink_metadata().is_ok();
        ensure!(!there, "{} is there already, and no key is ever overwritten: take another --keys", path.display());
    }
    files.iter().try_for_each(|(name, bytes, mode)| create(&keys.path(name), bytes, *mode))
}

fn result(keys: &Keys, files: Vec<String>) -> Result<Value> {
    let root = keys.root()?;
    let root = json!({"version": root.version(), "expires": clock::text(root.expires())});
    Ok(json!({"keys": keys.0, "files": files, "root": root}))
}
