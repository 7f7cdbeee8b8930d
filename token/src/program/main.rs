//! `metalstrap-token`: asks PKCS#11 tokens, for `metalstrap`, which starts it and speaks to it on standard input and output.
//!
//! A module is somebody else's code: here it has a process of its own, with nothing in it but what it is asked to sign.

mod key;
mod talk;
mod tokens;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use metalstrap_token::KeyUri;
use metalstrap_token::protocol::{Answer, Request};

use talk::{Talk, Trouble};
use tokens::Tokens;

fn main() -> ExitCode {
    if std::env::args_os().len() > 1 {
        eprintln!("metalstrap-token: it takes no arguments: metalstrap starts it where a key is on a token");
        return ExitCode::FAILURE;
    }
    let mut tokens = Tokens::default();
    let served = serve(&mut Talk::new(), &mut tokens);
    tokens.close();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("metalstrap-token: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(talk: &mut Talk, tokens: &mut Tokens) -> Result<()> {
    while let Some(request) = talk.request()? {
        let answer = answer(&request, talk, tokens).unwrap_or_else(Trouble::into_answer);
        talk.answer(&answer)?;
    }
    Ok(())
}

fn answer(request: &Request, talk: &mut Talk, tokens: &mut Tokens) -> Result<Answer, Trouble> {
    let uri: KeyUri = request.uri().parse().context("reading the URI")?;
    let token = tokens.open(&uri)?;
    match request {
        Request::Public { .. } => key::public(token, &uri, talk),
        Request::Check { .. } => {
            token.log_in(talk)?;
            key::private(token, &uri)?;
            Ok(Answer::Ready)
        }
        Request::Sign { kind, message, .. } => {
            token.log_in(talk)?;
            key::sign(token, &uri, *kind, &message.0)
        }
    }
}
