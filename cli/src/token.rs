//! `metalstrap token`: shows a key on a token.

use anyhow::{Context as _, Result};
use metalstrap_token::KeyUri;
use serde_json::json;

use crate::output;
use crate::tokens::Tokens;

/// Shows the public half of a key on a PKCS#11 token.
///
/// That is what others need of somebody who holds a root key on a token (`metalstrap keygen --root-public`). With --check it
/// logs in too, and says whether the key could sign.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  metalstrap token 'pkcs11:token=ann;object=root?module-path=/usr/lib/x86_64-linux-gnu/opensc-pkcs11.so'
  metalstrap token 'pkcs11:…' | jq -r .public > ann.pub
It needs the program metalstrap-token, beside it or in PATH. It prints one line of JSON: the URI, the `id` that metadata names the key
by, and the `public` key in PEM.")]
pub struct Args {
    /// The key (RFC 7512): token or serial; object or id; module-path, and pin-source for a file with the PIN
    // Not read by clap, which shows a value that it refuses: a PIN may stand in it.
    #[arg(value_name = "URI")]
    uri: String,
    /// Log in, and look whether the key can sign
    #[arg(long)]
    check: bool,
}

impl Args {
    /// Asks the token, and prints what it says.
    ///
    /// # Errors
    /// Module, token or key are not there, or of no use.
    pub fn run(self) -> Result<()> {
        let uri: KeyUri = self.uri.parse().context("reading the URI")?;
        let looking = || format!("looking for the key {uri}");
        let tokens = Tokens::default();
        let key = tokens.key(&uri).with_context(looking)?.public_key();
        if self.check {
            tokens.check(&uri).with_context(looking)?;
        }
        output::print(&json!({"uri": uri.as_str(), "id": key.id(), "public": key.to_pem()}))
    }
}
