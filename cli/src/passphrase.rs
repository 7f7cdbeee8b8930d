//! Passphrases of encrypted keys: from a file, the environment or a person.

use std::cell::RefCell;
use std::env;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_release::metadata::PrivateKey;

use crate::encrypted::decrypt;
use crate::terminal::{TERMINAL, ask};
use crate::tokens::Tokens;

/// Where a passphrase may be, for what runs without a person.
pub const VARIABLE: &str = "METALSTRAP_PASSPHRASE";
/// No passphrase has more bytes.
const MAX_BYTES: u64 = 1024;
/// How often a person may mistype.
const TRIES: usize = 3;

/// A passphrase. Its debug form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Passphrase(String);

impl Passphrase {
    /// As it is.
    #[cfg(test)]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase(…)")
    }
}

/// Where the passphrase of encrypted keys is.
#[derive(Debug, Clone, clap::Args)]
pub struct PassphraseArgs {
    /// File whose first line is the passphrase of the encrypted keys [default: the one in METALSTRAP_PASSPHRASE, or asked
    /// at the terminal]
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl PassphraseArgs {
    /// Reads the file or the variable, if there is one of them.
    ///
    /// # Errors
    /// The file cannot be read, or others can read it.
    pub fn open(&self) -> Result<Passphrases> {
        let given = match &self.passphrase_file {
            Some(path) => Some((path.display().to_string(), Passphrase(first_line(path, "passphrase")?))),
            None => match env::var_os(VARIABLE).map(|value| value.into_string()) {
                Some(Ok(text)) => Some((VARIABLE.to_owned(), Passphrase(text))),
                Some(Err(_)) => bail!("{VARIABLE} is not UTF-8"),
                None => None,
            },
        };
        Ok(Passphrases { given, told: RefCell::default(), tokens: Tokens::default() })
    }
}

/// The first line of a file, a passphrase, say. One on a disk must be its owner's alone, like the keys.
///
/// # Errors
/// It cannot be read, others can read it, or it is none.
pub fn first_line(path: &Path, what: &str) -> Result<String> {
    let reading = || format!("reading the {what} {}", path.display());
    let metadata = fs::metadata(path).with_context(reading)?;
    let mode = metadata.permissions().mode() & 0o777;
    ensure!(
        !metadata.is_file() || mode & 0o077 == 0,
        "the {what} {} is open to others (mode {mode:03o}): chmod 600 it",
        path.display()
    );
    let mut line = String::new();
    let file = File::open(path).with_context(reading)?;
    BufReader::new(file.take(MAX_BYTES + 1)).read_line(&mut line).with_context(reading)?;
    let length = line.strip_suffix('\n').unwrap_or(&line).len();
    line.truncate(length);
    ensure!(
        (1..=MAX_BYTES).contains(&(length as u64)),
        "the first line of {} is no {what} of 1 to {MAX_BYTES} bytes",
        path.display()
    );
    Ok(line)
}

/// The passphrases that are known, and a person to ask for others; and the tokens, which have PINs.
#[derive(Debug)]
pub struct Passphrases {
    /// From a file or the environment, and which.
    given: Option<(String, Passphrase)>,
    /// What a person has said so far: keys often have the same one.
    told: RefCell<Vec<Passphrase>>,
    tokens: Tokens,
}

impl Passphrases {
    /// The tokens that keys are on.
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// Decrypts the key of the file `path`, which is `der`.
    ///
    /// # Errors
    /// The passphrase is wrong, or there is nobody to ask; the key is none that is known here.
    pub fn unlock(&self, path: &Path, der: &[u8]) -> Result<PrivateKey> {
        self.unlock_by(path, |passphrase| decrypt(der, passphrase))
    }

    /// The same with another way to decrypt it, which gives nothing where the passphrase is wrong.
    ///
    /// # Errors
    /// As [`Passphrases::unlock`].
    pub fn unlock_by<T>(&self, path: &Path, decrypt: impl Fn(&Passphrase) -> Result<Option<T>>) -> Result<T> {
        let key = path.display();
        let decrypt = |passphrase: &Passphrase| decrypt(passphrase).with_context(|| format!("reading the key {key}"));
        if let Some((origin, passphrase)) = &self.given {
            let found = decrypt(passphrase)?;
            return found.with_context(|| format!("the passphrase in {origin} is not that of the key {key}"));
        }
        for passphrase in self.told.borrow().iter() {
            if let Some(found) = decrypt(passphrase)? {
                return Ok(found);
            }
        }
        let terminal = open_terminal(&format!("the key {key} is encrypted"))?;
        for _ in 0..TRIES {
            let passphrase = Passphrase(ask(&terminal, &format!("Passphrase of {key}: "))?);
            if let Some(found) = decrypt(&passphrase)? {
                self.told.borrow_mut().push(passphrase);
                return Ok(found);
            }
            eprintln!("This is not the passphrase of {key}.");
        }
        bail!("the key {key} was not decrypted");
    }

    /// The passphrase for new keys: a person says it twice.
    ///
    /// # Errors
    /// It is empty, or there is nobody to ask.
    pub fn for_new_keys(&self) -> Result<Passphrase> {
        if let Some((origin, passphrase)) = &self.given {
            ensure!(!passphrase.0.is_empty(), "the passphrase in {origin} is empty");
            return Ok(passphrase.clone());
        }
        let terminal = open_terminal("new keys are to be encrypted")?;
        let passphrase = ask(&terminal, "Passphrase for the new keys: ")?;
        ensure!(!passphrase.is_empty(), "an empty passphrase encrypts nothing");
        ensure!(ask(&terminal, "The same again: ")? == passphrase, "this was not the same passphrase");
        self.told.borrow_mut().push(Passphrase(passphrase.clone()));
        Ok(Passphrase(passphrase))
    }
}

fn open_terminal(why: &str) -> Result<File> {
    let opened = File::options().read(true).write(true).open(TERMINAL);
    opened.with_context(|| format!("{why}: say --passphrase-file, set {VARIABLE}, or run this at a terminal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_file_is_the_passphrase() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("pass");
        let of = |text: &str| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            first_line(&path, "passphrase")
                .map_err(|error| format!("{error:#}").replace(&path.display().to_string(), "PASS"))
        };
        for text in ["a b ", "a b \n", "a b \nanother\n"] {
            assert_eq!(of(text).unwrap(), "a b ");
        }
        assert_eq!(of(&"x".repeat(1024)).unwrap().len(), 1024);
        for text in ["", "\nanother\n", &"x".repeat(1025)] {
            assert_eq!(of(text).unwrap_err(), "the first line of PASS is no passphrase of 1 to 1024 bytes");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let text = format!("the passphrase {} is open to others (mode 640): chmod 600 it", path.display());
        assert_eq!(first_line(&path, "passphrase").unwrap_err().to_string(), text);
        assert_eq!(format!("{:?}", Passphrase::new("secret".to_owned())), "Passphrase(…)");
    }
}
