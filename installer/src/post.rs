//! The report POST: events as JSON lines to the report URL, delivered at least once.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use url::Url;

use crate::access::Access;
use crate::failure::{Code, code_of};
use crate::http::{Ask, Client, Limits, backoff};
use crate::https::https_url;
use crate::resolve::Resolver;

/// The most of an acknowledgement's body that is read (and ignored), so that the connection can be kept.
const ANSWER: usize = 64 << 10;

/// Posts to one report URL. Clones share connections.
#[derive(Debug, Clone)]
pub struct Poster {
    url: Url,
    client: Client,
}

impl Poster {
    /// A poster to `url` (`https`), whose server is reached by `access`.
    ///
    /// # Errors
    /// When `url` is no https URL.
    pub fn new(url: &str, access: Access, resolver: Resolver) -> Result<Self> {
        Self::with_limits(url, access, resolver, Limits::default())
    }

    /// The same with other limits; the number of attempts does not count, time alone does.
    ///
    /// # Errors
    /// As [`Poster::new`].
    pub fn with_limits(url: &str, access: Access, resolver: Resolver, limits: Limits) -> Result<Self> {
        Ok(Self { url: https_url(url)?, client: Client::new(access, resolver, limits) })
    }

    /// Delivers `body`, JSON lines; any 2xx acknowledges it. Tries again until `timeout` is over; the receiver may get
    /// it twice.
    ///
    /// # Errors
    /// When it is refused (a certificate, a 4xx), or was not acknowledged in time: with the last attempt's error.
    pub async fn post(&self, body: Vec<u8>, timeout: Duration) -> Result<()> {
        let headers = vec![(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"))];
        let ask = Ask { method: Method::POST, url: self.url.clone(), headers, body: Bytes::from(body) };
        let mut last = None;
        let delivered = tokio::time::timeout(timeout, self.insist(&ask, &mut last)).await;
        let delivered = delivered.unwrap_or_else(|_elapsed| {
            let late = format!("no acknowledgement in {} s", timeout.as_secs_f32());
            Err(last.map_or_else(|| anyhow!(late.clone()), |error| error.context(late.clone())))
        });
        delivered.with_context(|| format!("reporting to {}", self.url))
    }

    async fn insist(&self, ask: &Ask, last: &mut Option<anyhow::Error>) -> Result<()> {
        for failures in 1.. {
            match self.once(ask).await {
                Ok(status) if status.is_success() => return Ok(()),
                Ok(status) if passing(status) => *last = Some(anyhow!("the server answered {status}")),
                Ok(status) => bail!("the server answered {status}"),
                Err(error) if code_of(&error) == Code::Certificate => return Err(error),
                Err(error) => *last = Some(error),
            }
            tokio::time::sleep(backoff(self.client.limits(), failures)).await;
        }
        bail!("no attempt is left")
    }

    async fn once(&self, ask: &Ask) -> Result<hyper::StatusCode> {
        let mut answer = self.client.exchange(ask).await?;
        // The acknowledgement is the status; its body only has to be out of the way.
        if let Err(error) = answer.whole(ANSWER).await {
            log::debug!("reading the rest of an acknowledgement: {error:#}");
        }
        Ok(answer.status)
    }
}

/// Worth another attempt: the server is overloaded or broken, not of another opinion.
fn passing(status: hyper::StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 429)
}
