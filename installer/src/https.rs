//! A repository on a web server: ranges over HTTPS, resumed at the next byte when a connection breaks.

use std::ops::Range;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use hyper::header::{HeaderValue, IF_RANGE, LOCATION, RANGE};
use hyper::{Method, StatusCode};
use tokio::sync::mpsc;
use url::Url;

use crate::access::Access;
use crate::fetch::parts::{Sent, Versions, check_range, length_beside};
use crate::fetch::trouble::{Patience, fetching};
use crate::fetch::{Again, Attempting, Fetching, Finding, Getting, NoRanges, Source, Trouble, Unranged};
use crate::http::{Answer, Ask, Client, Limits};
use crate::resolve::Resolver;
use crate::waits::Waits;

/// Redirects followed for one request.
const REDIRECTS: usize = 5;

/// A repository below an `https` URL.
#[derive(Debug, Clone)]
pub struct HttpsSource {
    base: Url,
    client: Client,
    versions: Versions,
    waits: Waits,
}

/// A status that brings no content.
#[derive(Debug, thiserror::Error)]
#[error("the server answered {0}")]
struct Refused(StatusCode);

/// What is asked for: a part of the file at a URL.
struct Part<'a> {
    url: &'a Url,
    range: Range<u64>,
    unranged: Unranged,
}

impl HttpsSource {
    /// A repository at `base` (`https`, with or without trailing slash), whose server is reached by `access`.
    ///
    /// # Errors
    /// When `base` is no https URL.
    pub fn new(base: &str, access: Access, resolver: Resolver) -> Result<Self> {
        Self::with_limits(base, access, resolver, Limits::default())
    }

    /// The same with other limits.
    ///
    /// # Errors
    /// As [`HttpsSource::new`].
    pub fn with_limits(base: &str, access: Access, resolver: Resolver, limits: Limits) -> Result<Self> {
        Ok(Self::at(https_url(&directory(base))?, Client::new(access, resolver, limits)))
    }

    /// The same for a mirror, from which nothing but payloads is fetched: its URL may be an `http` one where `access` has it.
    ///
    /// # Errors
    /// When `base` is no such URL.
    pub fn mirror(base: &str, access: Access, resolver: Resolver, limits: Limits) -> Result<Self> {
        let url = Url::parse(&directory(base)).with_context(|| format!("{base:?} is no URL"))?;
        if url.host_str().is_none() || !access.permits_mirror(&url) {
            bail!("{base:?} is no https:// URL");
        }
        Ok(Self::at(url, Client::new(access, resolver, limits)))
    }

    fn at(base: Url, client: Client) -> Self {
        Self { base, client, versions: Versions::default(), waits: Waits::default() }
    }

    /// Which tells `waits` for how long the server is left alone.
    #[must_use]
    pub fn telling(self, waits: Waits) -> Self {
        Self { waits, ..self }
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
        let mut ask = Ask { method: Method::GET, url: url.clone(), headers: Vec::new(), body: Bytes::new() };
        for _ in 0..=REDIRECTS {
            let answer = match range {
                Some(range) => self.ask_part(&mut ask, range).await?,
                None => self.client.exchange(&ask).await?,
            };
            if !answer.status.is_redirection() {
                return judge(answer).await;
            }
            ask.url = redirected(&ask.url, &answer).map_err(Trouble::lasting)?;
            answer.finish().await;
        }
        Err(Trouble::lasting(anyhow!("the server redirected more than {REDIRECTS} times")))
    }

    /// Asks for a part of the file, by its version for as long as the answers from this URL agree on one.
    async fn ask_part(&self, ask: &mut Ask, range: &Range<u64>) -> Result<Answer, Trouble> {
        let text = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let bytes = HeaderValue::try_from(text).context("forming the request")?;
        let mut if_range = self.versions.if_range(&ask.url);
        loop {
            ask.headers = vec![(RANGE, bytes.clone())];
            ask.headers.extend(if_range.clone().map(|version| (IF_RANGE, version)));
            let answer = self.client.exchange(ask).await?;
            let beside = length_beside(&answer);
            if (beside.is_some() || answer.status.is_success())
                && self.versions.check(&ask.url, &answer, if_range.as_ref()).map_err(Trouble::lasting)? == Sent::Whole
            {
                if_range = None;
                answer.finish().await;
                continue;
            }
            let Some(total) = beside else { return Ok(answer) };
            return Err(Trouble::lasting(anyhow!("the file has only {total} bytes, not {}", range.end)));
        }
    }

    /// Sends what one answer brings, and moves the part's start on by it. True: who receives has hung up.
    async fn send(&self, part: &mut Part<'_>, sink: &mpsc::Sender<Bytes>) -> Result<bool, Trouble> {
        let Range { start: ref mut next, end } = part.range;
        let mut answer = self.ask(part.url, Some(&(*next..end))).await?;
        let mut skip = check_range(&answer, &(*next..end)).map_err(Trouble::lasting)?;
        if skip > 0 && part.unranged == Unranged::Refused {
            return Err(Trouble::lasting(NoRanges));
        }
        while *next < end {
            let Some(mut chunk) = answer.chunk().await? else {
                if answer.status == StatusCode::OK {
                    return Err(Trouble::lasting(anyhow!("the file ends at byte {next}, not at {end}")));
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
            answer.finish().await;
        }
        Ok(false)
    }

    /// Sends the part up to the first failure, and moves its start on.
    async fn send_all(&self, part: &mut Part<'_>, sink: &mpsc::Sender<Bytes>) -> Result<(), Trouble> {
        while !part.range.is_empty() {
            let before = part.range.start;
            if self.send(part, sink).await? {
                return Ok(());
            }
            let brought = part.range.start - before;
            if !part.range.is_empty() && brought < self.client.limits().attempt_bytes {
                return Err(anyhow!("an answer that ends after {brought} bytes").into());
            }
        }
        Ok(())
    }

    async fn fetch_all(&self, path: &str, range: Range<u64>, sink: &mpsc::Sender<Bytes>) -> Result<()> {
        let url = self.url(path)?;
        let mut part = Part { url: &url, range, unranged: Unranged::Skipped };
        let mut patience = Patience::new(*self.client.limits());
        loop {
            let before = part.range.start;
            let Err(trouble) = self.send_all(&mut part, sink).await else { return Ok(()) };
            patience.credit(part.range.start - before);
            patience.wait(trouble, &self.describe(), &self.waits).await?;
        }
    }

    async fn get_all(&self, path: &str, limit: usize) -> Result<Vec<u8>> {
        let url = self.url(path)?;
        let mut patience = Patience::new(*self.client.limits());
        loop {
            match self.read(&url, limit).await {
                Ok(bytes) => return Ok(bytes),
                Err(trouble) => patience.wait(trouble, &self.describe(), &self.waits).await?,
            }
        }
    }

    async fn read(&self, url: &Url, limit: usize) -> Result<Vec<u8>, Trouble> {
        let mut answer = self.ask(url, None).await?;
        let too_large = || Trouble::lasting(anyhow!("it has more than {limit} bytes"));
        if answer.length().is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > limit)) {
            return Err(too_large());
        }
        answer.whole(limit).await?.ok_or_else(too_large)
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

/// The URL of a directory, to which names can be joined.
fn directory(base: &str) -> String {
    format!("{}/", base.trim_end_matches('/'))
}

/// Where a redirect leads: only to `https`, but for a plain mirror's.
fn redirected(from: &Url, answer: &Answer) -> Result<Url> {
    let location = answer.header(&LOCATION).with_context(|| format!("the server answered {}", answer.status))?;
    let to = from.join(location).with_context(|| format!("the server redirected to {location:?}, which is no URL"))?;
    if to.scheme() != "https" && (from.scheme(), to.scheme()) != ("http", "http") {
        bail!("the server redirected to {to}, which is not https");
    }
    Ok(to)
}

/// Sorts an answer by its status: content, a passing fault, or a lasting one.
pub(crate) async fn judge(answer: Answer) -> Result<Answer, Trouble> {
    if matches!(answer.status, StatusCode::OK | StatusCode::PARTIAL_CONTENT) {
        return Ok(answer);
    }
    let again = match answer.status.as_u16() {
        // The ones curl --retry takes as passing (docs/cmdline-opts/retry.md of curl).
        408 | 429 | 500 | 502 | 503 | 504 => Again::Later(answer.retry_after()),
        _ => Again::Never,
    };
    let error = Refused(answer.status).into();
    answer.finish().await;
    Err(Trouble { error, again })
}

impl Source for HttpsSource {
    fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a> {
        Box::pin(async move { fetching(self.fetch_all(path, range, &sink).await, format_args!("{}{path}", self.base)) })
    }

    fn attempt<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
        unranged: Unranged,
        sink: mpsc::Sender<Bytes>,
    ) -> Attempting<'a> {
        Box::pin(async move {
            let url = self.url(path).map_err(Trouble::lasting)?;
            self.send_all(&mut Part { url: &url, range, unranged }, &sink).await
        })
    }

    fn limits(&self) -> Limits {
        *self.client.limits()
    }

    fn get<'a>(&'a self, path: &'a str, limit: usize) -> Getting<'a> {
        Box::pin(async move { fetching(self.get_all(path, limit).await, format_args!("{}{path}", self.base)) })
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
                got => fetching(got.map(Some), format_args!("{}{path}", self.base)),
            }
        })
    }

    fn describe(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }
}
