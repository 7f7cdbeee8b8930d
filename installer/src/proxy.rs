//! A proxy: a tunnel to a server by CONNECT (RFC 9110 section 9.3.6), over plain HTTP or TLS.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metalstrap_release::site::{Exempt, ProxyUrl, Site};
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
    /// Without name and password.
    url: Url,
    /// The header with name and password and its line's end; empty where there is none. Only an `https` proxy has one.
    authorization: String,
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
    pub fn new(url: &ProxyUrl, site: &Site) -> Result<Self> {
        let mut url = Url::parse(&url.0).context("reading proxy of the site config")?;
        let authorization = authorization(&url);
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            bail!("the proxy's URL names no host");
        }
        let tls = match url.scheme() {
            "https" => Some(tls::client_config(&site.ca, &[], None)?.into()),
            _ => None,
        };
        Ok(Self { url, authorization, tls, exempt: site.exempt() })
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
            let asking = tokio::time::timeout(patience, self.ask(stream.as_mut(), host, port));
            asking.await.map_err(|_elapsed| anyhow!("no answer in {} s", patience.as_secs_f32()))??;
            anyhow::Ok(stream)
        };
        connecting.await.with_context(through)
    }

    async fn ask(&self, stream: &mut dyn Wire, host: &str, port: u16) -> Result<()> {
        let authorization = &self.authorization;
        let request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n{authorization}\r\n");
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
            Some(407) if authorization.is_empty() => {
                bail!("it answered 407: it wants a name and a password, and the site config has none")
            }
            Some(407) => bail!("it answered 407: it does not take name and password of the site config"),
            Some(other) => bail!("it answered {other}"),
            None => bail!("it answered something that is not HTTP"),
        }
    }
}

/// The header for name and password of a URL (RFC 7617).
fn authorization(url: &Url) -> String {
    if url.username().is_empty() {
        return String::new();
    }
    let mut both = decoded(url.username());
    both.push(b':');
    both.extend(decoded(url.password().unwrap_or_default()));
    format!("Proxy-Authorization: Basic {}\r\n", STANDARD.encode(both))
}

/// What a part of a URL stands for: `%41` for `A`.
fn decoded(part: &str) -> Vec<u8> {
    let mut pieces = part.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let code = piece.get(..2).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(piece.bytes().skip(2));
            }
            None => {
                bytes.push(b'%');
                bytes.extend(piece.bytes());
            }
        }
    }
    bytes
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
    fn name_and_password_are_sent_as_they_are_meant() {
        let header = |url: &str| authorization(&Url::parse(url).unwrap());
        // The example of RFC 7617 section 2.
        let expected = "Proxy-Authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n";
        assert_eq!(header("https://Aladdin:open%20sesame@proxy.test"), expected);
        assert_eq!(header("https://proxy.test:3128"), "");
        // "a:" without a password.
        assert_eq!(header("https://a@proxy.test"), "Proxy-Authorization: Basic YTo=\r\n");
        for (part, bytes) in
            [("p%40ss%3A%25", &b"p@ss:%"[..]), ("%", b"%"), ("%zz%4", b"%zz%4"), ("%+1", b"%+1"), ("", b"")]
        {
            assert_eq!(decoded(part), bytes);
        }
    }

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
