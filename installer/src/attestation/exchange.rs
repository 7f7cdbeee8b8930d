//! The exchange with a verifier over HTTPS. It is tried again as everything is that a network may break; what the verifier has
//! answered counts.

use anyhow::{Result, anyhow};
use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use metalstrap_release::attest::{CHALLENGE, Challenge, Evidence, Introduction, VERDICT, Verdict};

use super::{parse_challenge, parse_verdict};
use crate::access::Access;
use crate::failure::{Code, Coded, WithCode as _};
use crate::fetch::Trouble;
use crate::fetch::trouble::Patience;
use crate::http::{Ask, Client, Limits};
use crate::https::{https_url, judge};
use crate::resolve::Resolver;
use crate::waits::Waits;

/// A verifier at a URL.
#[derive(Debug, Clone)]
pub struct Verifier {
    base: String,
    client: Client,
    waits: Waits,
}

impl Verifier {
    /// The one at `base` (`https`, without a slash at its end), whose server is reached by `access`. `waits` are told for how long it
    /// is left alone.
    ///
    /// # Errors
    /// When `base` is no https URL.
    pub fn new(base: &str, access: Access, resolver: Resolver, limits: Limits, waits: Waits) -> Result<Self> {
        https_url(base)?;
        Ok(Self { base: base.to_owned(), client: Client::new(access, resolver, limits), waits })
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.base
    }

    /// What it asks a machine that introduces itself.
    ///
    /// # Errors
    /// [`Code::Verifier`]: it cannot be reached, or answers with an error or with what is no challenge; [`Code::Certificate`] and
    /// others where its server is to blame.
    pub async fn challenge(&self, introduction: &Introduction) -> Result<Challenge> {
        let answer = self.post("introduction", serde_json::to_vec(introduction)?, CHALLENGE.max_bytes).await?;
        parse_challenge(&answer).code(Code::Verifier, || format!("reading the challenge of {}", self.base))
    }

    /// What it makes of a machine's answer.
    ///
    /// # Errors
    /// As [`Verifier::challenge`].
    pub async fn verdict(&self, evidence: &Evidence) -> Result<Verdict> {
        let answer = self.post("evidence", serde_json::to_vec(evidence)?, VERDICT.max_bytes).await?;
        let reading = || format!("reading the verdict of {}", self.base);
        parse_verdict(&answer, &evidence.id).code(Code::Verifier, reading)
    }

    /// Says something, and returns the answer, of at most so many bytes.
    async fn post(&self, path: &str, message: Vec<u8>, most: usize) -> Result<Vec<u8>> {
        let url = https_url(&format!("{}/{path}", self.base))?;
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let ask = Ask { method: Method::POST, url, headers, body: Bytes::from(message) };
        self.insist(&ask, most).await.or_else(|error| {
            let code = error.downcast_ref::<Coded>().map_or(Code::Verifier, |coded| coded.code);
            Err(error).code(code, || format!("sending the {path} to {}", ask.url))
        })
    }

    /// Asks until there is an answer, or no use in asking again.
    async fn insist(&self, ask: &Ask, most: usize) -> Result<Vec<u8>> {
        let mut patience = Patience::new(*self.client.limits());
        loop {
            match self.once(ask, most).await {
                Ok(answer) => return Ok(answer),
                Err(trouble) => patience.wait(trouble, &self.base, &self.waits).await?,
            }
        }
    }

    async fn once(&self, ask: &Ask, most: usize) -> Result<Vec<u8>, Trouble> {
        let mut answer = judge(self.client.exchange(ask).await?).await?;
        let too_large = || Trouble::lasting(anyhow!("the answer has more than {most} bytes"));
        answer.whole(most).await?.ok_or_else(too_large)
    }
}
