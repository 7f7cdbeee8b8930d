//! The `Date` header of an HTTPS server, for a machine without a clock of its own or time servers.
//!
//! The certificate is checked as always, only at another time: a handshake by a clock that stands still at the time at hand,
//! and where the certificate is not valid yet by it, at the first second that it is. What the server then says is the date
//! counts only where its certificate is valid at that date too. No check is left out at any point, and no time is earlier
//! than the one at hand: a certificate that is over by it stays refused.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use hyper::header::DATE;
use rustls::client::Resumption;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use rustls::{CertificateError, ClientConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Url;

use crate::access::{Access, Wire};
use crate::http::parse_date;
use crate::https::https_url;
use crate::resolve::Resolver;
use crate::tls;

/// For all of it.
const WAIT: Duration = Duration::from_secs(5);
/// Certificates of a chain that may each be valid later than the one before.
const CHAIN: usize = 4;
/// The largest head of an answer that is read, in bytes.
const HEAD: usize = 16 << 10;

/// The server that is asked: the repository's.
#[derive(Debug)]
pub struct Server<'a> {
    /// Its URL.
    url: Url,
    /// The way to it, and whom it must be.
    access: Access,
    resolver: &'a Resolver,
}

/// A clock that stands still.
#[derive(Debug)]
struct Standing(UnixTime);

impl TimeProvider for Standing {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// How a handshake ended.
enum Greeted {
    /// The certificate is good.
    Good(Box<TlsStream<Box<dyn Wire>>>),
    /// It is valid only from this time on.
    NotYet(i64),
}

impl<'a> Server<'a> {
    /// The one at `url`.
    ///
    /// # Errors
    /// It is no https URL.
    pub fn new(url: &str, access: Access, resolver: &'a Resolver) -> Result<Self> {
        Ok(Self { url: https_url(url)?, access, resolver })
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.url.host_str().unwrap_or_default().to_owned()
    }

    /// What it says is the time, in seconds since 1970, where it can be believed to be who it should be at the time `from`
    /// or later, at the date that it says in any case.
    ///
    /// # Errors
    /// Its certificate is refused, or no date came within 5 s.
    pub async fn date(&self, from: i64) -> Result<i64> {
        let late = |_elapsed| Err(anyhow!("no date in {} s", WAIT.as_secs()));
        tokio::time::timeout(WAIT, self.ask(from)).await.unwrap_or_else(late)
    }

    async fn ask(&self, from: i64) -> Result<i64> {
        let mut at = from;
        for _ in 0..CHAIN {
            let mut stream = match self.greet(at).await? {
                Greeted::Good(stream) => stream,
                Greeted::NotYet(later) if later > at => {
                    at = later;
                    continue;
                }
                Greeted::NotYet(_) => bail!("its certificate is valid at no time"),
            };
            let date = self.read_date(&mut stream).await?;
            if date < at {
                bail!("it says {}, before its certificate is valid or {}", super::utc(date), super::utc(from));
            }
            return match self.greet(date).await? {
                Greeted::Good(_) => Ok(date),
                Greeted::NotYet(_) => bail!("its certificate is not valid at {}, which it says", super::utc(date)),
            };
        }
        bail!("its chain of certificates is valid at no time");
    }

    /// A handshake by a clock that stands at `at`.
    async fn greet(&self, at: i64) -> Result<Greeted> {
        let (host, _) = tls::host_and_port(&self.url)?;
        let stream = self.access.reach(&self.url, self.resolver, WAIT).await?;
        let (plain, name) = tls::server_name(host)?;
        let connector = TlsConnector::from(Arc::new(standing(self.access.tls(), at)?));
        let error = match connector.connect(name, stream).await {
            Ok(stream) => return Ok(Greeted::Good(Box::new(stream))),
            Err(error) => error,
        };
        match tls::rustls_error(&error) {
            Some(rustls::Error::InvalidCertificate(CertificateError::NotValidYetContext { not_before, .. })) => {
                Ok(Greeted::NotYet(i64::try_from(not_before.as_secs()).context("reading the certificate")?))
            }
            Some(refused) => match tls::refusal(refused, plain) {
                Some(words) => bail!("{words}"),
                None => bail!("agreeing on TLS: {error}"),
            },
            None => Err(error).context("agreeing on TLS"),
        }
    }

    /// The `Date` header of whatever the server answers.
    async fn read_date(&self, stream: &mut TlsStream<Box<dyn Wire>>) -> Result<i64> {
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port().map_or_else(String::new, |port| format!(":{port}"));
        let version = env!("CARGO_PKG_VERSION");
        let request = format!(
            "HEAD {} HTTP/1.1\r\nhost: {host}{port}\r\nuser-agent: metalstrap/{version}\r\nconnection: close\r\n\r\n",
            self.url.path()
        );
        stream.write_all(request.as_bytes()).await.context("asking")?;
        stream.flush().await.context("asking")?;
        let mut head = Vec::new();
        let mut piece = [0; 2048];
        while !head.windows(4).any(|window| window == b"\r\n\r\n") {
            let length = stream.read(&mut piece).await.context("reading the answer")?;
            if length == 0 || head.len() > HEAD {
                bail!("its answer is none of HTTP");
            }
            head.extend_from_slice(piece.get(..length).unwrap_or_default());
        }
        date_of(&head).context("its answer has no date")
    }
}

/// The date in the head of an answer.
fn date_of(head: &[u8]) -> Option<i64> {
    let head = std::str::from_utf8(head.get(..head.windows(4).position(|window| window == b"\r\n\r\n")?)?).ok()?;
    let fields = head.strip_prefix("HTTP/1.")?.lines().skip(1).filter_map(|line| line.split_once(':'));
    let mut dates = fields.filter(|(name, _)| name.eq_ignore_ascii_case(DATE.as_str()));
    parse_date(dates.next()?.1.trim())
}

/// A client configuration as for everything else, but by a clock that stands at `at`, and without sessions to resume: each
/// handshake checks the certificate anew.
fn standing(tls: &ClientConfig, at: i64) -> Result<ClientConfig> {
    let at = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(at).context("reading the time")?));
    let mut config = tls.clone();
    config.time_provider = Arc::new(Standing(at));
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests;
