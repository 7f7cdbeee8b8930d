//! Names to addresses, and addresses to a connection, without libc's resolver (a static binary has none).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::failure::{Code, WithCode as _, coded};
use crate::name_server::{Scoped, learnt_config};
pub use crate::name_server::{Servers, source_for};

/// After this time without a connection the next address is tried too
/// ("Connection Attempt Delay", RFC 8305 section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// For all questions about one name to all servers, aliases followed.
const LOOKUP: Duration = Duration::from_secs(20);

/// Finds addresses and connects to them. Clones are cheap.
#[derive(Debug, Clone)]
pub struct Resolver(Arc<Kind>);

#[derive(Debug)]
enum Kind {
    /// The servers the installer learnt itself; no hosts file.
    Learnt(Servers),
    /// An ordinary command's: `/etc/resolv.conf` and `/etc/hosts`.
    System(Box<(ResolverConfig, ResolverOpts)>),
}

impl Resolver {
    /// Asks the servers that the network named, those named later included.
    #[must_use]
    pub fn learnt(servers: Servers) -> Self {
        Self(Arc::new(Kind::Learnt(servers)))
    }

    /// Asks as the running system is set up to: `/etc/resolv.conf` and `/etc/hosts`. Without the former only the
    /// latter counts.
    ///
    /// # Errors
    /// When `/etc/resolv.conf` cannot be understood.
    pub fn system() -> Result<Self> {
        let path = Path::new("/etc/resolv.conf");
        let (config, options) = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Default::default(),
            read => {
                let text = read.with_context(|| format!("reading {}", path.display()))?;
                hickory_resolver::system_conf::parse_resolv_conf(text)
                    .with_context(|| format!("reading {}", path.display()))?
            }
        };
        Ok(Self(Arc::new(Kind::System(Box::new((config, options))))))
    }

    /// The addresses of `host`, which may be a literal address (as in a URL, with or without brackets); IPv6 and IPv4
    /// by turns, IPv6 first.
    ///
    /// # Errors
    /// [`Code::NameResolution`]: no address was found; the message names the host and the servers asked.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>> {
        if let Ok(literal) = host.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(vec![literal]);
        }
        let resolver = self.resolver().code(Code::NameResolution, || format!("resolving {host}"))?;
        let found = match tokio::time::timeout(LOOKUP, resolver.lookup_ip(host)).await {
            Ok(found) => found.map_err(anyhow::Error::from),
            Err(_elapsed) => Err(anyhow!("no answer in {} s", LOOKUP.as_secs())),
        };
        let found = found.code(Code::NameResolution, || format!("resolving {host} ({})", self.describe()))?;
        let addresses = by_turns(found.iter().collect());
        if addresses.is_empty() {
            return Err(coded(Code::NameResolution, format!("{host} has no address ({})", self.describe())));
        }
        Ok(addresses)
    }

    /// A connection to `host`: its addresses are tried in order, the next one as soon as one fails or is slow.
    ///
    /// # Errors
    /// When no address accepts within `timeout`: the last address's error.
    pub async fn connect(&self, host: &str, port: u16, timeout: Duration) -> Result<TcpStream> {
        let mut waiting: VecDeque<_> = self.addresses(host).await?.into();
        let mut trying = JoinSet::new();
        let mut last = None;
        loop {
            if let Some(address) = waiting.pop_front() {
                trying.spawn(try_one(SocketAddr::new(address, port), timeout));
            }
            let patience = if waiting.is_empty() { timeout } else { NEXT_ADDRESS };
            match tokio::time::timeout(patience, trying.join_next()).await {
                Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
                Ok(Some(Ok(Err(error)))) => last = Some(error),
                Ok(Some(Err(error))) => last = Some(anyhow!(error)),
                Ok(None) => return Err(last.unwrap_or_else(|| anyhow!("no address of {host} was tried"))),
                Err(_slow) => {}
            }
        }
    }

    fn resolver(&self) -> Result<hickory_resolver::Resolver<Scoped>> {
        let ((config, options), provider) = match &*self.0 {
            Kind::System(system) => ((**system).clone(), Scoped::default()),
            Kind::Learnt(servers) => {
                let servers = servers.list();
                (learnt_config(&servers)?, Scoped::new(&servers))
            }
        };
        let builder = hickory_resolver::Resolver::builder_with_config(config, provider);
        builder.with_options(options).build().context("setting up the resolver")
    }

    /// Whom it asks, for messages.
    fn describe(&self) -> String {
        let servers: Vec<String> = match &*self.0 {
            Kind::System(system) => system.0.name_servers().iter().map(|server| server.ip.to_string()).collect(),
            Kind::Learnt(servers) => servers.list().iter().map(|server| server.ip().to_string()).collect(),
        };
        if servers.is_empty() { "no name server is known".into() } else { format!("asked {}", servers.join(", ")) }
    }
}

async fn try_one(address: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    let connecting = tokio::time::timeout(timeout, TcpStream::connect(address)).await;
    let stream = connecting
        .map_err(|_elapsed| anyhow!("no answer in {} s", timeout.as_secs_f32()))
        .and_then(|connected| connected.map_err(Into::into))
        .with_context(|| format!("connecting to {address}"))?;
    // Requests are small and wait for their answer: Nagle's algorithm would only delay them.
    stream.set_nodelay(true).context("setting up the connection")?;
    Ok(stream)
}

/// IPv6 and IPv4 by turns, so that one family that leads nowhere costs one delay, not one for each address.
fn by_turns(addresses: Vec<IpAddr>) -> Vec<IpAddr> {
    let (six, four): (Vec<_>, Vec<_>) = addresses.into_iter().partition(IpAddr::is_ipv6);
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let mut mixed = Vec::new();
    loop {
        let pair = (six.next(), four.next());
        if pair == (None, None) {
            return mixed;
        }
        mixed.extend(pair.0);
        mixed.extend(pair.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn literal_addresses_need_no_server() {
        let resolver = Resolver::learnt(Servers::default());
        for (host, address) in [("10.1.2.3", "10.1.2.3"), ("[2001:db8::1]", "2001:db8::1"), ("::1", "::1")] {
            assert_eq!(resolver.addresses(host).await.unwrap(), [address.parse::<IpAddr>().unwrap()]);
        }
        let error = resolver.addresses("deploy.example").await.unwrap_err();
        assert_eq!(format!("{error:#}"), "resolving deploy.example: the network named no name server");
        assert_eq!(crate::failure::code_of(&error), Code::NameResolution);
    }

    #[test]
    fn families_take_turns() {
        let parse = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(
            by_turns(parse(&["10.0.0.1", "10.0.0.2", "::1", "10.0.0.3"])),
            parse(&["::1", "10.0.0.1", "10.0.0.2", "10.0.0.3"])
        );
    }

    #[tokio::test]
    async fn a_refused_connection_names_the_address() {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let resolver = Resolver::learnt(Servers::default());
        let error = resolver.connect("127.0.0.1", port, Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(format!("{error:#}"), format!("connecting to 127.0.0.1:{port}: Connection refused (os error 111)"));
    }
}
