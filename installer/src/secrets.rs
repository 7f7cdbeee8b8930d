//! The secrets of the host config, or of a verifier: opened by the TPM that they were encrypted to, and sealed to it for the OS.
//! In between they are in memory, and nowhere else.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metalstrap_release::host::{FileForm, Plaintext, Secret, Secrets};
use metalstrap_release::tpm2::KeyKind;

use crate::credentials::{Sealed, SealedKey, in_form, open_from_tpm};
use crate::failure::{Code, WithCode as _, coded};
use crate::tpm::direct::Direct;
use crate::tpm::sealing::Loaded;

/// What is in the secrets, and the TPM that has opened them.
#[derive(Debug, Default)]
pub struct Opened {
    tpm: Option<Direct>,
    contents: Vec<(String, FileForm, Plaintext)>,
}

/// Opens secrets.
///
/// # Errors
/// [`Code::Secrets`]: there is no TPM, they are encrypted to another machine's, or one was changed.
pub fn open(secrets: &Secrets, tpm: Option<Direct>) -> Result<Opened> {
    let Some(mut tpm) = tpm else {
        let text = "the host config has secrets, but this machine has no TPM 2.0 that could open them";
        return Err(coded(Code::Secrets, text));
    };
    let mut contents = Vec::new();
    let mut found = String::new();
    for kind in KeyKind::ALL {
        let done = tpm.with_ek(kind, |tpm, key, ek| {
            let id = ek.id();
            let and = if found.is_empty() { "" } else { " and " };
            let _ = write!(found, "{and}{id}");
            for (name, secret) in secrets.iter().filter(|(_, secret)| secret.ek == id) {
                contents.push((name.to_owned(), secret.file, open_one(tpm, key, name, secret)?));
            }
            Ok(contents.len() == secrets.iter().count())
        });
        match done {
            Ok(true) => return Ok(Opened { tpm: Some(tpm), contents }),
            Ok(false) => {}
            Err(error) if kind == KeyKind::EccP256 && found.is_empty() => log::warn!("{error:#}"),
            Err(error) => return Err(error).code(Code::Secrets, || "asking the TPM".to_owned()),
        }
    }
    let is_open = |name: &str| contents.iter().any(|(other, ..)| other == name);
    let missing = secrets.iter().find(|(name, _)| !is_open(name));
    let (name, ek) = missing.map(|(name, secret)| (name, secret.ek.as_str())).unwrap_or_default();
    let text = format!(
        "the secret {name:?} is encrypted to the endorsement key {ek}, but those of this machine's TPM are {found}: it is another \
         machine's, or the TPM was replaced"
    );
    Err(coded(Code::Secrets, text))
}

/// Opens one secret with the endorsement key that it is for.
fn open_one(tpm: &mut Direct, key: Loaded, name: &str, secret: &Secret) -> Result<Plaintext> {
    let sealed = secret.sealed_key().unwrap_or_default();
    let opening = || format!("opening the secret {name:?}, which was changed, or was not made for this machine");
    let content_key = tpm.open_sealed(key, &sealed).code(Code::Secrets, opening)?;
    let content = secret.decrypt(name, &content_key);
    content.ok_or_else(|| coded(Code::Secrets, format!("the content of the secret {name:?} was changed")))
}

impl Opened {
    /// The files that `there` may already have for it.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        self.contents.iter().map(|(name, ..)| Sealed::file_of(name)).collect()
    }

    /// The secrets as the OS gets them. A file that is `there` and holds the same stays as it is, since a TPM seals the same to
    /// other bytes each time.
    ///
    /// # Errors
    /// [`Code::Secrets`]: the TPM's.
    pub fn seal(self, there: &BTreeMap<String, Vec<u8>>) -> Result<Vec<Sealed>> {
        let Some(mut tpm) = self.tpm else { return Ok(Vec::new()) };
        let mut all = Vec::new();
        // One for all that are sealed anew, made when the first of them is.
        let mut key = None;
        for (name, form, content) in self.contents {
            let is_binary = form.is_binary(&name);
            let holds = |file: &&Vec<u8>, tpm: &mut Direct| {
                let raw = if is_binary { Some((*file).clone()) } else { STANDARD.decode(file.trim_ascii_end()).ok() };
                raw.and_then(|raw| open_from_tpm(tpm, &name, &raw)).as_ref() == Some(&content)
            };
            let bytes = match there.get(&Sealed::file_of(&name)).filter(|file| holds(file, &mut tpm)) {
                Some(file) => file.clone(),
                None => {
                    let sealing = || format!("sealing the secret {name:?}");
                    let ready = key.take().map_or_else(|| SealedKey::new(&mut tpm), Ok).code(Code::Secrets, sealing)?;
                    in_form(key.insert(ready).encrypt(&name, &content).code(Code::Secrets, sealing)?, is_binary)
                }
            };
            all.push(Sealed { name, size: None, bytes });
        }
        Ok(all)
    }
}
