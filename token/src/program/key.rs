//! A key on a token: its public half, whether it can sign, and its signatures.

use anyhow::{Context as _, Result, anyhow, ensure};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use metalstrap_token::protocol::{Answer, Bytes};
use metalstrap_token::{KeyUri, Kind};
use sha2::{Digest as _, Sha256};

use crate::talk::{Talk, Trouble, said};
use crate::tokens::Token;

/// The public half of a key. Most tokens show it to everybody, others after the login, and some have it in the private key
/// only.
pub fn public(token: &mut Token, uri: &KeyUri, talk: &mut Talk) -> Result<Answer, Trouble> {
    let mut found = find(token, uri, ObjectClass::PUBLIC_KEY)?;
    if found.is_none() {
        token.log_in(talk)?;
        found = find(token, uri, ObjectClass::PUBLIC_KEY)?;
    }
    let key = match found {
        Some(key) => key,
        None => find(token, uri, ObjectClass::PRIVATE_KEY)?.ok_or_else(|| missing(token, uri))?,
    };
    Ok(read(token, uri, key)?)
}

fn read(token: &Token, uri: &KeyUri, key: ObjectHandle) -> Result<Answer> {
    let asked = [AttributeType::EcParams, AttributeType::EcPoint];
    let attributes = token.session.get_attributes(key, &asked).map_err(|error| said("reading the key", error))?;
    let (mut kind, mut point) = (None, None);
    for attribute in attributes {
        match attribute {
            Attribute::EcParams(parameters) => kind = Kind::of_parameters(&parameters),
            Attribute::EcPoint(bytes) => point = Some(bytes),
            _ => {}
        }
    }
    let named = named(token, uri);
    let kind = kind.with_context(|| format!("{named} is neither of Ed25519 nor of P-256"))?;
    let point = point.with_context(|| format!("the token does not tell the public half of {named}"))?;
    let key = kind.public(&point).with_context(|| format!("{named} has a public half of an unknown form"))?;
    Ok(Answer::Public { kind, key: Bytes(key.to_vec()) })
}

/// The private key, if it can sign. The token must be logged in.
pub fn private(token: &Token, uri: &KeyUri) -> Result<ObjectHandle> {
    let key = find(token, uri, ObjectClass::PRIVATE_KEY)?.ok_or_else(|| missing(token, uri))?;
    let asked = [AttributeType::Sign, AttributeType::AlwaysAuthenticate];
    let attributes = token.session.get_attributes(key, &asked).map_err(|error| said("reading the key", error))?;
    for attribute in attributes {
        ensure!(!matches!(attribute, Attribute::Sign(false)), "{} may not sign (CKA_SIGN)", named(token, uri));
        ensure!(!matches!(attribute, Attribute::AlwaysAuthenticate(true)), always(token, uri));
    }
    Ok(key)
}

/// Signs. The token must be logged in.
pub fn sign(token: &Token, uri: &KeyUri, kind: Kind, message: &[u8]) -> Result<Answer, Trouble> {
    let key = private(token, uri)?;
    let signed = match kind {
        Kind::Ed25519 => {
            let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
            token.session.sign(&mechanism, key, message)
        }
        // The mechanism that hashes too is missing on many tokens.
        Kind::P256 => token.session.sign(&Mechanism::Ecdsa, key, &Sha256::digest(message)),
    };
    let refused = |error: Error| match error {
        Error::Pkcs11(RvError::KeyFunctionNotPermitted, _) => anyhow!("{} may not sign", named(token, uri)),
        Error::Pkcs11(RvError::UserNotLoggedIn, _) => anyhow!(always(token, uri)),
        other => said(&format!("signing by {}", named(token, uri)), other),
    };
    let raw = signed.map_err(refused)?;
    let signature = kind.signature(&raw);
    let signature = signature.with_context(|| format!("the token gave {} bytes for a signature", raw.len()))?;
    Ok(Answer::Signature(Bytes(signature)))
}

/// The object of a class that the URI names, if there is one and no more.
fn find(token: &Token, uri: &KeyUri, class: ObjectClass) -> Result<Option<ObjectHandle>> {
    let mut wanted = vec![Attribute::Token(true), Attribute::Class(class)];
    wanted.extend(uri.object().map(|label| Attribute::Label(label.as_bytes().to_vec())));
    wanted.extend(uri.id().map(|id| Attribute::Id(id.to_vec())));
    let found = token.session.find_objects(&wanted).map_err(|error| said("looking for the key", error))?;
    let (count, label, wanted) = (found.len(), token.label(), uri.wanted_key());
    ensure!(count < 2, "the token {label:?} has {count} keys with {wanted}: name one by its id too");
    Ok(found.into_iter().next())
}

fn missing(token: &Token, uri: &KeyUri) -> anyhow::Error {
    anyhow!("the token {:?} has no key with {}", token.label(), uri.wanted_key())
}

fn named(token: &Token, uri: &KeyUri) -> String {
    format!("the key with {} on the token {:?}", uri.wanted_key(), token.label())
}

fn always(token: &Token, uri: &KeyUri) -> String {
    let named = named(token, uri);
    format!("{named} wants the PIN anew for each signature (CKA_ALWAYS_AUTHENTICATE): take one that does not")
}
