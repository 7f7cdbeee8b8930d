//! The network of the netboot initrd: every Ethernet device at once, until one leads to the repository.
//!
//! Each link has its own tasks: wait for a signal, then DHCP and IPv6's routers side by side. They go on while the
//! installation runs, so leases are renewed and a link that comes late still counts. An ordinary command uses the
//! network that is there and nothing of this.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::StreamExt as _;
use metalstrap_release::discovery::DiscoveryError;
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::discovery::heard::{Heard, Saying};
use crate::failure::{Code, coded};
use crate::link::{self, Link, Which};
use crate::name_server::keep_or_warn;
pub use crate::name_server::{KEPT, recall};
use crate::resolve::{Resolver, Servers, source_for};
use crate::router::{Advertisement, Routers};
use crate::time_server::TimeServer;
use crate::{dhcp, dhcp6};

/// When a link that has a signal but no address yet is said to be waiting.
const SAY_AFTER: Duration = Duration::from_secs(5);
/// Before a link that could not be raised, or not be listened to, is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Route metric of the link that was booted from, and of the others (plus their index).
const METRIC: (u32, u32) = (512, 1024);

/// Tells a person what is being waited for: one sentence each.
pub type Say = Arc<dyn Fn(String) + Send + Sync>;

/// Where what the network says is kept. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Learns {
    /// Name servers.
    pub servers: Servers,
    /// What may be settings for us.
    pub heard: Heard,
    /// Whether DHCP servers are asked for the boot file, since nothing names the repository so far.
    pub asks: bool,
}

/// A network that is up. Dropped, leases are no longer renewed; addresses and routes stay.
#[derive(Debug)]
pub struct Network {
    servers: Servers,
    links: watch::Receiver<BTreeMap<u32, Link>>,
    _tasks: JoinSet<()>,
}

impl Network {
    /// A resolver that asks the name servers learnt here, those learnt later included.
    #[must_use]
    pub fn resolver(&self) -> Resolver {
        Resolver::learnt(self.servers.clone())
    }

    /// The time servers learnt here so far.
    #[must_use]
    pub fn time_servers(&self) -> Vec<TimeServer> {
        self.servers.times.list()
    }

    /// The links with an address that reaches further, as `eth0 10.0.0.7, 2001:db8::7`.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let text = |link: &Link| {
            let all: Vec<String> = link.global().iter().map(ToString::to_string).collect();
            (!all.is_empty()).then(|| format!("{} {}", link.name, all.join(", ")))
        };
        self.links.borrow().values().filter_map(text).collect()
    }
}

/// Brings the network up until there is a way to `host` (of the repository: a name or an address): for an address, a
/// route to it; for a name, a route to a name server. Loopback comes up too. `host` is asked whenever DHCP says something
/// new, and is `None` as long as nothing names the repository.
///
/// # Errors
/// [`Code::NoNetworkDevice`]: there is no link after `timeout`. [`Code::NoNetwork`]: none of the links leads to `host`
/// by then; the message says how far each one came. [`Code::Discovery`]: there is no `host` by then. And those of `host`.
pub async fn up(
    which: Which,
    timeout: Duration,
    mut host: impl FnMut(&[Saying]) -> Result<Option<String>>,
    say: Say,
) -> Result<Network> {
    let deadline = Instant::now().checked_add(timeout).context("the time-out is too long")?;
    let mut tasks = JoinSet::new();
    let (handle, mut links) = watch_links(which, &mut tasks).await?;
    raise_loopback(&handle).await?;
    let learns = Learns { asks: host(&[])?.is_none(), ..Learns::default() };
    let Learns { servers, heard, .. } = learns.clone();
    let (mut named, mut says) = (servers.follow(), heard.follow());
    let mut started = BTreeSet::new();
    loop {
        let now = links.borrow_and_update().clone();
        for link in now.values().filter(|link| started.insert(link.index)).cloned() {
            let worker = Worker { handle: handle.clone(), link, links: links.clone(), learns: learns.clone() };
            tasks.spawn(worker.run(say.clone()));
        }
        let wanted = host(&says.borrow_and_update().clone())?;
        let way = wanted.as_ref().map_or_else(|| Err(String::new()), |host| way_to(host, &servers.list()));
        let missing = match way {
            // The kernel may be ahead of what we have heard: the address must be known too.
            Ok(()) if now.values().any(|link| !link.global().is_empty()) => break,
            Ok(()) => String::new(),
            Err(missing) => missing,
        };
        let changed = async {
            tokio::select! {
                changed = links.changed() => changed.is_ok(),
                changed = named.changed() => changed.is_ok(),
                changed = says.changed() => changed.is_ok(),
            }
        };
        match tokio::time::timeout_at(deadline, changed).await {
            Ok(true) => {}
            Ok(false) => return Err(coded(Code::NoNetwork, "the kernel no longer tells about links")),
            Err(_elapsed) => return Err(too_late(&links.borrow(), wanted.as_deref(), &missing, timeout)),
        }
    }
    keep_or_warn(&servers.list());
    tasks.spawn(async move {
        while named.changed().await.is_ok() {
            let list = named.borrow_and_update().clone();
            keep_or_warn(&list);
        }
    });
    Ok(Network { servers, links, _tasks: tasks })
}

/// The links, looked at anew whenever the kernel tells of a change.
async fn watch_links(which: Which, tasks: &mut JoinSet<()>) -> Result<(Handle, watch::Receiver<BTreeMap<u32, Link>>)> {
    use MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv6Ifaddr, Ipv6Route, Link as Links};
    let groups = [Links, Ipv4Ifaddr, Ipv4Route, Ipv6Ifaddr, Ipv6Route];
    let (connection, handle, mut events) = rtnetlink::new_multicast_connection(&groups).context("opening rtnetlink")?;
    tasks.spawn(connection);
    let (sender, receiver) = watch::channel(link::links(&handle, &which).await?);
    let asking = handle.clone();
    tasks.spawn(async move {
        while events.next().await.is_some() {
            // One look is enough for all the events that are there.
            while let Ok(Some(_more)) = tokio::time::timeout(Duration::ZERO, events.next()).await {}
            match link::links(&asking, &which).await {
                // Routes are not part of it, but whoever waits must look again.
                Ok(links) => sender.send_modify(|known| *known = links),
                Err(error) => log::warn!("{error:#}"),
            }
        }
    });
    Ok((handle, receiver))
}

/// Loopback's index is 1 in every network namespace (net/core/dev.c, LOOPBACK_IFINDEX).
async fn raise_loopback(handle: &Handle) -> Result<()> {
    link::bring_up(handle, 1).await.context("on loopback")
}

/// What works on one link.
struct Worker {
    handle: Handle,
    link: Link,
    links: watch::Receiver<BTreeMap<u32, Link>>,
    learns: Learns,
}

impl Worker {
    async fn run(self, say: Say) {
        let mut said = String::new();
        while let Err(error) = self.work(say.clone()).await {
            if !self.try_again(&error, &mut said).await {
                return;
            }
        }
    }

    /// Says an error, the same one only once, and waits a little; whether the link is still there.
    async fn try_again(&self, error: &anyhow::Error, said: &mut String) -> bool {
        let text = format!("{error:#}");
        if *said != text {
            log::warn!("{}: {text}; trying again every {} s", self.link.name, AGAIN.as_secs());
            *said = text;
        }
        tokio::time::sleep(AGAIN).await;
        self.links.borrow().contains_key(&self.link.index)
    }

    async fn work(&self, say: Say) -> Result<()> {
        link::bring_up(&self.handle, self.link.index).await?;
        if tokio::time::timeout(SAY_AFTER, self.until(|link| link.carrier)).await.is_err() {
            say(format!("{}: no carrier yet", self.link.name));
            self.until(|link| link.carrier).await;
        }
        let boot = std::fs::read_to_string("/proc/cmdline").ok().and_then(|cmdline| link::boot_mac(&cmdline));
        let metric = if boot == Some(self.link.mac) { METRIC.0 } else { METRIC.1.saturating_add(self.link.index) };
        let lease = dhcp::keep_lease(self.handle.clone(), self.link.clone(), metric, self.learns.clone());
        let six = async {
            let mut said = String::new();
            while let Err(error) = self.six().await {
                if !self.try_again(&error, &mut said).await {
                    return;
                }
            }
        };
        tokio::join!(lease, six, self.say_waiting(&say));
        Ok(())
    }

    /// IPv6: hears the routers, and does as they say.
    async fn six(&self) -> Result<()> {
        let mut routers = Routers::open(&self.link)?;
        let mut tasks = JoinSet::new();
        let (mut leased, mut asked) = (false, false);
        loop {
            let Advertisement { managed, other, servers } = routers.next().await?;
            self.learns.servers.add(dhcp6::scoped(&servers, self.link.index));
            if !(managed || other) {
                continue;
            }
            let (handle, link, known) = (self.handle.clone(), self.link.clone(), self.learns.clone());
            let own = self.until_link_local().await;
            if managed && !leased {
                leased = true;
                tasks.spawn(dhcp6::keep_lease(handle, link, own, known));
            } else if other && !managed && !asked {
                asked = true;
                tasks.spawn(dhcp6::ask_servers(link, own, known));
            }
        }
    }

    async fn say_waiting(&self, say: &Say) {
        if tokio::time::timeout(SAY_AFTER, self.until(|link| !link.global().is_empty())).await.is_err() {
            let name = &self.link.name;
            say(format!("{name}: waiting for the switch port (there is a signal, but no answer yet)"));
        }
    }

    async fn until(&self, ready: impl Fn(&Link) -> bool) {
        let index = self.link.index;
        // An error means that nobody looks any more: the whole is being dropped.
        let mut links = self.links.clone();
        let _seen = links.wait_for(|links| links.get(&index).is_some_and(&ready)).await;
    }

    async fn until_link_local(&self) -> std::net::Ipv6Addr {
        let index = self.link.index;
        let own = |links: &BTreeMap<u32, Link>| links.get(&index).and_then(Link::link_local);
        let mut links = self.links.clone();
        match links.wait_for(|links| own(links).is_some()).await {
            Ok(links) => own(&links).unwrap_or(std::net::Ipv6Addr::UNSPECIFIED),
            Err(_) => std::net::Ipv6Addr::UNSPECIFIED,
        }
    }
}

/// Whether there is a way to `host`; else what is missing.
fn way_to(host: &str, servers: &[SocketAddr]) -> Result<(), String> {
    if let Ok(literal) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return if reaches(&SocketAddr::new(literal, 443)) { Ok(()) } else { Err(format!("no route to {host}")) };
    }
    match servers {
        [] => Err(format!("no name server to ask for {host}")),
        _ if servers.iter().any(reaches) => Ok(()),
        _ => Err("no route to a name server".into()),
    }
}

/// Whether the kernel has a route there and an address of ours that is good for it.
fn reaches(destination: &SocketAddr) -> bool {
    let near = |address: &SocketAddr| match address.ip() {
        IpAddr::V4(four) => four.is_link_local(),
        IpAddr::V6(six) => six.is_unicast_link_local(),
    };
    source_for(destination).is_ok_and(|own| near(destination) || !near(&own))
}

/// The error of a network that did not lead to `host` in time.
fn too_late(links: &BTreeMap<u32, Link>, host: Option<&str>, missing: &str, timeout: Duration) -> anyhow::Error {
    match host {
        Some(host) => no_network(links, host, missing, timeout),
        None if links.values().any(|link| !link.global().is_empty()) => {
            coded(Code::Discovery, format!("{} (waited {} s)", DiscoveryError::NoRepository, timeout.as_secs()))
        }
        None => no_network(links, "the repository", missing, timeout),
    }
}

fn no_network(links: &BTreeMap<u32, Link>, host: &str, missing: &str, timeout: Duration) -> anyhow::Error {
    let seconds = timeout.as_secs();
    if links.is_empty() {
        return coded(Code::NoNetworkDevice, format!("there is no network device (waited {seconds} s)"));
    }
    let state = |link: &Link| {
        let name = &link.name;
        let addresses: Vec<String> = link.global().iter().map(ToString::to_string).collect();
        match (link.carrier, addresses.is_empty()) {
            (false, _) => format!("{name}: no carrier"),
            (true, true) => format!("{name}: neither DHCP nor an IPv6 router answered in {seconds} s"),
            (true, false) => format!("{name}: has {}, but {missing}", addresses.join(", ")),
        }
    };
    let states: Vec<String> = links.values().map(state).collect();
    coded(Code::NoNetwork, format!("no network leads to {host}: {}", states.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::code_of;

    fn link(index: u32, carrier: bool, addresses: &[&str]) -> (u32, Link) {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        (index, Link { index, name: format!("eth{}", index - 2), mac: [2; 6], carrier, addresses })
    }

    #[test]
    fn each_link_says_how_far_it_came() {
        let links = BTreeMap::from([
            link(2, false, &[]),
            link(3, true, &["fe80::1"]),
            link(4, true, &["fe80::2", "10.0.0.7", "2001:db8::7"]),
        ]);
        let wait = Duration::from_secs(180);
        let error = no_network(&links, "deploy.example", "no name server to ask for deploy.example", wait);
        assert_eq!(
            error.to_string(),
            "no network leads to deploy.example: eth0: no carrier; \
             eth1: neither DHCP nor an IPv6 router answered in 180 s; \
             eth2: has 10.0.0.7, 2001:db8::7, but no name server to ask for deploy.example"
        );
        assert_eq!(code_of(&error), Code::NoNetwork);
        let error = no_network(&BTreeMap::new(), "deploy.example", "", wait);
        assert_eq!(error.to_string(), "there is no network device (waited 180 s)");
        assert_eq!(code_of(&error), Code::NoNetworkDevice);
    }

    #[test]
    fn a_network_on_which_nobody_names_the_repository_is_no_network_that_is_missing() {
        let wait = Duration::from_secs(180);
        let error = too_late(&BTreeMap::from([link(2, true, &["10.0.0.7"])]), None, "", wait);
        assert_eq!(error.to_string(), format!("{} (waited 180 s)", DiscoveryError::NoRepository));
        assert_eq!(code_of(&error), Code::Discovery);
        let error = too_late(&BTreeMap::from([link(2, false, &[])]), None, "", wait);
        assert_eq!(error.to_string(), "no network leads to the repository: eth0: no carrier");
        assert_eq!(code_of(&error), Code::NoNetwork);
    }

    #[test]
    fn a_way_is_a_route_and_an_own_address() {
        assert_eq!(way_to("127.0.0.1", &[]), Ok(()));
        assert_eq!(way_to("deploy.example", &[]), Err("no name server to ask for deploy.example".into()));
        assert_eq!(way_to("deploy.example", &["127.0.0.53:53".parse().unwrap()]), Ok(()));
        // 240.0.0.0/4 is never routed.
        assert_eq!(way_to("255.255.255.255", &[]), Err("no route to 255.255.255.255".into()));
    }
}
