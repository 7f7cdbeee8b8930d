//! The PIN of a token: from the file that the key's URI names, the environment, or a person.

use std::env;
use std::fs::File;

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_token::KeyUri;
use metalstrap_token::protocol::{Pin, Question};

use crate::passphrase::first_line;
use crate::terminal::{TERMINAL, ask};

/// Where a PIN may be, for what runs without a person.
pub const VARIABLE: &str = "METALSTRAP_TOKEN_PIN";

/// The PIN, and where it is from, as in `the PIN in /etc/pin`.
///
/// # Errors
/// It is nowhere, and there is nobody to ask.
pub fn find(uri: &KeyUri, question: &Question) -> Result<(String, Pin)> {
    let token = &question.token;
    // The last try is a person's: a program would lock the token by a file that is out of date.
    if !question.last {
        if let Some(path) = uri.pin_source() {
            return Ok((format!("in {}", path.display()), Pin(first_line(path, "PIN")?)));
        }
        match env::var_os(VARIABLE).map(|value| value.into_string()) {
            Some(Ok(text)) => {
                ensure!(!text.is_empty(), "the PIN in {VARIABLE} is empty");
                return Ok((format!("in {VARIABLE}"), Pin(text)));
            }
            Some(Err(_)) => bail!("{VARIABLE} is not UTF-8"),
            None => {}
        }
    }
    let why = || {
        if question.last {
            format!(
                "the token {token:?} locks if its PIN is wrong once more, so a person types it: run this at a terminal"
            )
        } else {
            format!(
                "the token {token:?} wants its PIN: say pin-source in the key's URI, set {VARIABLE}, or run this at a terminal"
            )
        }
    };
    let terminal = File::options().read(true).write(true).open(TERMINAL).with_context(why)?;
    let last = if question.last { " (the last try before it locks)" } else { "" };
    let pin = ask(&terminal, &format!("PIN of the token {token:?}{last}: "))?;
    // What a person does not know is no try that counts.
    ensure!(!pin.is_empty(), "no PIN was typed");
    Ok(("that was typed".to_owned(), Pin(pin)))
}
