//! IPv4 by DHCP on one link. The protocol is the library mozim's; here a lease becomes addresses, routes and servers.

mod answer;
mod inform;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, anyhow};
use mozim::{DhcpV4Client, DhcpV4Config, DhcpV4Lease, DhcpV4State};
use rtnetlink::Handle;

use crate::discovery::heard::Opt;
use crate::link::{self, Link, Route};
use crate::net::Learns;
use crate::ntp;
use crate::time_server::TimeServer;

/// The library doubles the pause between its discoveries up to a minute; a switch port that opens late would cost that
/// minute. A new client after this time keeps the pauses below 15 s.
const ROUND: Duration = Duration::from_secs(26);
/// Pause after an error, so that a broken device does not keep a processor busy.
const AFTER_ERROR: Duration = Duration::from_secs(2);
/// The smallest MTU that IPv4 allows to insist on (RFC 2132 section 5.1 has 68; RFC 791 makes 576 work everywhere).
const LEAST_MTU: u16 = 576;

/// Gets a lease on `link` and keeps it, for as long as it is polled. `metric` orders the routes of several links.
pub async fn keep_lease(handle: Handle, link: Link, metric: u32, learns: Learns) {
    let mut held = None;
    loop {
        if let Err(error) = one_life(&handle, &link, metric, &learns, &mut held).await {
            log::debug!("{}: DHCP: {error:#}", link.name);
            tokio::time::sleep(AFTER_ERROR).await;
        }
    }
}

/// From the first discovery until there is none to answer, or an error.
async fn one_life(
    handle: &Handle,
    link: &Link,
    metric: u32,
    learns: &Learns,
    held: &mut Option<(Ipv4Addr, u8)>,
) -> Result<()> {
    let mut config = DhcpV4Config::new(&link.name);
    config.set_iface_index(link.index).set_iface_mac_raw(&link.mac).map_err(anyhow::Error::new)?;
    // The library always sends a client identifier; an empty one would be malformed (RFC 2132 section 9.14).
    config.use_mac_as_client_id();
    config.request_extra_dhcp_opts(&Opt::FOUR.map(|(_, code)| code));
    let mut client = DhcpV4Client::init(config, None).await?;
    let mut state = DhcpV4State::InitReboot;
    loop {
        state = match state {
            DhcpV4State::Done(lease) => {
                apply(handle, link, metric, learns, &lease, held).await?;
                client.run().await?
            }
            DhcpV4State::InitReboot | DhcpV4State::Selecting => match tokio::time::timeout(ROUND, client.run()).await {
                Ok(next) => next?,
                Err(_elapsed) => return Ok(()),
            },
            _ => client.run().await?,
        };
    }
}

async fn apply(
    handle: &Handle,
    link: &Link,
    metric: u32,
    learns: &Learns,
    lease: &DhcpV4Lease,
    held: &mut Option<(Ipv4Addr, u8)>,
) -> Result<()> {
    let own = (lease.yiaddr, prefix_of(lease.subnet_mask));
    if own.0.is_unspecified() || own.0.is_multicast() || own.0.is_loopback() {
        return Err(anyhow!("the server offered the address {}", own.0));
    }
    let before = held.replace(own);
    if let Some(old) = before.filter(|old| *old != own) {
        link::remove_address(handle, link.index, IpAddr::V4(old.0), old.1).await?;
    }
    if !learns.asks {
        // First, so that whoever waits for a way has heard it when there is one.
        learns.heard.add(&link.name, sayings(lease));
    }
    link::add_address(handle, link.index, IpAddr::V4(own.0), own.1).await?;
    let mtu = lease.mtu.filter(|mtu| *mtu >= LEAST_MTU);
    for route in routes(lease) {
        // One route that the kernel refuses must not cost the others.
        if let Err(error) = link::add_route(handle, link.index, &route, metric, mtu).await {
            log::warn!("{}: {error:#}", link.name);
        }
    }
    // Before the name servers, whose coming ends the wait for the network.
    learns.servers.times.add(times(lease));
    learns.servers.add(lease.dns_srvs.iter().flatten().map(|server| SocketAddr::from((*server, 53))));
    log::info!("{}: {}/{} from the DHCP server {}", link.name, own.0, own.1, lease.srv_id);
    if learns.asks && before != Some(own) {
        let told = inform::ask(link, own.0).await.unwrap_or_else(|error| {
            log::warn!("{}: asking for the boot file: {error:#}", link.name);
            Vec::new()
        });
        learns.heard.add(&link.name, told.into_iter().chain(sayings(lease)));
    }
    Ok(())
}

/// The options of a lease that may have settings, as the library hands them out: with code and length.
fn sayings(lease: &DhcpV4Lease) -> impl Iterator<Item = (Opt, Vec<u8>)> + '_ {
    Opt::FOUR.into_iter().filter_map(|(option, code)| {
        let raw = lease.get_option_raw(code)?;
        Some((option, raw.get(2..)?.to_vec()))
    })
}

/// The time servers of a lease.
fn times(lease: &DhcpV4Lease) -> Vec<TimeServer> {
    lease.ntp_srvs.iter().flatten().map(|server| TimeServer::At((*server, ntp::PORT).into())).collect()
}

/// Bits of a network mask; without one (mask 0.0.0.0) the address stands alone.
fn prefix_of(mask: Ipv4Addr) -> u8 {
    let bits = u32::from(mask).leading_ones();
    u8::try_from(bits).ok().filter(|bits| *bits > 0).unwrap_or(32)
}

/// The routes of a lease in the order to add them: our network, then those the server names.
///
/// Classless routes (RFC 3442) replace the router option; a router of 0.0.0.0 there means directly on the link.
fn routes(lease: &DhcpV4Lease) -> Vec<Route> {
    let prefix = prefix_of(lease.subnet_mask);
    let network = u32::from(lease.yiaddr) & u32::from(lease.subnet_mask);
    let mut routes = Vec::new();
    if prefix < 32 {
        routes.push(Route { destination: Ipv4Addr::from(network), prefix, gateway: None });
    }
    if let Some(classless) = &lease.classless_routes {
        routes.extend(classless.iter().filter(|route| route.prefix_length <= 32).map(|route| Route {
            destination: route.destination,
            prefix: route.prefix_length,
            gateway: Some(route.router).filter(|router| !router.is_unspecified()),
        }));
    } else if let Some(gateway) = lease.gateways.iter().flatten().next() {
        routes.push(Route { destination: Ipv4Addr::UNSPECIFIED, prefix: 0, gateway: Some(*gateway) });
    }
    routes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(mask: [u8; 4]) -> DhcpV4Lease {
        let mut lease = DhcpV4Lease::default();
        lease.yiaddr = Ipv4Addr::new(10, 9, 8, 200);
        lease.subnet_mask = mask.into();
        lease.gateways = Some(vec![Ipv4Addr::new(10, 9, 8, 129), Ipv4Addr::new(10, 9, 8, 130)]);
        lease
    }

    fn route(destination: [u8; 4], prefix: u8, gateway: Option<[u8; 4]>) -> Route {
        Route { destination: destination.into(), prefix, gateway: gateway.map(Ipv4Addr::from) }
    }

    #[test]
    fn the_first_router_is_the_default() {
        let expected = [route([10, 9, 8, 128], 25, None), route([0; 4], 0, Some([10, 9, 8, 129]))];
        assert_eq!(routes(&lease([255, 255, 255, 128])), expected);
        // A lone address, as clouds give it.
        assert_eq!(routes(&lease([255; 4])), [route([0; 4], 0, Some([10, 9, 8, 129]))]);
        assert_eq!(routes(&lease([0; 4])), [route([0; 4], 0, Some([10, 9, 8, 129]))]);
    }

    #[test]
    fn a_lease_names_time_servers() {
        let mut lease = lease([0; 4]);
        assert_eq!(times(&lease), []);
        lease.ntp_srvs = Some(vec![Ipv4Addr::new(10, 9, 8, 1), Ipv4Addr::new(10, 9, 8, 2)]);
        let at = |text: &str| TimeServer::At(text.parse().unwrap());
        assert_eq!(times(&lease), [at("10.9.8.1:123"), at("10.9.8.2:123")]);
    }
}
