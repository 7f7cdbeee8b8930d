//! The conversation with `metalstrap`, and what can go wrong in it.

use std::io::{StdinLock, StdoutLock, stdin, stdout};

use anyhow::{Context as _, Result, anyhow};
use cryptoki::error::Error;
use metalstrap_token::protocol::{Answer, Pin, PinRefused, Question, Reply, Request, receive, send};

/// Standard input and output.
pub struct Talk {
    input: StdinLock<'static>,
    output: StdoutLock<'static>,
}

impl Talk {
    pub fn new() -> Self {
        Self { input: stdin().lock(), output: stdout().lock() }
    }

    /// The next request; `None` where no more come.
    pub fn request(&mut self) -> Result<Option<Request>> {
        receive(&mut self.input).context("reading a request")
    }

    pub fn answer(&mut self, answer: &Answer) -> Result<()> {
        send(&mut self.output, answer).context("writing an answer")
    }

    /// Asks for a PIN.
    pub fn pin(&mut self, question: Question) -> Result<Pin> {
        self.answer(&Answer::Pin(question))?;
        let reply = receive::<Reply>(&mut self.input).context("reading a PIN")?;
        let Reply::Pin(pin) = reply.context("nobody gave a PIN")?;
        Ok(pin)
    }
}

/// Why there is no answer.
pub enum Trouble {
    /// The token is not there, or its module.
    Absent(String),
    /// The PIN is wrong.
    PinRefused(PinRefused),
    Other(anyhow::Error),
}

impl From<anyhow::Error> for Trouble {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl Trouble {
    pub fn into_answer(self) -> Answer {
        match self {
            Self::Absent(text) => Answer::Absent(text),
            Self::PinRefused(refused) => Answer::PinRefused(refused),
            Self::Other(error) => Answer::Error(format!("{error:#}")),
        }
    }
}

/// An error of a module, by the names of the function and of what it returned; the library has whole paragraphs for those.
pub fn said(doing: &str, error: Error) -> anyhow::Error {
    match error {
        Error::Pkcs11(value, function) => anyhow!("{doing}: C_{function:?} says {value:?}"),
        other => anyhow!("{doing}: {other}"),
    }
}
