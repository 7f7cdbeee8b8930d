//! The name servers that the network names, and the way to those that are on one link only.

use std::future::Future;
use std::net::{SocketAddr, SocketAddrV6, UdpSocket};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use anyhow::{Context as _, Result, anyhow};
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::{RuntimeProvider, TokioRuntimeProvider};
use tokio::sync::watch;

use crate::time_server::TimeServers;

/// Where the name servers are kept for a later process of the same boot.
pub const KEPT: &str = "/run/metalstrap/network.json";
/// Wait for one answer of a name server, and how often it is asked again.
const ASK: (Duration, usize) = (Duration::from_secs(3), 2);
/// No more are asked: an advertisement or lease with hundreds must not make one lookup take minutes. With two links of
/// both families, two for each.
const MOST_SERVERS: usize = 8;

/// The name servers learnt from the network so far, best first, each once. Clones share the list, which may still grow
/// while an installation runs.
#[derive(Debug, Clone)]
pub struct Servers {
    names: Arc<watch::Sender<Vec<SocketAddr>>>,
    /// The time servers, which come by the same ways.
    pub times: TimeServers,
}

impl Default for Servers {
    fn default() -> Self {
        Self { names: Arc::new(watch::Sender::new(Vec::new())), times: TimeServers::default() }
    }
}

impl Servers {
    /// Adds servers at the end; those known already keep their place. Beyond eight, further ones are left out.
    pub fn add(&self, servers: impl IntoIterator<Item = SocketAddr>) {
        self.names.send_if_modified(|known| {
            let before = known.len();
            for server in servers {
                if known.len() < MOST_SERVERS && !known.contains(&server) {
                    known.push(server);
                }
            }
            known.len() > before
        });
    }

    /// The servers of now.
    #[must_use]
    pub fn list(&self) -> Vec<SocketAddr> {
        self.names.borrow().clone()
    }

    /// Follows the list.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Vec<SocketAddr>> {
        self.names.subscribe()
    }
}

/// The name servers that an earlier process of this boot learnt.
///
/// # Errors
/// When there was none, or its file cannot be read.
pub fn recall() -> Result<Servers> {
    recall_from(Path::new(KEPT))
}

fn recall_from(path: &Path) -> Result<Servers> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let list: Vec<SocketAddr> = serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))?;
    let servers = Servers::default();
    servers.add(list);
    Ok(servers)
}

fn keep(path: &Path, servers: &[SocketAddr]) -> Result<()> {
    let text = serde_json::to_vec(servers).context("writing the name servers")?;
    path.parent().map_or(Ok(()), std::fs::create_dir_all).with_context(|| format!("making {}", path.display()))?;
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// Keeps `servers` for a later process of the same boot; since only that needs them, a failure is no reason to stop.
pub fn keep_or_warn(servers: &[SocketAddr]) {
    if let Err(error) = keep(Path::new(KEPT), servers) {
        log::warn!("{error:#}");
    }
}

/// A resolver configuration for servers that the network named.
///
/// # Errors
/// When there is none.
pub fn learnt_config(servers: &[SocketAddr]) -> Result<(ResolverConfig, ResolverOpts)> {
    if servers.is_empty() {
        return Err(anyhow!("the network named no name server"));
    }
    let mut options = ResolverOpts::default();
    (options.timeout, options.attempts) = ASK;
    // Our /etc is the initrd's: it has no hosts file, and none must count by accident.
    options.use_hosts_file = ResolveHosts::Never;
    let config = |server: &SocketAddr| {
        let mut config = NameServerConfig::udp_and_tcp(server.ip());
        // A second link's server may know names that the first one denies.
        config.trust_negative_responses = false;
        config.connections.iter_mut().for_each(|connection| connection.port = server.port());
        config
    };
    Ok((ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(config).collect()), options))
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

/// hickory's runtime for tokio, which knows addresses without their scope; a link-local server needs it. Where two
/// links name the same link-local address, the first one counts.
#[derive(Clone, Default)]
pub struct Scoped {
    inner: TokioRuntimeProvider,
    servers: Arc<Vec<SocketAddrV6>>,
}

impl fmt::Debug for Scoped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scoped").field(&self.servers).finish()
    }
}

impl Scoped {
    /// For the scopes that `servers` have.
    #[must_use]
    pub fn new(servers: &[SocketAddr]) -> Self {
        let scoped = servers.iter().filter_map(|server| match server {
            SocketAddr::V6(six) if six.scope_id() != 0 => Some(*six),
            _ => None,
        });
        Self { inner: TokioRuntimeProvider::default(), servers: Arc::new(scoped.collect()) }
    }

    /// `server` with its scope, if it has one.
    fn scope(&self, server: &SocketAddr) -> Option<SocketAddr> {
        let same = |scoped: &&SocketAddrV6| server.ip() == *scoped.ip() && server.port() == scoped.port();
        self.servers.iter().find(same).copied().map(SocketAddr::V6)
    }
}

/// What hickory's trait returns.
type Soon<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for Scoped {
    type Handle = <TokioRuntimeProvider as RuntimeProvider>::Handle;
    type Timer = <TokioRuntimeProvider as RuntimeProvider>::Timer;
    type Udp = <TokioRuntimeProvider as RuntimeProvider>::Udp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.inner.create_handle()
    }

    fn connect_tcp(&self, server: SocketAddr, own: Option<SocketAddr>, wait: Option<Duration>) -> Soon<Self::Tcp> {
        self.inner.connect_tcp(self.scope(&server).unwrap_or(server), own, wait)
    }

    /// A socket bound to our link-local address of a link sends by that link, whatever scope it is told
    /// (net/ipv6/af_inet6.c, `__inet6_bind`; net/ipv6/udp.c, `udpv6_sendmsg`).
    fn bind_udp(&self, own: SocketAddr, server: SocketAddr) -> Soon<Self::Udp> {
        let Some(scoped) = self.scope(&server) else { return self.inner.bind_udp(own, server) };
        let inner = self.inner.clone();
        Box::pin(async move {
            let mut near = source_for(&scoped)?;
            near.set_port(own.port());
            inner.bind_udp(near, scoped).await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[test]
    fn servers_keep_their_order_and_come_once() {
        let servers = Servers::default();
        let parse = |text: &str| text.parse::<SocketAddr>().unwrap();
        servers.add([parse("10.0.0.2:53"), parse("10.0.0.1:53")]);
        servers.clone().add([parse("10.0.0.1:53"), parse("[fe80::1%7]:53")]);
        assert_eq!(servers.list(), [parse("10.0.0.2:53"), parse("10.0.0.1:53"), parse("[fe80::1%7]:53")]);
    }

    #[test]
    fn no_more_than_eight_servers_are_kept() {
        let servers = Servers::default();
        let server = |n: u8| SocketAddr::from(([10, 0, 0, n], 53));
        servers.add((0..6).map(server));
        servers.add((3..200).map(server));
        assert_eq!(servers.list(), (0..8).map(server).collect::<Vec<_>>());
    }

    #[test]
    fn only_link_local_servers_have_a_scope() {
        let servers = ["10.0.0.1:53", "[fe80::1%7]:53", "[2001:db8::1]:53"].map(|text| text.parse().unwrap());
        let scoped = Scoped::new(&servers);
        let plain = SocketAddr::from(("fe80::1".parse::<Ipv6Addr>().unwrap(), 53));
        assert_eq!(scoped.scope(&plain), Some(servers[1]));
        assert_eq!((scoped.scope(&servers[0]), scoped.scope(&servers[2])), (None, None));
    }

    #[test]
    fn servers_are_recalled() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("run/network.json");
        let list: Vec<SocketAddr> = ["10.0.0.1:53", "[fe80::1%7]:53"].map(|text| text.parse().unwrap()).to_vec();
        keep(&path, &list).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), r#"["10.0.0.1:53","[fe80::1%7]:53"]"#);
        assert_eq!(recall_from(&path).unwrap().list(), list);
    }
}
