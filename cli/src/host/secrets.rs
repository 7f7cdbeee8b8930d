//! Secrets on their way from files into a host config: their plaintext is in memory alone.

use std::fs::File;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::host::{Host, Plaintext, Secret};
use metalstrap_release::tpm2::Ek;

use super::encode;

/// Nothing longer is read: one byte more than a secret may have.
const MOST: usize = (64 << 10) + 1;
/// Standard input.
const STDIN: &str = "-";

/// A secret of the command line: its name, and the file that it is in.
#[derive(Debug, Clone)]
pub struct SecretFile {
    name: String,
    path: PathBuf,
}

impl SecretFile {
    /// Reads `NAME=FILE`.
    ///
    /// # Errors
    /// It is something else.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (name, path) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=FILE"))?;
        Ok(Self { name: name.to_owned(), path: path.into() })
    }

    fn is_stdin(&self) -> bool {
        self.path == Path::new(STDIN)
    }

    fn read(&self) -> Result<Plaintext> {
        let reading = || format!("reading the secret {:?} from {}", self.name, self.path.display());
        let from: Box<dyn Read> =
            if self.is_stdin() { Box::new(stdin()) } else { Box::new(File::open(&self.path).with_context(reading)?) };
        // As large as it gets, so that no part of it is left where a smaller buffer was.
        let mut bytes = Vec::with_capacity(MOST);
        from.take(MOST as u64).read_to_end(&mut bytes).with_context(reading)?;
        Ok(Plaintext::new(bytes))
    }
}

/// The host config with `files` among its secrets, encrypted to the machine whose endorsement key is `ek`.
///
/// # Errors
/// It is no host config; a file cannot be read, or is too long.
pub fn add(config: &[u8], files: &[SecretFile], ek: &Ek) -> Result<Vec<u8>> {
    let mut host = Host::parse(config).context("checking the host config")?;
    let from_stdin = files.iter().filter(|file| file.is_stdin()).count();
    ensure!(from_stdin <= 1, "{from_stdin} secrets are to be read from standard input, which has one");
    for (at, file) in files.iter().enumerate() {
        let name = &file.name;
        ensure!(files.iter().take(at).all(|other| other.name != *name), "the secret {name:?} is there twice");
        host.secrets.set(name, Secret::encrypt(ek, name, &file.read()?)?);
    }
    encode(&host)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &[u8] = br#"{"format": 1, "release": {"name": "debian", "version": "13.2"}}"#;

    /// A point of the curve: its generator (SEC 2, section 2.4.2).
    fn ek() -> Ek {
        let generator = "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33\
                         576b315ececbb6406837bf51f5";
        Ek::of_key(&metalstrap_release::digest::from_hex(generator).unwrap()).unwrap()
    }

    #[test]
    fn the_host_config_gets_the_secret_and_not_its_content() {
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("psk");
        std::fs::write(&path, "hush, hush").unwrap();
        let word = format!("wifi.psk={}", path.display());
        let files = [SecretFile::parse(&word).unwrap()];
        let bytes = add(CONFIG, &files, &ek()).unwrap();
        assert!(!bytes.windows(4).any(|part| part == b"hush"));
        let host = Host::parse(&bytes).unwrap();
        let names: Vec<_> = host.secrets.iter().map(|(name, secret)| (name, secret.ek.clone())).collect();
        assert_eq!(names, [("wifi.psk", ek().id())]);
        // Another one comes beside it; the same name takes its place.
        let again = [SecretFile::parse(&word).unwrap(), SecretFile::parse(&word.replace("wifi", "b")).unwrap()];
        let more = Host::parse(&add(&bytes, &again, &ek()).unwrap()).unwrap();
        assert_eq!(more.secrets.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["b.psk", "wifi.psk"]);
        assert_ne!(more.secrets.iter().nth(1), host.secrets.iter().next());
    }

    #[test]
    fn what_cannot_be_a_secret_is_named() {
        assert_eq!(SecretFile::parse("psk").unwrap_err(), "\"psk\" is not NAME=FILE");
        let at = tempfile::tempdir().unwrap();
        let path = at.path().join("psk");
        let refusal = |words: &[&str]| {
            let files: Vec<_> = words.iter().map(|word| SecretFile::parse(word).unwrap()).collect();
            format!("{:#}", add(CONFIG, &files, &ek()).unwrap_err())
        };
        let word = format!("psk={}", path.display());
        let missing = format!("reading the secret \"psk\" from {}: ", path.display());
        assert!(refusal(&[&word]).starts_with(&missing), "{}", refusal(&[&word]));
        std::fs::write(&path, vec![0; 65_537]).unwrap();
        assert_eq!(refusal(&[&word]), "the secret \"psk\" has 65537 bytes, more than 65536");
        std::fs::write(&path, "x").unwrap();
        assert_eq!(refusal(&[&word, &word]), "the secret \"psk\" is there twice");
        assert_eq!(refusal(&["a=-", "b=-"]), "2 secrets are to be read from standard input, which has one");
    }
}
