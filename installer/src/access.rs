//! How servers are reached, and whom they must be, as the site config has it: TLS, a proxy, plain HTTP for payloads.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use metalstrap_release::site::Site;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio_rustls::TlsConnector;
use url::Url;

use crate::http::Limits;
use crate::proxy::Proxy;
use crate::resolve::Resolver;
use crate::tls::{self, greet, host_and_port};

/// Bytes asked of the kernel at once: rustls by itself asks for the rest of one record (16 KiB) at a time.
const RECEIVE: usize = 128 << 10;

/// A connection with whatever is below it.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Wire for T {}

/// The way to servers. Clones share it.
#[derive(Debug, Clone)]
pub struct Access {
    tls: Arc<ClientConfig>,
    proxy: Option<Arc<Proxy>>,
    /// Whether a mirror may be reached without TLS.
    plain: bool,
}

impl Access {
    /// Straight to servers whose certificates are of one of the CAs in `ca` (PEM text).
    ///
    /// # Errors
    /// When `ca` is no list of certificates.
    pub fn of_ca(ca: &str) -> Result<Self> {
        Ok(Self { tls: tls::client_config(ca, &[], None)?, proxy: None, plain: false })
    }

    /// As the site config wants it.
    ///
    /// # Errors
    /// A certificate, a key or the proxy's URL of it cannot be used.
    pub fn of_site(site: &Site) -> Result<Self> {
        let tls = tls::client_config(&site.ca, &site.pins, site.client.as_ref())?;
        let proxy = site.proxy.as_ref().map(|url| Proxy::new(url, site));
        Ok(Self { tls, proxy: proxy.transpose()?.map(Arc::new), plain: site.plain_mirrors })
    }

    /// Whether `url` may be that of a mirror.
    #[must_use]
    pub fn permits_mirror(&self, url: &Url) -> bool {
        url.scheme() == "https" || (self.plain && url.scheme() == "http")
    }

    /// The host that a machine connects to for `host`, which stands in a URL: the proxy's, or itself.
    #[must_use]
    pub fn next_host<'a>(&'a self, host: &'a str) -> &'a str {
        self.proxy_for(host).map_or(host, Proxy::host)
    }

    fn proxy_for(&self, host: &str) -> Option<&Proxy> {
        self.proxy.as_deref().filter(|proxy| !proxy.is_bypassed(host))
    }

    /// A connection to the server of `url`, on which HTTP can be spoken: with TLS unless the URL is a plain one.
    ///
    /// # Errors
    /// When none comes about ([`Code::Certificate`](crate::failure::Code::Certificate) if it is the certificate's fault).
    pub async fn connect(&self, url: &Url, resolver: &Resolver, limits: &Limits) -> Result<Box<dyn Wire>> {
        let (host, port) = host_and_port(url)?;
        let patience = limits.connect;
        match self.proxy_for(host) {
            Some(proxy) => self.secure(url, proxy.tunnel(host, port, resolver, patience).await?, patience).await,
            None => self.secure(url, resolver.connect(host, port, patience).await?, patience).await,
        }
    }

    /// What is below TLS on the way to the server of `url`: a connection to it or, through the proxy, a tunnel.
    ///
    /// # Errors
    /// When none comes about within `patience`.
    pub async fn reach(&self, url: &Url, resolver: &Resolver, patience: Duration) -> Result<Box<dyn Wire>> {
        let (host, port) = host_and_port(url)?;
        Ok(match self.proxy_for(host) {
            Some(proxy) => Box::new(proxy.tunnel(host, port, resolver, patience).await?),
            None => Box::new(resolver.connect(host, port, patience).await?),
        })
    }

    /// How TLS is spoken, and whom a server must be.
    #[must_use]
    pub fn tls(&self) -> &ClientConfig {
        &self.tls
    }

    async fn secure(&self, url: &Url, stream: impl Wire, patience: Duration) -> Result<Box<dyn Wire>> {
        if url.scheme() == "http" {
            return Ok(Box::new(stream));
        }
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        Ok(Box::new(greet(&connector, url, BufReader::with_capacity(RECEIVE, stream), patience).await?))
    }
}

#[cfg(test)]
mod tests;
