//! One HTTPS exchange after another: HTTP/1.1 over TLS, connections kept for the next request, every wait bounded.
//!
//! # Design
//! A connection belongs to one request at a time and waits in the client between two. It goes back only when the answer
//! was read to its end, so that no request ever meets the rest of another one's answer.

mod answer;
mod date;
mod limits;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, anyhow};
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use url::Url;

use answer::Pace;
pub use answer::{Answer, TooSlow};
pub use date::parse_date;
pub use limits::{Limits, backoff, pause};

use crate::access::Access;
use crate::resolve::Resolver;

/// The largest piece of a body, in bytes. Whoever queues pieces has so much of memory in each.
const PIECE: usize = 64 << 10;

/// A connection that waits for the next request to its host.
type Connection = SendRequest<Full<Bytes>>;

/// Connections that wait, by server.
type Idle = Arc<Mutex<HashMap<Key, Vec<Connection>>>>;

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    /// Without TLS.
    plain: bool,
    /// Host and port.
    authority: String,
}

impl Key {
    /// As the header `Host` names it: without the port that goes without saying.
    fn host(&self) -> &str {
        let usual = if self.plain { ":80" } else { ":443" };
        self.authority.strip_suffix(usual).unwrap_or(&self.authority)
    }
}

/// Speaks HTTPS with any number of hosts. Clones share connections.
#[derive(Debug, Clone)]
pub struct Client {
    access: Access,
    resolver: Resolver,
    limits: Limits,
    idle: Idle,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Ask {
    /// GET or POST.
    pub method: Method,
    /// Where: an `https` URL, or an `http` one of a mirror that may have it.
    pub url: Url,
    /// Headers beyond those that every request has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body; empty for a GET.
    pub body: Bytes,
}

/// A connection on which no answer began.
#[derive(Debug, thiserror::Error)]
#[error("no answer in {0} s")]
struct Silent(f32);

impl Client {
    /// A client that reaches servers by `access`.
    #[must_use]
    pub fn new(access: Access, resolver: Resolver, limits: Limits) -> Self {
        Self { access, resolver, limits, idle: Arc::default() }
    }

    /// How it reaches servers.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
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
    /// When no connection comes about ([`Code::Certificate`](crate::failure::Code::Certificate) if it is the certificate's
    /// fault) or no answer comes.
    pub async fn exchange(&self, ask: &Ask) -> Result<Answer> {
        let host = ask.url.host_str().context("the URL names no host")?;
        let port = ask.url.port_or_known_default().context("the URL names no port")?;
        let authority = format!("{host}:{port}");
        let key = Key { plain: ask.url.scheme() == "http", authority: authority.clone() };
        while let Some(kept) = self.take(&key) {
            match self.send(kept, &key, ask).await {
                Ok(answer) => return Ok(answer),
                // The way to the server may have gone (a NAT that forgot it): each of the others would cost as long.
                Err(error) if error.is::<Silent>() => self.forget(&key),
                Err(_closed) => {}
            }
        }
        let fresh = self.connect(&ask.url).await?;
        self.send(fresh, &key, ask).await.with_context(|| format!("asking {authority}"))
    }

    fn take(&self, key: &Key) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = idle.get_mut(key)?;
        kept.retain(|connection| !connection.is_closed());
        kept.pop()
    }

    fn forget(&self, key: &Key) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    async fn connect(&self, url: &Url) -> Result<Connection> {
        let stream = self.access.connect(url, &self.resolver, &self.limits).await?;
        let mut http = http1::Builder::new();
        let (connection, driver) =
            http.max_buf_size(PIECE).handshake(TokioIo::new(stream)).await.context("starting HTTP")?;
        // The driver ends by itself when the connection closes or nobody can send on it any more.
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                log::debug!("a connection ended: {error}");
            }
        });
        Ok(connection)
    }

    async fn send(&self, mut connection: Connection, key: &Key, ask: &Ask) -> Result<Answer> {
        let target = match ask.url.query() {
            Some(query) => format!("{}?{query}", ask.url.path()),
            None => ask.url.path().to_owned(),
        };
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(target)
            .header(HOST, key.host())
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
            .map_err(|_elapsed| Silent(stall.as_secs_f32()))?
            .map_err(plain_error)?;
        let (head, body) = answer.into_parts();
        let back = Some((self.idle.clone(), key.clone(), connection));
        Ok(Answer { status: head.status, headers: head.headers, body, pace: Pace::new(self.limits), back })
    }
}

/// hyper's errors hide what happened in their source; its own words for a broken connection help nobody.
fn plain_error(error: hyper::Error) -> anyhow::Error {
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let cut = cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::UnexpectedEof);
    if cut || error.is_incomplete_message() { anyhow!("the connection was closed too early") } else { anyhow!(error) }
}
