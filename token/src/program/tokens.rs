//! Modules that were loaded, and tokens that were opened. Each is kept, so that a PIN is asked for once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::{Slot, TokenInfo};
use cryptoki::types::AuthPin;
use metalstrap_token::KeyUri;
use metalstrap_token::protocol::{PinRefused, Question};

use crate::talk::{Talk, Trouble, said};

/// What was loaded and opened so far.
#[derive(Default)]
pub struct Tokens {
    modules: HashMap<PathBuf, Pkcs11>,
    tokens: HashMap<(PathBuf, Slot), Token>,
}

/// A token that was opened.
pub struct Token {
    module: Pkcs11,
    slot: Slot,
    info: TokenInfo,
    pub session: Session,
    logged_in: bool,
}

impl Tokens {
    /// The token of a key.
    pub fn open(&mut self, uri: &KeyUri) -> Result<&mut Token, Trouble> {
        let module = self.module(uri.module())?;
        let (slot, info) = find(&module, uri)?;
        match self.tokens.entry((uri.module().to_owned(), slot)) {
            Entry::Occupied(token) => {
                let token = token.into_mut();
                // Somebody else may have mistyped the PIN since.
                token.info = info;
                Ok(token)
            }
            Entry::Vacant(place) => {
                let session = module.open_ro_session(slot).map_err(|error| said("opening the token", error))?;
                Ok(place.insert(Token { module, slot, info, session, logged_in: false }))
            }
        }
    }

    fn module(&mut self, path: &Path) -> Result<Pkcs11, Trouble> {
        if let Some(module) = self.modules.get(path) {
            return Ok(module.clone());
        }
        let shown = path.display();
        if !path.exists() {
            return Err(Trouble::Absent(format!("the PKCS#11 module {shown} is not there")));
        }
        let loading = |error: Error| match error {
            Error::LibraryLoading(error) => anyhow!("loading the PKCS#11 module {shown}: {error}"),
            other => said(&format!("loading the PKCS#11 module {shown}"), other),
        };
        let module = Pkcs11::new(path).map_err(loading)?;
        let started = module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK));
        started.map_err(|error| said(&format!("starting the PKCS#11 module {shown}"), error))?;
        self.modules.insert(path.to_owned(), module.clone());
        Ok(module)
    }

    /// Ends all: some modules crash where a process ends without.
    pub fn close(self) {
        drop(self.tokens);
        for (path, module) in self.modules {
            if let Err(error) = module.finalize() {
                eprintln!("metalstrap-token: {:#}", said(&format!("ending the module {}", path.display()), error));
            }
        }
    }
}

/// The one token that fits.
fn find(module: &Pkcs11, uri: &KeyUri) -> Result<(Slot, TokenInfo), Trouble> {
    let slots = module.get_slots_with_token().map_err(|error| said("listing the tokens", error))?;
    let (mut fitting, mut others) = (Vec::new(), Vec::new());
    for slot in slots {
        // A slot with a card of another kind is nobody's token.
        let Ok(info) = module.get_token_info(slot) else { continue };
        if !info.token_initialized() {
            continue;
        }
        if uri.fits(info.label(), info.manufacturer_id(), info.model(), info.serial_number()) {
            fitting.push((slot, info));
        } else {
            others.push(format!("{:?}", info.label()));
        }
    }
    let count = fitting.len();
    let mut fitting = fitting.into_iter();
    match (fitting.next(), fitting.next()) {
        (Some(token), None) => Ok(token),
        (None, _) => {
            others.sort();
            let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
            let (wanted, module) = (uri.wanted_token(), uri.module().display());
            Err(Trouble::Absent(format!("there is no token with {wanted}: the module {module} finds {others}")))
        }
        (Some(_), Some(_)) => Err(anyhow!("{count} tokens have {}: name one by its serial", uri.wanted_token()).into()),
    }
}

impl Token {
    /// The label that it gives itself, which may hold anything.
    pub fn label(&self) -> &str {
        self.info.label()
    }

    /// Logs in as the user, unless that was done before. A PIN is tried once: tokens lock.
    pub fn log_in(&mut self, talk: &mut Talk) -> Result<(), Trouble> {
        if self.logged_in || !self.info.login_required() {
            return Ok(());
        }
        let label = self.label().to_owned();
        let locked = || anyhow!("the PIN of the token {label:?} is locked: whoever has its SO PIN can unlock it");
        if self.info.user_pin_locked() {
            return Err(locked().into());
        }
        if !self.info.user_pin_initialized() {
            return Err(anyhow!("the token {label:?} has no user PIN yet").into());
        }
        // A token with a keypad of its own asks there.
        let pin = if self.info.protected_authentication_path() {
            None
        } else {
            let pin = talk.pin(Question { token: label.clone(), last: self.info.user_pin_final_try() })?;
            Some(AuthPin::new(pin.0.into()))
        };
        match self.session.login(UserType::User, pin.as_ref()) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                self.logged_in = true;
                Ok(())
            }
            Err(Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _)) => {
                Err(Trouble::PinRefused(self.refused()?))
            }
            Err(Error::Pkcs11(RvError::PinLocked, _)) => Err(locked().into()),
            Err(error) => Err(said(&format!("logging in to the token {label:?}"), error).into()),
        }
    }

    /// What a wrong PIN has left.
    fn refused(&self) -> Result<PinRefused> {
        let info = self.module.get_token_info(self.slot);
        let info = info.map_err(|error| said("reading the token", error)).context("after a wrong PIN")?;
        let (last, locked) = (info.user_pin_final_try(), info.user_pin_locked());
        Ok(PinRefused { token: self.label().to_owned(), last, locked })
    }
}
