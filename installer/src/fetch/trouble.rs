//! Why an attempt failed, what to do about it, and for how long.

use std::fmt;
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use crate::failure::{Code, Coded, WithCode as _, code_of};
use crate::http::{Limits, pause};
use crate::waits::Waits;

/// A failed attempt.
#[derive(Debug)]
pub struct Trouble {
    /// What happened.
    pub error: anyhow::Error,
    /// Whether to try again.
    pub again: Again,
}

/// Whether the same question may get another answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It would get the same one.
    Never,
    /// It may go better later; the server may have said when.
    Later(Option<Duration>),
}

/// The server answers a request for a part of a file with the whole of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sends only whole files")]
pub struct NoRanges;

impl From<anyhow::Error> for Trouble {
    /// Faults of the network pass; a refused certificate stays refused.
    fn from(error: anyhow::Error) -> Self {
        let again = if code_of(&error) == Code::Certificate { Again::Never } else { Again::Later(None) };
        Self { error, again }
    }
}

impl Trouble {
    /// One that no other attempt will get round.
    pub fn lasting(error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), again: Again::Never }
    }
}

/// Failed attempts in a row at one thing, up to the last one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    limits: Limits,
    failures: u32,
}

impl Patience {
    pub fn new(limits: Limits) -> Self {
        Self { limits, failures: 0 }
    }

    /// An attempt brought so many bytes: with enough of them it was none of the failed ones in a row. A few bytes each time
    /// would otherwise go on for ever.
    pub fn credit(&mut self, bytes: u64) {
        if bytes >= self.limits.attempt_bytes {
            self.failures = 0;
        }
    }

    /// Counts a failed attempt: its error, and how long the server asked to be left alone.
    ///
    /// # Errors
    /// The attempt's, if it is no use to go on.
    pub fn spend(&mut self, trouble: Trouble) -> Result<(anyhow::Error, Option<Duration>)> {
        self.failures = self.failures.saturating_add(1);
        let Again::Later(asked) = trouble.again else { return Err(trouble.error) };
        if self.failures >= self.limits.attempts {
            return Err(trouble.error.context(format!("giving up after {} attempts", self.failures)));
        }
        Ok((trouble.error, asked))
    }

    /// The same, and waits for the next attempt at `server`, which `waits` are told of.
    ///
    /// # Errors
    /// As [`Patience::spend`].
    pub async fn wait(&mut self, trouble: Trouble, server: &str, waits: &Waits) -> Result<()> {
        let (error, asked) = self.spend(trouble)?;
        let pause = pause(&self.limits, asked, self.failures);
        log::warn!("{error:#}; trying again in {:.1} s", pause.as_secs_f32());
        sleep_until(Instant::now() + pause, server, waits).await;
        Ok(())
    }
}

/// Leaves `server` alone until `end`, which has a limit.
pub(crate) async fn sleep_until(end: Instant, server: &str, waits: &Waits) {
    waits.until(end.into_std(), &format!("{server} is left alone"));
    tokio::time::sleep_until(end).await;
}

/// The error of a failed fetch of `what`, with its code.
pub(crate) fn fetching<T>(result: Result<T>, what: impl fmt::Display) -> Result<T> {
    result.or_else(|error| {
        let code = code_of_fetch(&error);
        Err(error).code(code, || format!("fetching {what}"))
    })
}

/// The code of a failed fetch: what its cause says, else the repository's.
pub(crate) fn code_of_fetch(error: &anyhow::Error) -> Code {
    error.downcast_ref::<Coded>().map_or(Code::Repository, |coded| coded.code)
}
