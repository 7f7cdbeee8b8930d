//! A repository on a web server: ranges over HTTPS, resumed at the next byte when a connection breaks.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use hyper::header::{CONTENT_RANGE, HeaderValue, LOCATION, RANGE};
use hyper::{Method, StatusCode};
use tokio::sync::mpsc;
use url::Url;

use crate::failure::{Code, Coded, WithCode as _, code_of};
use crate::fetch::{Fetching, Finding, Getting, Source};
use crate::http::{Answer, Ask, Client, Limits, backoff, retry_after};
use crate::resolve::Resolver;

/// Redirects followed for one request.
const REDIRECTS: usize = 5;

/// A repository below an `https` URL.
#[derive(Debug, Clone)]
pub struct HttpsSource {
    base: Url,
    client: Client,
}

/// Why an attempt failed, and what to do about it.
struct Trouble {
    error: anyhow::Error,
    again: Again,
}

/// A status that brings no content.
#[derive(Debug, thiserror::Error)]
#[error("the server answered {0}")]
struct Refused(StatusCode);

enum Again {
    /// The same question would get the same answer.
    Never,
    /// It may go better later; the server may have said when.
    Later(Option<Duration>),
}

impl From<anyhow::Error> for Trouble {
    /// Faults of the network pass; a refused certificate stays refused.
    fn from(error: anyhow::Error) -> Self {
        let again = if code_of(&error) == Code::Certificate { Again::Never } else { Again::Later(None) };
        Self { error, again }
    }
}

fn finally(error: anyhow::Error) -> Trouble {
    Trouble { error, again: Again::Never }
}

impl HttpsSource {
    /// A repository at `base` (`https`, with or without trailing slash), whose server shows a certificate of one of
    /// the CAs in `ca` (PEM text).
    ///
    /// # Errors
    /// When `base` is no https URL or `ca` no list of certificates.
    pub fn new(base: &str, ca: &str, resolver: Resolver) -> Result<Self> {
        Self::with_limits(base, ca, resolver, Limits::default())
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// As [`HttpsSource::new`].
    pub fn with_limits(base: &str, ca: &str, resolver: Resolver, limits: Limits) -> Result<Self> {
        let base = https_url(&format!("{}/", base.trim_end_matches('/')))?;
        Ok(Self { base, client: Client::new(ca, resolver, limits)? })
    }

    fn url(&self, path: &str) -> Result<Url> {
        let url = self.base.join(path).with_context(|| format!("{path:?} is no path of a URL"))?;
        if !url.as_str().starts_with(self.base.as_str()) {
            bail!("{path:?} leads out of the repository");
        }
        Ok(url)
    }

    /// Asks for `url`, following redirects, until an answer with content comes.
    async fn ask(&self, url: &Url, range: Option<&Range<u64>>) -> Result<Answer, Trouble> {
        let mut headers = Vec::new();
        if let Some(range) = range {
            let text = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
            headers.push((RANGE, HeaderValue::try_from(text).context("forming the request")?));
        }
        let mut ask = Ask { method: Method::GET, url: url.clone(), headers, body: Bytes::new() };
        for _ in 0..=REDIRECTS {
            let answer = self.client.exchange(&ask).await?;
            if let (Some(range), Some(total)) = (range, length_beside(&answer)) {
                return Err(finally(anyhow!("the file has only {total} bytes, not {}", range.end)));
            }
            if !answer.status.is_redirection() {
                return judge(answer);
            }
            ask.url = redirected(&ask.url, &answer).map_err(finally)?;
        }
        Err(finally(anyhow!("the server redirected more than {REDIRECTS} times")))
    }

    /// Sends what one answer brings, and moves `next` on by it. True: who receives has hung up.
    async fn send(&self, url: &Url, next: &mut u64, end: u64, sink: &mpsc::Sender<Bytes>) -> Result<bool, Trouble> {
        let mut answer = self.ask(url, Some(&(*next..end))).await?;
        let mut skip = check_range(&answer, *next, end).map_err(finally)?;
        while *next < end {
            let Some(mut chunk) = answer.chunk().await? else {
                if answer.status == StatusCode::OK {
                    return Err(finally(anyhow!("the file ends at byte {next}, not at {end}")));
                }
                return Ok(false);
            };
            let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if skip >= length {
                skip -= length;
                continue;
            }
            let wanted = (length - skip).min(end - *next);
            let (from, count) =
                (usize::try_from(skip).context("counting")?, usize::try_from(wanted).context("counting")?);
            chunk = chunk.slice(from..from.saturating_add(count));
            skip = 0;
            if sink.send(chunk).await.is_err() {
                return Ok(true);
            }
            *next += wanted;
        }
        // Reads the end mark, which frees the connection for the next request; a 200's rest is not worth it.
        if answer.status == StatusCode::PARTIAL_CONTENT {
            let _end = answer.chunk().await;
        }
        Ok(false)
    }

    async fn fetch_all(&self, path: &str, range: Range<u64>, sink: &mpsc::Sender<Bytes>) -> Result<()> {
        let url = self.url(path)?;
        let mut next = range.start;
        let mut failures = 0_u32;
        while next < range.end {
            let before = next;
            let done = self.send(&url, &mut next, range.end, sink).await;
            let brought = next - before;
            // A few bytes each time would otherwise go on for ever.
            let enough = next >= range.end || brought >= self.client.limits().attempt_bytes;
            if enough {
                failures = 0;
            }
            match done {
                Ok(true) => return Ok(()),
                Ok(false) if enough => {}
                Ok(false) => {
                    let trouble = anyhow!("an answer that ends after {brought} bytes").into();
                    self.pause(&mut failures, trouble).await?;
                }
                Err(trouble) => self.pause(&mut failures, trouble).await?,
            }
        }
        Ok(())
    }

    async fn get_all(&self, path: &str, limit: usize) -> Result<Vec<u8>> {
        let url = self.url(path)?;
        let mut failures = 0_u32;
        loop {
            match self.read(&url, limit).await {
                Ok(bytes) => return Ok(bytes),
                Err(trouble) => self.pause(&mut failures, trouble).await?,
            }
        }
    }

    async fn read(&self, url: &Url, limit: usize) -> Result<Vec<u8>, Trouble> {
        let mut answer = self.ask(url, None).await?;
        let too_large = || finally(anyhow!("it has more than {limit} bytes"));
        if answer.length().is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > limit)) {
            return Err(too_large());
        }
        answer.whole(limit).await?.ok_or_else(too_large)
    }

    /// Waits before the next attempt, or gives up.
    async fn pause(&self, failures: &mut u32, trouble: Trouble) -> Result<()> {
        let limits = self.client.limits();
        *failures += 1;
        let Again::Later(asked) = trouble.again else { return Err(trouble.error) };
        if *failures >= limits.attempts {
            return Err(trouble.error.context(format!("giving up after {failures} attempts")));
        }
        let pause = asked.unwrap_or_default().min(limits.backoff_most).max(backoff(limits, *failures));
        log::warn!("{:#}; trying again in {:.1} s", trouble.error, pause.as_secs_f32());
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// An `https` URL.
///
/// # Errors
/// When it is none.
pub fn https_url(text: &str) -> Result<Url> {
    let url = Url::parse(text).with_context(|| format!("{text:?} is no URL"))?;
    if url.scheme() != "https" || url.host_str().is_none() {
        bail!("{text:?} is no https:// URL");
    }
    Ok(url)
}

/// Where a redirect leads: only to `https`.
fn redirected(from: &Url, answer: &Answer) -> Result<Url> {
    let location = answer.header(&LOCATION).with_context(|| format!("the server answered {}", answer.status))?;
    let to = from.join(location).with_context(|| format!("the server redirected to {location:?}, which is no URL"))?;
    if to.scheme() != "https" {
        bail!("the server redirected to {to}, which is not https");
    }
    Ok(to)
}

/// Sorts an answer by its status: content, a passing fault, or a lasting one.
fn judge(answer: Answer) -> Result<Answer, Trouble> {
    if matches!(answer.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return Ok(answer);
    }
    let again = match answer.status.as_u16() {
        // The ones curl --retry takes as passing (docs/cmdline-opts/retry.md of curl).
        408 | 429 | 500 | 502 | 503 | 504 => Again::Later(retry_after(&answer)),
        _ => Again::Never,
    };
    Err(Trouble { error: Refused(answer.status).into(), again })
}

/// The length of a file that ends before the range that was asked for (RFC 9110 section 15.5.17).
fn length_beside(answer: &Answer) -> Option<u64> {
    let range = answer.header(&CONTENT_RANGE).filter(|_| answer.status == StatusCode::RANGE_NOT_SATISFIABLE)?;
    range.strip_prefix("bytes */")?.parse().ok()
}

/// Bytes to skip at the start of the answer's body.
fn check_range(answer: &Answer, start: u64, end: u64) -> Result<u64> {
    if answer.status == StatusCode::OK {
        return Ok(start);
    }
    let text = answer.header(&CONTENT_RANGE).context("the server sent part of a file without saying which")?;
    let range = parse_content_range(text).with_context(|| format!("the server sent the range {text:?}"))?;
    if range.first != start || range.last >= end {
        bail!("the server sent bytes {}-{}, not {start}-{}", range.first, range.last, end.saturating_sub(1));
    }
    match range.total {
        Some(total) if total < end => bail!("the file has only {total} bytes, not {end}"),
        _ => Ok(0),
    }
}

/// A `Content-Range` (RFC 9110 section 14.4).
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    first: u64,
    last: u64,
    total: Option<u64>,
}

fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    let range = ContentRange { first: first.parse().ok()?, last: last.parse().ok()?, total };
    (range.first <= range.last).then_some(range)
}

/// The code of a failed fetch: what its cause says, else the repository's.
fn coded_as_fetch<T>(result: Result<T>, what: impl fmt::Display) -> Result<T> {
    result.or_else(|error| {
        let code = error.downcast_ref::<Coded>().map_or(Code::Repository, |coded| coded.code);
        Err(error).code(code, || format!("fetching {what}"))
    })
}

impl Source for HttpsSource {
    fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a> {
        Box::pin(async move {
            coded_as_fetch(self.fetch_all(path, range, &sink).await, format_args!("{}{path}", self.base))
        })
    }

    fn get<'a>(&'a self, path: &'a str, limit: usize) -> Getting<'a> {
        Box::pin(async move { coded_as_fetch(self.get_all(path, limit).await, format_args!("{}{path}", self.base)) })
    }

    fn find<'a>(&'a self, path: &'a str, limit: usize) -> Finding<'a> {
        Box::pin(async move {
            let got = self.get_all(path, limit).await;
            // Object stores answer 403 for what is not there, unless one may list them.
            let absent = |error: &anyhow::Error| {
                error.downcast_ref::<Refused>().is_some_and(|refused| matches!(refused.0.as_u16(), 403 | 404 | 410))
            };
            match got {
                Err(error) if absent(&error) => Ok(None),
                got => coded_as_fetch(got.map(Some), format_args!("{}{path}", self.base)),
            }
        })
    }

    fn describe(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }
}
