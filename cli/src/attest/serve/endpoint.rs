//! What the endpoint answers.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result};
use metalstrap_release::attest::{
    self, Challenge, EK_CERTIFICATE, Evidence, Expected, Finding, Introduction, Outcome, Pending, Verdict,
};
use metalstrap_release::digest::Digest;
use metalstrap_release::host::{Plaintext, Secret, Secrets};
use metalstrap_release::tpm2::Ek;
use serde_json::json;

use super::super::expect::Expectations;
use super::FirstUse;
use super::accepted::Accepted;
use crate::{files, output};

/// Mode of the files that are kept.
const KEPT: u32 = 0o600;
/// Exchanges at a time. Whoever can connect can ask for one.
const MOST: usize = 1024;
/// A TPM answers within seconds, the slowest within a minute.
const LIFETIME: Duration = Duration::from_secs(300);

/// Why there is no answer.
#[derive(Debug)]
pub enum Refusal {
    /// The document is none.
    Bad(String),
    /// There is no such challenge, or no more.
    Gone,
    /// Too many challenges are open.
    Busy,
    /// The endpoint itself has failed.
    Failed(Error),
}

/// The endpoint.
#[derive(Debug)]
pub struct Endpoint {
    expectations: Expectations,
    pcrs: Vec<u32>,
    first_use: FirstUse,
    secrets: Option<PathBuf>,
    keep: Option<PathBuf>,
    exchanges: Mutex<HashMap<String, (Instant, Shared)>>,
    accepted: Mutex<Accepted>,
}

/// An exchange, locked while it is judged.
type Shared = Arc<Mutex<Exchange>>;

/// How far an exchange has come.
#[derive(Debug)]
enum Exchange {
    /// The challenge is open.
    Asked(Box<Pending>),
    /// It is used up: its answer is being judged, or that has failed.
    Used,
    /// It was answered by evidence with this digest: a machine whose connection broke says the same again.
    Answered(Digest, Box<Verdict>),
}

impl Endpoint {
    /// One that has not been asked yet.
    pub fn new(
        expectations: Expectations,
        pcrs: Vec<u32>,
        accepted: Accepted,
        first_use: FirstUse,
        secrets: Option<PathBuf>,
        keep: Option<PathBuf>,
    ) -> Self {
        let (exchanges, accepted) = (Mutex::default(), Mutex::new(accepted));
        Self { expectations, pcrs, first_use, secrets, keep, exchanges, accepted }
    }

    /// The challenge for a machine.
    ///
    /// # Errors
    /// [`Refusal::Bad`], [`Refusal::Busy`].
    pub fn introduce(&self, bytes: &[u8], now: Instant) -> Result<Challenge, Refusal> {
        let introduction = Introduction::parse(bytes).map_err(bad)?;
        let pending = Pending::begin(introduction, self.pcrs.clone()).map_err(bad)?;
        let challenge = pending.challenge.clone();
        let mut exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        exchanges.retain(|_, (since, _)| now.saturating_duration_since(*since) < LIFETIME);
        if exchanges.len() >= MOST {
            return Err(Refusal::Busy);
        }
        let exchange = Arc::new(Mutex::new(Exchange::Asked(Box::new(pending))));
        exchanges.insert(challenge.id.clone(), (now, exchange));
        Ok(challenge)
    }

    /// The verdict on a machine's answer. Its challenge is used up, whatever the verdict is; only the very same answer gets the
    /// verdict again. It takes as long as logs and certificates do: nothing for a thread that serves connections.
    ///
    /// # Errors
    /// [`Refusal::Bad`], [`Refusal::Gone`], [`Refusal::Failed`].
    pub fn judge(&self, bytes: &[u8], now: Instant) -> Result<Verdict, Refusal> {
        let evidence = Evidence::parse(bytes).map_err(bad)?;
        let digest = Digest::of(bytes);
        let exchange = self.exchange(&evidence.id, now).ok_or(Refusal::Gone)?;
        // Held until the verdict is there: who says the same again waits for it, and nobody else does.
        let mut exchange = exchange.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = match std::mem::replace(&mut *exchange, Exchange::Used) {
            Exchange::Asked(pending) => Box::new(self.verdict(&pending, &evidence).map_err(Refusal::Failed)?),
            Exchange::Answered(other, verdict) if other == digest => verdict,
            used => {
                *exchange = used;
                return Err(Refusal::Gone);
            }
        };
        *exchange = Exchange::Answered(digest, verdict.clone());
        Ok(*verdict)
    }

    /// The exchange with this id, if there is still time to answer.
    fn exchange(&self, id: &str, now: Instant) -> Option<Shared> {
        let exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, exchange) = exchanges.get(id)?;
        (now.saturating_duration_since(*since) < LIFETIME).then(|| Arc::clone(exchange))
    }

    fn accepted(&self) -> MutexGuard<'_, Accepted> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn verdict(&self, pending: &Pending, evidence: &Evidence) -> Result<Verdict> {
        let ek = pending.introduction.ek()?;
        // Not locked while it is judged.
        let eks = self.accepted().eks().to_vec();
        let known = self.expectations.knows(&ek) || eks.contains(&ek);
        let mut expected = self.expectations.of(&pending.introduction, &eks)?;
        if !known {
            self.at_first_use(&mut expected, &ek);
        }
        let mut verdict = attest::verify(pending, evidence, &expected);
        self.keep(pending, evidence, &verdict)?;
        if verdict.accepted {
            if !known {
                self.accepted().add(&ek, &pending.introduction.claims)?;
            }
            verdict.secrets = self.secrets(&ek)?;
        }
        let names: Vec<_> = verdict.secrets.iter().map(|(name, _)| name).collect();
        output::print(&json!({
            "id": verdict.id,
            "ek": ek.id(),
            "claims": pending.introduction.claims,
            "accepted": verdict.accepted,
            "findings": verdict.findings,
            "secrets": names,
        }))?;
        Ok(verdict)
    }

    /// A real TPM is not yet one of this site's.
    fn at_first_use(&self, expected: &mut Expected, ek: &Ek) {
        let finding = |outcome, text| Finding::new(EK_CERTIFICATE, outcome, text);
        match self.first_use {
            FirstUse::Refuse => {
                let text = format!("the endorsement key {} is not one of those accepted, and no new ones are", ek.id());
                expected.ek = finding(Outcome::Refuted, text);
            }
            FirstUse::Accept if !self.expectations.has_roots() => {
                let text = format!("the endorsement key {} is new, and new ones are accepted unchecked", ek.id());
                expected.ek = finding(Outcome::Proved, text);
            }
            FirstUse::Accept => (),
        }
    }

    /// Keeps what was said, where a directory for that is given. The secret in the evidence opens nothing any more.
    fn keep(&self, pending: &Pending, evidence: &Evidence, verdict: &Verdict) -> Result<()> {
        let Some(directory) = &self.keep else { return Ok(()) };
        let encoding = || format!("encoding what is kept in {}", directory.display());
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        let documents = [
            ("introduction", serde_json::to_vec(&pending.introduction)),
            ("challenge", serde_json::to_vec(&pending.challenge)),
            ("evidence", serde_json::to_vec(evidence)),
            ("verdict", serde_json::to_vec(verdict)),
        ];
        for (what, bytes) in documents {
            // The id is our own: it is the one of a challenge that was found by it.
            let path = directory.join(format!("{}.{what}.json", pending.challenge.id));
            files::replace(&path, &bytes.with_context(encoding)?, KEPT)?;
        }
        Ok(())
    }

    /// The secrets for the machine with this key: what is for every one, and in its place what is for it alone.
    fn secrets(&self, ek: &Ek) -> Result<Secrets> {
        let mut secrets = Secrets::default();
        let Some(directory) = &self.secrets else { return Ok(secrets) };
        let own = directory.join(ek.id());
        for directory in [Some(directory.as_path()), own.is_dir().then_some(own.as_path())].into_iter().flatten() {
            for (name, path) in secret_files(directory)? {
                let content = fs::read(&path).with_context(|| format!("reading the secret {}", path.display()))?;
                secrets.set(&name, Secret::encrypt(ek, &name, &Plaintext::new(content))?);
            }
        }
        Ok(secrets)
    }
}

/// The files in a directory, by name; hidden ones are none.
fn secret_files(directory: &Path) -> Result<Vec<(String, PathBuf)>> {
    let reading = || format!("reading the directory of secrets {}", directory.display());
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(reading)? {
        let path = entry.with_context(reading)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).filter(|name| !name.starts_with('.'));
        if let Some(name) = name.filter(|_| path.is_file()) {
            found.push((name.to_owned(), path.clone()));
        }
    }
    Ok(found)
}

fn bad(error: impl Into<Error>) -> Refusal {
    Refusal::Bad(format!("{:#}", error.into()))
}

#[cfg(test)]
mod tests;
