//! A proxy: a tunnel to a server by CONNECT (RFC 9110 section 9.3.6), over plain HTTP or TLS.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use metalstrap_release::site::{Exempt, Site};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::access::Wire;
use crate::resolve::Resolver;
use crate::tls::{self, greet};

/// No proxy's answer has a longer head.
const MAX_HEAD: usize = 16 << 10;

/// A proxy, and what is reached without it.
pub struct Proxy {
    url: Url,
    /// For an `https` proxy: its certificate is of a CA of the site config, whatever keys are pinned for servers.
    tls: Option<TlsConnector>,
    exempt: Vec<Exempt>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proxy").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Proxy {
    /// The proxy at `url`, for all but what `no_proxy` of `site` has.
    ///
    /// # Errors
    /// `url` is none, or the CA cannot be used.
    pub fn new(url: &str, site: &Site) -> Result<Self> {
        let url = Url::parse(url).context("reading proxy of the site config")?;
        let tls = match url.scheme() {
            "https" => Some(tls::client_config(&site.ca, &[], None)?.into()),
            _ => None,
        };
        Ok(Self { url, tls, exempt: site.exempt() })
    }

    /// Its host, as in its URL.
    #[must_use]
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// Whether `host`, as in a URL, is reached without it.
    #[must_use]
    pub fn is_bypassed(&self, host: &str) -> bool {
        self.exempt.iter().any(|entry| entry.covers(host))
    }

    /// A connection through it to a port of `host`. Each wait is bounded by `patience`.
    ///
    /// # Errors
    /// The proxy cannot be reached, or refuses.
    pub async fn tunnel(
        &self,
        host: &str,
        port: u16,
        resolver: &Resolver,
        patience: Duration,
    ) -> Result<Box<dyn Wire>> {
        let own = self.url.port_or_known_default().context("the proxy's URL names no port")?;
        let through = || format!("reaching {host}:{port} through the proxy {}:{own}", self.host());
        let connecting = async {
            let stream = resolver.connect(self.host(), own, patience).await?;
            let mut stream: Box<dyn Wire> = match &self.tls {
                Some(connector) => Box::new(greet(connector, &self.url, stream, patience).await?),
                None => Box::new(stream),
            };
            let asking = tokio::time::timeout(patience, ask(stream.as_mut(), host, port));
            asking.await.map_err(|_elapsed| anyhow!("no answer in {} s", patience.as_secs_f32()))??;
            anyhow::Ok(stream)
        };
        connecting.await.with_context(through)
    }
}

async fn ask(stream: &mut dyn Wire, host: &str, port: u16) -> Result<()> {
    let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.context("asking it")?;
    stream.flush().await.context("asking it")?;
    let mut head = Vec::new();
    // The server behind it speaks only when it is spoken to, so that what comes is the proxy's answer alone.
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD || head.windows(4).any(|window| window == b"\r\n\r\n") {
            bail!("it answered more than the head of an answer");
        }
        let mut piece = [0; 1024];
        let length = stream.read(&mut piece).await.context("reading its answer")?;
        if length == 0 {
            bail!("it closed the connection");
        }
        head.extend_from_slice(piece.get(..length).unwrap_or_default());
    }
    match status(&head) {
        Some(200..=299) => Ok(()),
        Some(407) => bail!("it answered 407: it wants a password, which is not supported"),
        Some(other) => bail!("it answered {other}"),
        None => bail!("it answered something that is not HTTP"),
    }
}

/// The status of an answer by its head.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|byte| *byte == b'\r').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next().filter(|word| word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_read_and_nothing_else() {
        assert_eq!(status(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503\r\n\r\n"), Some(503));
        for head in
            [&b"HTTP/2 200\r\n\r\n"[..], b"SSH-2.0\r\n\r\n", b"HTTP/1.1 +20 \r\n\r\n", b"HTTP/1.1 20\r\n\r\n", b""]
        {
            assert_eq!(status(head), None);
        }
    }
}
