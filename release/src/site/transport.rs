//! How servers are reached: a certificate of ours, a proxy, and how often is tried.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{KIND, Site};
use crate::document::DocumentError;

/// More pins are a sign of a mistake: two keys of each server, the one in use and the next, are few.
const MAX_PINS: usize = 64;
/// Most hosts that are reached without the proxy.
const MAX_EXEMPT: usize = 256;

/// The certificate that a netboot image shows to servers (TLS client authentication).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    /// PEM certificates: that of the image, then those that lead to a CA which the servers know.
    pub certificate: String,
    /// Its private key, PEM (PKCS#8, PKCS#1 or SEC1, not encrypted). Whoever reads the image has it.
    pub key: String,
}

/// Without the key.
impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// The URL of a proxy, which may have a password in it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProxyUrl(pub String);

/// Without name and password.
impl std::fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = if self.0.contains('@') { "(with name and password)" } else { self.0.as_str() };
        f.debug_tuple("ProxyUrl").field(&shown).finish()
    }
}

/// How often servers are tried, and how long they are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Failed attempts in a row after which a server is given up: 1 to 1000.
    #[serde(default = "Retry::attempts")]
    pub attempts: u32,
    /// Seconds for a connection, and as many for the TLS handshake: 1 to 600.
    #[serde(default = "Retry::connect_timeout")]
    pub connect_timeout: u32,
    /// Seconds for an answer to begin, and for each next piece of it: 1 to 600.
    #[serde(default = "Retry::stall_timeout")]
    pub stall_timeout: u32,
    /// The longest pause between two attempts in seconds, to which pauses double from half a second: 1 to 3600. A server that
    /// asks for a longer one (`Retry-After`) gets it, up to ten minutes.
    #[serde(default = "Retry::longest_pause")]
    pub longest_pause: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: Self::attempts(),
            connect_timeout: Self::connect_timeout(),
            stall_timeout: Self::stall_timeout(),
            longest_pause: Self::longest_pause(),
        }
    }
}

impl Retry {
    fn attempts() -> u32 {
        8
    }

    fn connect_timeout() -> u32 {
        10
    }

    fn stall_timeout() -> u32 {
        30
    }

    fn longest_pause() -> u32 {
        30
    }

    fn check(&self) -> Result<(), DocumentError> {
        let bounds = [
            ("retry.attempts", self.attempts, 1000),
            ("retry.connect_timeout", self.connect_timeout, 600),
            ("retry.stall_timeout", self.stall_timeout, 600),
            ("retry.longest_pause", self.longest_pause, 3600),
        ];
        match bounds.into_iter().find(|(_, value, most)| !(1..=*most).contains(value)) {
            Some((field, value, most)) => KIND.refuse(field, format!("is {value}, not 1 to {most}")),
            None => Ok(()),
        }
    }
}

/// An entry of `no_proxy`.
#[derive(Debug, PartialEq, Eq)]
pub enum Exempt {
    /// Addresses that begin with these bits.
    Network(IpAddr, u8),
    /// A name, and all names below it.
    Domain(String),
}

impl Exempt {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        if let Ok(address) = address.parse::<IpAddr>() {
            let most = if address.is_ipv4() { 32 } else { 128 };
            let bits = prefix.map_or(Some(most), |bits| bits.parse().ok())?;
            return (bits <= most).then_some(Self::Network(address, bits));
        }
        let name = text.strip_prefix('.').unwrap_or(text).to_ascii_lowercase();
        let label = |label: &str| {
            !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        name.split('.').all(label).then_some(Self::Domain(name))
    }

    /// Whether it is of `host`, as that stands in a URL: lower case, IPv6 in brackets.
    #[must_use]
    pub fn covers(&self, host: &str) -> bool {
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match (self, address) {
            (Self::Network(IpAddr::V4(network), bits), Ok(IpAddr::V4(address))) => {
                same_start(network.to_bits().into(), address.to_bits().into(), 32, *bits)
            }
            (Self::Network(IpAddr::V6(network), bits), Ok(IpAddr::V6(address))) => {
                same_start(network.to_bits(), address.to_bits(), 128, *bits)
            }
            (Self::Domain(name), Err(_)) => {
                host.strip_suffix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
            _ => false,
        }
    }
}

/// Whether the first `bits` of two numbers of `width` bits are the same.
fn same_start(one: u128, other: u128, width: u32, bits: u8) -> bool {
    let rest = width.saturating_sub(bits.into());
    (one ^ other).checked_shr(rest).unwrap_or_default() == 0
}

impl Site {
    /// What is reached without the proxy.
    #[must_use]
    pub fn exempt(&self) -> Vec<Exempt> {
        self.no_proxy.iter().filter_map(|entry| Exempt::parse(entry)).collect()
    }

    pub(super) fn check_transport(&self) -> Result<(), DocumentError> {
        if self.pins.len() > MAX_PINS {
            return KIND.refuse("pins", format!("has {} entries, more than the {MAX_PINS} allowed", self.pins.len()));
        }
        if let Some(client) = &self.client {
            if !client.certificate.contains("-----BEGIN CERTIFICATE-----") {
                return KIND.refuse("client.certificate", "holds no PEM certificate");
            }
            if !client.key.contains("PRIVATE KEY-----") || client.key.contains("ENCRYPTED") {
                return KIND.refuse("client.key", "holds no PEM private key, or an encrypted one");
            }
        }
        self.proxy.iter().try_for_each(|url| check_proxy(&url.0, !self.ca.is_empty()))?;
        if self.no_proxy.len() > MAX_EXEMPT {
            let count = self.no_proxy.len();
            return KIND.refuse("no_proxy", format!("has {count} entries, more than the {MAX_EXEMPT} allowed"));
        }
        if let Some(entry) = self.no_proxy.iter().find(|entry| Exempt::parse(entry).is_none()) {
            return KIND.refuse("no_proxy", format!("has {entry:?}, which is no name, address or network"));
        }
        if self.proxy.is_none() && !self.no_proxy.is_empty() {
            return KIND.refuse("no_proxy", "is there, and no proxy");
        }
        self.retry.as_ref().map_or(Ok(()), Retry::check)
    }
}

/// `http://host:port` or `https://host:port`, the latter with name and password or without, and no more. `ca`: there is one that
/// a proxy's certificate can be of.
fn check_proxy(url: &str, ca: bool) -> Result<(), DocumentError> {
    let proxy = Url::parse(url).ok().filter(|proxy| {
        matches!(proxy.scheme(), "http" | "https")
            && proxy.host_str().is_some_and(|host| !host.is_empty())
            && (proxy.path() == "/" && proxy.query().is_none() && proxy.fragment().is_none())
            && url.is_ascii()
    });
    match proxy {
        // Nothing is said of the URL that may have a password in it.
        None if url.contains('@') => {
            KIND.refuse("proxy", "has a name or a password, and is not https://name:password@host:port")
        }
        None => KIND.refuse("proxy", format!("is {url:?}, not http://host:port or https://host:port")),
        Some(proxy) if proxy.scheme() == "https" && !ca => {
            KIND.refuse("proxy", "is an https:// one, and there is no ca that its certificate could be of")
        }
        Some(proxy) if proxy.username().is_empty() && proxy.password().is_none() => Ok(()),
        Some(proxy) if proxy.scheme() == "http" => {
            KIND.refuse("proxy", "has a name or a password, which an http:// one would get in plain text")
        }
        // RFC 7617 section 2: what is behind the first colon is the password.
        Some(proxy) if proxy.username().is_empty() || proxy.username().to_ascii_lowercase().contains("%3a") => {
            KIND.refuse("proxy", "has a password without a name, or a name with a colon")
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_cover_names_below_them_and_addresses_of_their_network() {
        let covers = |entry: &str, host: &str| Exempt::parse(entry).unwrap().covers(host);
        for (entry, host) in [
            ("example.com", "example.com"),
            ("example.com", "os.example.com"),
            (".Example.com", "os.example.com"),
            ("10.0.0.0/8", "10.255.1.2"),
            ("10.1.2.3", "10.1.2.3"),
            ("0.0.0.0/0", "192.0.2.1"),
            ("2001:db8::/32", "[2001:db8:ffff::1]"),
            ("::/0", "[2001:db8::1]"),
        ] {
            assert!(covers(entry, host), "{entry} {host}");
        }
        for (entry, host) in [
            ("example.com", "badexample.com"),
            ("example.com", "example.com.evil.test"),
            ("10.0.0.0/8", "11.0.0.1"),
            ("10.1.2.3", "10.1.2.4"),
            ("10.0.0.0/8", "10.example.com"),
            ("0.0.0.0/0", "[::1]"),
            ("2001:db8::/32", "[2001:db9::1]"),
            ("1", "10.0.0.1"),
        ] {
            assert!(!covers(entry, host), "{entry} {host}");
        }
        for entry in ["", ".", "a..b", "10.0.0.0/33", "::/129", "10.0.0.0/x", "a b", "*"] {
            assert_eq!(Exempt::parse(entry), None, "{entry}");
        }
    }
}
