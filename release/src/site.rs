//! The site config: baked into the netboot image as `/etc/metalstrap/site.json`. JSON, `format: 1`, unknown fields
//! refused. It says whom to believe and where to look; what a machine gets stands in its [host config](crate::host).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;
use crate::discovery::{Rule, Setting, Source};
use crate::document::{DocumentError, Kind};
use crate::metadata::TrustedRoot;

mod kexec_deny;
mod transport;

pub use kexec_deny::KexecDeny;
pub use transport::{ClientCertificate, Exempt, ProxyUrl, Retry};

/// Where the installer finds it in its initrd.
pub const PATH: &str = "/etc/metalstrap/site.json";

/// No site config is larger.
pub const MAX_BYTES: usize = 1 << 20;
/// Connections if nothing is said of them, chosen by measurement (`docs/performance.md`).
pub const CONNECTIONS: u8 = 8;
/// Most connections: each one may hold a frame, 2 MiB as `publish` makes them.
const MAX_CONNECTIONS: u8 = 16;
const KIND: Kind = Kind { name: "site config", max_bytes: MAX_BYTES };
/// Most mirrors: more would only make the message of a failed fetch unreadable.
const MAX_MIRRORS: usize = 16;
/// Most time servers.
const MAX_TIME_SERVERS: usize = 8;
/// Most consoles, the longest name of one, and the speeds that may stand behind it.
const MAX_CONSOLES: usize = 8;
const MAX_CONSOLE_NAME: usize = 32;
const CONSOLE_SPEEDS: [&str; 5] = ["9600", "19200", "38400", "57600", "115200"];
/// Longest name of a server, in bytes (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;
/// Longest wait for a network, in seconds.
const MAX_TIMEOUT: u32 = 24 * 3600;

/// The site config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Site {
    /// Format of this document: 1.
    pub format: u32,
    /// HTTPS URL of the repository, without trailing slash. Left out, it is the directory that the netboot image was fetched
    /// from over HTTPS, or what DHCP says.
    // Empty where it is left out; a text that is there and empty is refused.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "String::is_empty")]
    pub repository: String,
    /// URLs (HTTPS, unless `plain_mirrors`) of further directories, laid out like the repository and without trailing slash,
    /// from which payloads are fetched too, by turns with the repository; at most 16. Nobody trusts them: of the repository
    /// they need `payloads/` only, and metadata, host configs and manifests never come from them.
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// Connections at once over which payloads are fetched, all mirrors together: 1 to 16. One that waits for the first
    /// byte of an answer leaves the link to the others, and on links with loss each recovers on its own.
    #[serde(default = "default_connections")]
    pub connections: u8,
    /// The repository's root metadata as published (`metadata/<version>.root.json`), of any version: whom to believe.
    /// Newer ones are reached from it by their signatures.
    #[cfg_attr(feature = "schema", schemars(with = "serde_json::Map<String, serde_json::Value>"))]
    pub root: Value,
    /// PEM certificates of the CAs that the repository's, the mirrors', the report URL's and an `https` proxy's servers are
    /// checked against. May be left out only where there are `pins`.
    // Empty where it is left out.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "String::is_empty")]
    pub ca: String,
    /// SHA-256 of public keys (DER, SubjectPublicKeyInfo). If there are any, the certificate of the repository, of each mirror
    /// and of the report URL must be for one of these keys; name, validity and, where there is a `ca`, the CA are checked all the
    /// same. At most 64.
    #[serde(default)]
    pub pins: Vec<Digest>,
    /// The certificate that the image shows to servers that ask for one.
    #[serde(default)]
    pub client: Option<ClientCertificate>,
    /// `http://host:port` or `https://host:port` of a proxy through which servers are reached, by CONNECT. It sees their names,
    /// and nothing of what is said. An `https` one may get a name and a password: `https://name:password@host:port`.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub proxy: Option<ProxyUrl>,
    /// What is reached without the proxy: names (with all names below them), addresses, networks (`10.0.0.0/8`).
    #[serde(default)]
    pub no_proxy: Vec<String>,
    /// Whether `mirrors` may have `http://` URLs. Payloads are checked all the same, but who sees the network sees which.
    #[serde(default)]
    pub plain_mirrors: bool,
    /// How often servers are tried, and how long they are waited for.
    #[serde(default)]
    pub retry: Option<Retry>,
    /// Consoles on which the installer shows what it does, besides those of the kernel: names of terminals in `/dev` (`ttyS1`,
    /// `tty0`, `hvc0`), where a serial line may have a speed other than 115200 behind a comma (`ttyS1,57600`); at most 8.
    #[serde(default)]
    pub consoles: Vec<String>,
    /// HTTPS URL events are posted to.
    #[serde(default)]
    pub report_url: Option<String>,
    /// Seconds after which a failed installation reboots; absent or null: hold for a person.
    #[serde(default)]
    pub reboot_on_failure_after: Option<u32>,
    /// Seconds since 1970 before which no clock is right: when this config was made. The machine's clock is set to it
    /// where it shows less.
    #[serde(default)]
    pub clock_floor: Option<u64>,
    /// NTP servers, by name or address, that count before those that the network names; at most 8. `docs/time.md` says what
    /// is believed of them.
    #[serde(default)]
    pub time_servers: Vec<String>,
    /// Seconds to wait for a network that reaches the repository (switch ports may need 60 s after link-up).
    #[serde(default = "default_network_timeout")]
    pub network_timeout: u32,
    /// Of `repository` and `mirrors` those that DHCP may set even where they stand here. What is left out here it may set
    /// anyhow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dhcp_may_set: Vec<Setting>,
    /// Whether labelled media are ignored: no stick, disc or virtual medium of a BMC is looked at for settings.
    #[serde(default)]
    pub ignore_media: bool,
    /// Machines that are left by a reboot instead of kexec, since they are known not to survive one: at most 64. There is no list
    /// beside this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kexec_deny: Vec<KexecDeny>,
}

/// A text that says something: an empty one stands for a field that is left out.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    if text.is_empty() { Err(serde::de::Error::custom("an empty text says nothing: leave it out")) } else { Ok(text) }
}

fn default_connections() -> u8 {
    CONNECTIONS
}

fn default_network_timeout() -> u32 {
    180
}

impl Site {
    /// Parses and checks a site config.
    ///
    /// # Errors
    /// Names the field and what is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        let site: Self = KIND.parse(bytes)?;
        site.check()?;
        Ok(site)
    }

    pub(crate) fn check(&self) -> Result<(), DocumentError> {
        KIND.check_format(self.format)?;
        if !self.repository.is_empty() {
            check_base("repository", &self.repository, false)?;
        }
        if self.mirrors.len() > MAX_MIRRORS {
            let text = format!("has {} entries, more than the {MAX_MIRRORS} allowed", self.mirrors.len());
            return KIND.refuse("mirrors", text);
        }
        self.mirrors.iter().try_for_each(|url| check_base("mirrors", url, self.plain_mirrors))?;
        if !(1..=MAX_CONNECTIONS).contains(&self.connections) {
            return KIND.refuse("connections", format!("is {}, not 1 to {MAX_CONNECTIONS}", self.connections));
        }
        self.report_url.iter().try_for_each(|url| check_url("report_url", url, false))?;
        check_time_servers(&self.time_servers)?;
        check_consoles(&self.consoles)?;
        self.check_kexec_deny()?;
        check_root(&self.root)?;
        if self.ca.is_empty() && self.pins.is_empty() {
            return KIND.refuse("ca", "is left out, and there are no pins: no server could be believed");
        }
        if !self.ca.is_empty() && !self.ca.contains("-----BEGIN CERTIFICATE-----") {
            return KIND.refuse("ca", "holds no PEM certificate");
        }
        if !(1..=MAX_TIMEOUT).contains(&self.network_timeout) {
            return KIND.refuse("network_timeout", format!("is {}, not 1 to {MAX_TIMEOUT}", self.network_timeout));
        }
        match self.dhcp_may_set.iter().find(|setting| setting.rule(Source::Dhcp) == Rule::Never) {
            Some(setting) => KIND.refuse("dhcp_may_set", format!("names {setting}, which DHCP never sets")),
            None => self.check_transport(),
        }
    }
}

/// A URL that paths are appended to: a query would swallow them.
fn check_base(field: &'static str, url: &str, plain: bool) -> Result<(), DocumentError> {
    check_url(field, url, plain)?;
    if url.ends_with('/') || url.contains('?') {
        return KIND.refuse(field, format!("is {url:?}, with a slash at its end or a query"));
    }
    Ok(())
}

/// `plain`: it may be an `http` URL.
fn check_url(field: &'static str, url: &str, plain: bool) -> Result<(), DocumentError> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://").filter(|_| plain));
    match rest.and_then(|rest| rest.split('/').next()) {
        None | Some("") => KIND.refuse(field, format!("is {url:?}, not an https:// URL")),
        Some(host) if host.contains('@') => KIND.refuse(field, "holds a user name or password"),
        Some(_) if !url.bytes().all(|byte| byte.is_ascii_graphic() && !b"#\"\\<>".contains(&byte)) => {
            KIND.refuse(field, format!("is {url:?}, with characters that a URL here must not have"))
        }
        Some(_) => Ok(()),
    }
}

fn check_time_servers(servers: &[String]) -> Result<(), DocumentError> {
    if servers.len() > MAX_TIME_SERVERS {
        let text = format!("has {} entries, more than the {MAX_TIME_SERVERS} allowed", servers.len());
        return KIND.refuse("time_servers", text);
    }
    let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fit = |server: &String| {
        server.parse::<std::net::IpAddr>().is_ok()
            || (1..=MAX_NAME).contains(&server.len()) && server.bytes().all(of_a_name)
    };
    match servers.iter().find(|server| !fit(server)) {
        Some(server) => KIND.refuse("time_servers", format!("holds {server:?}, neither a name nor an address")),
        None => Ok(()),
    }
}

fn check_consoles(entries: &[String]) -> Result<(), DocumentError> {
    if entries.len() > MAX_CONSOLES {
        let text = format!("has {} entries, more than the {MAX_CONSOLES} allowed", entries.len());
        return KIND.refuse("consoles", text);
    }
    let is_name = |name: &str| {
        (1..=MAX_CONSOLE_NAME).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    let fits = |entry: &str| match entry.split_once(',') {
        Some((name, speed)) => is_name(name) && CONSOLE_SPEEDS.contains(&speed),
        None => is_name(entry),
    };
    match entries.iter().find(|entry| !fits(entry)) {
        Some(entry) => {
            let speeds = CONSOLE_SPEEDS.join(", ");
            let text = format!("holds {entry:?}, which is not 1 to {MAX_CONSOLE_NAME} letters and digits");
            KIND.refuse("consoles", format!("{text}, alone or with a comma and a speed ({speeds})"))
        }
        None => Ok(()),
    }
}

/// The root must be one that its own keys have signed.
fn check_root(root: &Value) -> Result<(), DocumentError> {
    TrustedRoot::parse(root).map(drop).or_else(|error| KIND.refuse("root", format!("is no root metadata: {error}")))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::root as test_root;
