//! The address under which a lab serves its repository.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Result, ensure};

use crate::certificates::Issued;
use crate::lab::NAME;

/// Host, port and path of the repository's URL, and the certificate that the server shows.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) certificate: Option<Issued>,
}

impl Default for Endpoint {
    /// `https://repo.test:8443/` with a certificate of the lab's own authority.
    fn default() -> Self {
        Self { host: NAME.to_owned(), port: 8443, path: String::new(), certificate: None }
    }
}

impl Endpoint {
    /// `https://HOST:PORT/PATH/`, where `host` is a name or an IP address (an IPv6 address without brackets), with a
    /// certificate of the lab's own authority. The lab's DNS knows the name; an address is one of the lab's host.
    ///
    /// # Errors
    /// When a server cannot be set up for it: characters that no host name has, or that a path must escape.
    pub fn new(host: &str, port: u16, path: &str) -> Result<Self> {
        let name = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
        ensure!(host.parse::<IpAddr>().is_ok() || (!host.is_empty() && name(host)), "{host:?} is no host name");
        ensure!(port != 0, "there is no port 0");
        let path = path.trim_matches('/');
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
        ensure!(path.bytes().all(plain), "{path:?} has other characters than letters, digits and -._~/");
        let path = if path.is_empty() { String::new() } else { format!("/{path}") };
        Ok(Self { host: host.to_ascii_lowercase(), port, path, certificate: None })
    }

    /// With this certificate (followed by those of intermediate authorities) and its key, both PEM files.
    #[must_use]
    pub fn certificate(mut self, certificate: &Path, key: &Path) -> Self {
        self.certificate = Some(Issued { certificate: certificate.to_owned(), key: key.to_owned() });
        self
    }

    /// The host, when it is an address and no name.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }

    /// The URL, with a slash at its end.
    #[must_use]
    pub fn url(&self) -> String {
        let Self { host, port, path, .. } = self;
        if host.contains(':') {
            format!("https://[{host}]:{port}{path}/")
        } else {
            format!("https://{host}:{port}{path}/")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_a_port_and_a_path() {
        let url = |host, port, path| Endpoint::new(host, port, path).unwrap().url();
        assert_eq!(Endpoint::default().url(), "https://repo.test:8443/");
        assert_eq!(url("Images.example.com", 443, "/os/stable/"), "https://images.example.com:443/os/stable/");
        assert_eq!(url("fd00::5", 8443, ""), "https://[fd00::5]:8443/");
        let refusal = |host, port, path| Endpoint::new(host, port, path).unwrap_err().to_string();
        assert_eq!(refusal("a b", 443, ""), "\"a b\" is no host name");
        assert_eq!(refusal("", 443, ""), "\"\" is no host name");
        assert_eq!(refusal("a", 0, ""), "there is no port 0");
        assert_eq!(refusal("a", 1, "/x;y"), "\"x;y\" has other characters than letters, digits and -._~/");
    }
}
