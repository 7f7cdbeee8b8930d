//! Names to addresses, and addresses to a connection, without libc's resolver (a static binary has none).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::failure::{Code, WithCode as _, coded};

/// After this time without a connection the next address is tried too
/// ("Connection Attempt Delay", RFC 8305 section 5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// Wait for one answer of a name server, and how often it is asked again.
const ASK: (Duration, usize) = (Duration::from_secs(3), 2);

/// The name servers learnt from the network so far, best first, each once. Clones share the list, which may still grow
/// while an installation runs.
#[derive(Debug, Clone)]
pub struct Servers(Arc<watch::Sender<Vec<SocketAddr>>>);

impl Default for Servers {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }
}

impl Servers {
    /// Adds servers at the end; those known already keep their place.
    pub fn add(&self, servers: impl IntoIterator<Item = SocketAddr>) {
        self.0.send_if_modified(|known| {
            let before = known.len();
            for server in servers {
                if !known.contains(&server) {
                    known.push(server);
                }
            }
            known.len() > before
        });
    }

    /// The servers of now.
    #[must_use]
    pub fn list(&self) -> Vec<SocketAddr> {
        self.0.borrow().clone()
    }

    /// Follows the list.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.0.subscribe()
    }
}

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
        let found = resolver.lookup_ip(host).await;
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

    fn resolver(&self) -> Result<TokioResolver> {
        let (config, options) = match &*self.0 {
            Kind::System(system) => (**system).clone(),
            Kind::Learnt(servers) => learnt_config(&servers.list())?,
        };
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
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

/// A resolver configuration for servers that the network named.
fn learnt_config(servers: &[SocketAddr]) -> Result<(ResolverConfig, ResolverOpts)> {
    if servers.is_empty() {
        return Err(anyhow!("the network named no name server"));
    }
    let mut options = ResolverOpts::default();
    (options.timeout, options.attempts) = ASK;
    // Our /etc is the initrd's: it has no hosts file, and none must count by accident.
    options.use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
    let servers = servers.iter().map(server_config).collect::<Result<_>>()?;
    Ok((ResolverConfig::from_parts(None, Vec::new(), servers), options))
}

/// One server. A link-local one is reached only through its link: binding to our own link-local address there chooses
/// it (net/ipv6/af_inet6.c, `__inet6_bind`).
fn server_config(server: &SocketAddr) -> Result<NameServerConfig> {
    let mut config = NameServerConfig::udp_and_tcp(server.ip());
    // A second link's server may know names that the first one denies.
    config.trust_negative_responses = false;
    for connection in &mut config.connections {
        connection.port = server.port();
        if let SocketAddr::V6(scoped) = server
            && scoped.scope_id() != 0
        {
            let mut own = source_for(server).with_context(|| format!("looking for the way to {server}"))?;
            own.set_port(0);
            connection.bind_addr = Some(own);
        }
    }
    Ok(config)
}

/// The address of ours that the kernel would send from; nothing is sent.
///
/// # Errors
/// When there is no route.
pub fn source_for(destination: &SocketAddr) -> std::io::Result<SocketAddr> {
    let any: SocketAddr = match destination {
        SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(destination)?;
    socket.local_addr()
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
    fn servers_keep_their_order_and_come_once() {
        let servers = Servers::default();
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        servers.add([parse("10.0.0.2:53"), parse("10.0.0.1:53")]);
        servers.clone().add([parse("10.0.0.1:53"), parse("[fe80::1%7]:53")]);
        assert_eq!(servers.list(), [parse("10.0.0.2:53"), parse("10.0.0.1:53"), parse("[fe80::1%7]:53")]);
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
