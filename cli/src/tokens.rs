//! Keys on PKCS#11 tokens. This program is static and loads no module, so it starts `metalstrap-token` and asks that
//! (crate `metalstrap-token`): for the public half of a key, whether it can sign, and for signatures.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, anyhow, bail};
use metalstrap_release::metadata::{BoxError, PrivateKey, PublicKey, Signer};
use metalstrap_token::protocol::{Answer, Bytes, Request};
use metalstrap_token::{KeyUri, Kind};

mod helper;
mod pin;

use helper::Helper;

/// The tokens of this run: one process asks them all, so that a PIN is asked for once.
#[derive(Debug, Clone, Default)]
pub struct Tokens(Arc<Mutex<Option<Helper>>>);

/// A key that was looked for.
#[derive(Debug)]
pub enum Found {
    /// It is there.
    Key(Box<PrivateKey>),
    /// Its token or module is not, as this text says.
    Absent(String),
}

impl Tokens {
    /// Looks for a key.
    ///
    /// # Errors
    /// The key is not on its token, or of a kind that no role has.
    pub fn find(&self, uri: &KeyUri) -> Result<Found> {
        match self.ask(uri, &Request::Public { uri: uri.to_string() })? {
            Answer::Public { kind, key } => {
                let public = match kind {
                    Kind::Ed25519 => PublicKey::ed25519(&key.0),
                    Kind::P256 => PublicKey::p256(&key.0),
                };
                let signer = TokenKey { uri: uri.clone(), kind, tokens: self.clone() };
                let key = PrivateKey::elsewhere(public.context("reading the token's key")?, Arc::new(signer));
                Ok(Found::Key(Box::new(key)))
            }
            Answer::Absent(text) => Ok(Found::Absent(text)),
            other => Err(unexpected(&other)),
        }
    }

    /// A key that must be there.
    ///
    /// # Errors
    /// As [`Tokens::find`]; or its token is not there.
    pub fn key(&self, uri: &KeyUri) -> Result<PrivateKey> {
        match self.find(uri)? {
            Found::Key(key) => Ok(*key),
            Found::Absent(text) => bail!(text),
        }
    }

    /// Logs in, and looks whether a key can sign.
    ///
    /// # Errors
    /// The PIN is wrong, or it cannot.
    pub fn check(&self, uri: &KeyUri) -> Result<()> {
        match self.ask(uri, &Request::Check { uri: uri.to_string() })? {
            Answer::Ready => Ok(()),
            Answer::Absent(text) => bail!(text),
            other => Err(unexpected(&other)),
        }
    }

    fn ask(&self, uri: &KeyUri, request: &Request) -> Result<Answer> {
        let mut place = self.0.lock().map_err(|_| anyhow!("asking a token has failed before"))?;
        // After an error it may wait for a PIN that nobody gives: it is not asked again.
        let mut helper = match place.take() {
            Some(helper) => helper,
            None => Helper::start()?,
        };
        let answer = helper.ask(uri, request)?;
        *place = Some(helper);
        Ok(answer)
    }
}

fn unexpected(answer: &Answer) -> anyhow::Error {
    anyhow!("{} gave an answer to another question: {answer:?}", helper::PROGRAM)
}

/// Signs with a key on a token.
struct TokenKey {
    uri: KeyUri,
    kind: Kind,
    tokens: Tokens,
}

impl TokenKey {
    fn signature(&self, message: &[u8]) -> Result<Vec<u8>> {
        let (uri, kind, message) = (self.uri.to_string(), self.kind, Bytes(message.to_vec()));
        match self.tokens.ask(&self.uri, &Request::Sign { uri, kind, message })? {
            Answer::Signature(signature) => Ok(signature.0),
            Answer::Absent(text) => bail!(text),
            other => Err(unexpected(&other)),
        }
    }
}

impl Signer for TokenKey {
    fn place(&self) -> &str {
        self.uri.as_str()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, BoxError> {
        // All of the error's text: it goes through a library that keeps the first line only.
        self.signature(message).map_err(|error| BoxError::from(format!("{error:#}")))
    }
}
