//! One HTTPS exchange after another: HTTP/1.1 over TLS, connections kept for the next request, every wait bounded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio_rustls::TlsConnector;
use url::Url;

use crate::failure::{Code, coded};
use crate::resolve::Resolver;
use crate::tls;

/// How long to wait for what, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a TCP connection, and once more for the TLS handshake.
    pub connect: Duration,
    /// For an answer to begin, and for each next piece of it.
    pub stall: Duration,
    /// An answer that brings fewer than `window_bytes` in so much waiting for it counts as stalled.
    pub window: Duration,
    /// The bytes for that.
    pub window_bytes: u64,
    /// An attempt that brings fewer bytes and does not come to the end counts as failed.
    pub attempt_bytes: u64,
    /// Failed attempts in a row before it is given up.
    pub attempts: u32,
    /// Before the second attempt; doubles from then on.
    pub backoff: Duration,
    /// The longest pause between attempts, whatever the server asks for.
    pub backoff_most: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            window: Duration::from_secs(60),
            window_bytes: 64 << 10,
            attempt_bytes: 256 << 10,
            attempts: 8,
            backoff: Duration::from_millis(500),
            backoff_most: Duration::from_secs(30),
        }
    }
}

/// A connection that waits for the next request to its host.
type Connection = SendRequest<Full<Bytes>>;

/// Connections that wait, by host and port.
type Idle = Arc<Mutex<HashMap<String, Vec<Connection>>>>;

/// Speaks HTTPS with any number of hosts. Clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    resolver: Resolver,
    tls: Arc<rustls::ClientConfig>,
    limits: Limits,
    idle: Idle,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// GET or POST.
    pub method: Method,
    /// Where: an `https` URL.
    pub url: Url,
    /// Headers beyond those that every request has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body; empty for a GET.
    pub body: Bytes,
}

impl Client {
    /// A client that trusts the CAs in `ca` (PEM text).
    ///
    /// # Errors
    /// When `ca` is no list of certificates.
    pub fn new(ca: &str, resolver: Resolver, limits: Limits) -> Result<Self> {
        Ok(Self { resolver, tls: tls::client_config(ca)?, limits, idle: Arc::default() })
    }

    /// The limits it was made with.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Asks, and returns when the answer's head is there. A kept connection that turns out to be closed is replaced by
    /// a new one.
    ///
    /// # Errors
    /// When no connection comes about ([`Code::Certificate`] if it is the certificate's fault) or no answer comes.
    pub async fn exchange(&self, ask: &Ask) -> Result<Answer> {
        let host = ask.url.host_str().context("the URL names no host")?;
        let port = ask.url.port_or_known_default().context("the URL names no port")?;
        let authority = format!("{host}:{port}");
        while let Some(kept) = self.take(&authority) {
            if let Ok(answer) = self.send(kept, &authority, ask).await {
                return Ok(answer);
            }
        }
        let fresh = self.connect(host, port).await?;
        self.send(fresh, &authority, ask).await.with_context(|| format!("asking {authority}"))
    }

    fn take(&self, authority: &str) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(authority)?;
        kept.retain(|connection| !connection.is_closed());
        kept.pop()
    }

    async fn connect(&self, host: &str, port: u16) -> Result<Connection> {
        let stream = self.resolver.connect(host, port, self.limits.connect).await?;
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(plain.to_owned()).with_context(|| format!("{host} is no host name"))?;
        let handshake = TlsConnector::from(self.tls.clone()).connect(name, stream);
        let stream = tokio::time::timeout(self.limits.connect, handshake)
            .await
            .map_err(|_elapsed| anyhow!("no TLS answer from {host}:{port} in {} s", self.limits.connect.as_secs_f32()))?
            .map_err(|error| handshake_error(error, plain, &format!("{host}:{port}")))?;
        let (connection, driver) = http1::handshake(TokioIo::new(stream)).await.context("starting HTTP")?;
        // The driver ends by itself when the connection closes or nobody can send on it any more.
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                log::debug!("a connection ended: {error}");
            }
        });
        Ok(connection)
    }

    async fn send(&self, mut connection: Connection, authority: &str, ask: &Ask) -> Result<Answer> {
        let target = match ask.url.query() {
            Some(query) => format!("{}?{query}", ask.url.path()),
            None => ask.url.path().to_owned(),
        };
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(target)
            .header(HOST, authority.strip_suffix(":443").unwrap_or(authority))
            .header(USER_AGENT, concat!("metalstrap/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(ask.body.clone())).context("forming the request")?;
        let answered = async {
            connection.ready().await?;
            connection.send_request(request).await
        };
        let stall = self.limits.stall;
        let answer = tokio::time::timeout(stall, answered)
            .await
            .map_err(|_elapsed| anyhow!("no answer in {} s", stall.as_secs_f32()))?
            .map_err(plain_error)?;
        let (head, body) = answer.into_parts();
        let back = Some((self.idle.clone(), authority.to_owned(), connection));
        let pace = Pace { limits: self.limits, waited: Duration::ZERO, came: 0 };
        Ok(Answer { status: head.status, headers: head.headers, body, pace, back })
    }
}

/// hyper's errors hide what happened in their source; its own words for a broken connection help nobody.
fn plain_error(error: hyper::Error) -> anyhow::Error {
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let cut = cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::UnexpectedEof);
    if cut || error.is_incomplete_message() { anyhow!("the connection was closed too early") } else { anyhow!(error) }
}

fn handshake_error(error: std::io::Error, host: &str, authority: &str) -> anyhow::Error {
    match tls::rustls_error(&error).and_then(|error| tls::refusal(error, host)) {
        Some(words) => coded(Code::Certificate, words),
        None => anyhow!(error).context(format!("agreeing on TLS with {authority}")),
    }
}

/// An answer: its head, and its body piece by piece.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    body: Incoming,
    pace: Pace,
    back: Option<(Idle, String, Connection)>,
}

/// How fast an answer comes. Only time spent waiting for it counts: who receives may be slow.
#[derive(Debug)]
struct Pace {
    limits: Limits,
    /// Of the window that is under way.
    waited: Duration,
    came: u64,
}

impl Pace {
    /// Counts a piece; an error at the end of a window that brought too little.
    fn count(&mut self, waited: Duration, piece: &Bytes) -> Result<()> {
        let Limits { window, window_bytes, .. } = self.limits;
        self.waited = self.waited.saturating_add(waited);
        self.came = self.came.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        if self.waited < window {
            return Ok(());
        }
        if self.came < window_bytes {
            return Err(anyhow!("fewer than {window_bytes} bytes came in {} s", window.as_secs_f32()));
        }
        (self.waited, self.came) = (Duration::ZERO, 0);
        Ok(())
    }
}

impl Answer {
    /// The next piece of the body; `None` at its end, after which the connection is free for the next request.
    ///
    /// # Errors
    /// When the connection breaks, or nothing or too little comes for too long.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        let stall = self.pace.limits.stall;
        loop {
            let asked = Instant::now();
            let frame = tokio::time::timeout(stall, self.body.frame())
                .await
                .map_err(|_elapsed| anyhow!("nothing more came for {} s", stall.as_secs_f32()))?;
            match frame {
                None => {
                    self.give_back();
                    return Ok(None);
                }
                Some(frame) => {
                    // Trailers say nothing we need.
                    if let Ok(data) = frame.map_err(plain_error)?.into_data() {
                        self.pace.count(asked.elapsed(), &data)?;
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The whole body, at most `limit` bytes; `None`: it is larger.
    ///
    /// # Errors
    /// As [`Answer::chunk`].
    pub async fn whole(&mut self, limit: usize) -> Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            if bytes.len().saturating_add(chunk.len()) > limit {
                return Ok(None);
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(Some(bytes))
    }

    /// A header's text; `None` where it is absent or no text.
    #[must_use]
    pub fn header(&self, name: &HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The body's length, where the server said it.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        self.header(&CONTENT_LENGTH)?.parse().ok()
    }

    fn give_back(&mut self) {
        if let Some((idle, authority, connection)) = self.back.take()
            && self.body.is_end_stream()
        {
            let mut idle = idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.entry(authority).or_default().push(connection);
        }
    }
}

/// Seconds a `Retry-After` header asks to wait: a number, or an HTTP date (RFC 9110 section 10.2.3), which servers of
/// files do not send and which is taken as absent.
#[must_use]
pub fn retry_after(answer: &Answer) -> Option<Duration> {
    let seconds = answer.header(&hyper::header::RETRY_AFTER)?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The pause before attempt `failures + 1`: doubled each time, shortened by up to half at random so that a rack of
/// machines does not come back in step.
#[must_use]
pub fn backoff(limits: &Limits, failures: u32) -> Duration {
    let doubled = limits.backoff.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let pause = doubled.min(limits.backoff_most);
    pause.saturating_sub(pause.saturating_mul(u32::from(dice())) / 512)
}

/// A random byte, from the keys the standard library draws for each hash table.
fn dice() -> u8 {
    use std::hash::{BuildHasher as _, RandomState};
    let [byte, ..] = RandomState::new().hash_one(()).to_le_bytes();
    byte
}
