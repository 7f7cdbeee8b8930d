//! The time servers that the network names (DHCP option 42, DHCPv6 option 56), and the addresses of those that are asked.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dhcproto::v6::{DhcpOption, NtpSuboption};
use dhcproto::{Decodable as _, Decoder};

use crate::ntp;
use crate::resolve::Resolver;

/// DHCPv6 option of NTP servers (RFC 5908).
pub const OPTION: u16 = 56;
/// For the addresses of all servers that are known by name.
const LOOKUP: Duration = Duration::from_secs(3);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimeServer {
    /// By its address; a link-local one with the scope of the link that named it.
    At(SocketAddr),
    /// By its name.
    Named(String),
}

/// Those learnt from the network so far, each once, at most [`ntp::MOST`]. Clones share the list.
#[derive(Debug, Clone, Default)]
pub struct TimeServers(Arc<Mutex<Vec<TimeServer>>>);

impl TimeServers {
    /// Adds servers at the end. Addresses that no single server can have are left out.
    pub fn add(&self, servers: impl IntoIterator<Item = TimeServer>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for server in servers {
            let fit = match &server {
                TimeServer::At(address) => !address.ip().is_unspecified() && !address.ip().is_multicast(),
                TimeServer::Named(name) => !name.is_empty(),
            };
            if fit && known.len() < ntp::MOST && !known.contains(&server) {
                known.push(server);
            }
        }
    }

    /// The servers of now.
    #[must_use]
    pub fn list(&self) -> Vec<TimeServer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl TimeServer {
    /// The server that a person named: an address, or else a name.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text.parse::<IpAddr>() {
            Ok(address) => Self::At((address, ntp::PORT).into()),
            Err(_) => Self::Named(text.to_owned()),
        }
    }

    /// The servers of one DHCPv6 option (with its code and length, as the library mozim hands it out) that came by the link
    /// with this index; of multicast addresses none.
    #[must_use]
    pub fn of_option(option: &[u8], link: u32) -> Vec<Self> {
        match DhcpOption::decode(&mut Decoder::new(option)) {
            Ok(DhcpOption::NtpServer(servers)) => Self::of_suboptions(&servers, link),
            _ => Vec::new(),
        }
    }

    /// The same for an option that is read already.
    #[must_use]
    pub fn of_suboptions(servers: &[NtpSuboption], link: u32) -> Vec<Self> {
        let server = |server: &NtpSuboption| match server {
            NtpSuboption::ServerAddress(address) => Some(Self::At(scoped(*address, link))),
            NtpSuboption::FQDN(name) => Some(Self::Named(name.to_ascii())),
            NtpSuboption::MulticastAddress(_) => None,
        };
        servers.iter().filter_map(server).collect()
    }
}

fn scoped(address: Ipv6Addr, link: u32) -> SocketAddr {
    let scope = if address.is_unicast_link_local() { link } else { 0 };
    SocketAddrV6::new(address, ntp::PORT, 0, scope).into()
}

/// The addresses of `servers`, each once and at most [`ntp::MOST`]; of a name that is not resolved soon enough, none.
pub async fn addresses(servers: &[TimeServer], resolver: &Resolver) -> Vec<SocketAddr> {
    let found = futures_util::future::join_all(servers.iter().map(|server| addresses_of(server, resolver))).await;
    let mut all = Vec::new();
    for address in found.into_iter().flatten() {
        if all.len() < ntp::MOST && !all.contains(&address) {
            all.push(address);
        }
    }
    all
}

async fn addresses_of(server: &TimeServer, resolver: &Resolver) -> Vec<SocketAddr> {
    let name = match server {
        TimeServer::At(address) => return vec![*address],
        TimeServer::Named(name) => name,
    };
    match tokio::time::timeout(LOOKUP, resolver.addresses(name)).await {
        Ok(Ok(found)) => found.into_iter().map(|address| (address, ntp::PORT).into()).collect(),
        Ok(Err(error)) => {
            log::warn!("{error:#}");
            Vec::new()
        }
        Err(_elapsed) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::Servers;

    fn at(text: &str) -> TimeServer {
        TimeServer::At(text.parse().unwrap())
    }

    #[test]
    fn a_dhcpv6_option_names_servers_by_address_and_name() {
        // Code 56: the addresses fe80::1 and 2001:db8::123, the multicast address ff05::101, the name ntp.example.
        let option = "0038 0052 00010010 fe800000000000000000000000000001 00010010 20010db8000000000000000000000123 \
                      00020010 ff050000000000000000000000000101 00030012 036e7470 076578616d706c65 04746573 74 00";
        let bytes = metalstrap_release::digest::from_hex(&option.replace(' ', "")).unwrap();
        let servers = [at("[fe80::1%9]:123"), at("[2001:db8::123]:123"), TimeServer::Named("ntp.example.test.".into())];
        assert_eq!(TimeServer::of_option(&bytes, 9), servers);
        assert_eq!(TimeServer::of_option(&bytes[..40], 9), []);
        assert_eq!(TimeServer::of_option(&bytes[4..], 9), [], "without its code and length");
    }

    #[test]
    fn the_list_has_each_server_once_and_not_too_many() {
        let servers = TimeServers::default();
        servers.clone().add([
            at("10.0.0.1:123"),
            at("0.0.0.0:123"),
            at("224.0.1.1:123"),
            TimeServer::Named(String::new()),
        ]);
        servers.add([
            TimeServer::parse("ntp.example"),
            TimeServer::parse("10.0.0.1"),
            TimeServer::parse("2001:db8::1"),
        ]);
        assert_eq!(
            servers.list(),
            [at("10.0.0.1:123"), TimeServer::Named("ntp.example".into()), at("[2001:db8::1]:123")]
        );
        servers.add((2..100).map(|n| TimeServer::At(([10, 0, 0, n], 123).into())));
        assert_eq!(servers.list().len(), ntp::MOST);
    }

    #[tokio::test]
    async fn a_name_that_is_not_resolved_costs_the_others_nothing() {
        let resolver = Resolver::learnt(Servers::default());
        let servers = [TimeServer::parse("ntp.example"), TimeServer::parse("127.0.0.1"), at("127.0.0.1:123")];
        assert_eq!(addresses(&servers, &resolver).await, ["127.0.0.1:123".parse::<SocketAddr>().unwrap()]);
    }

    proptest::proptest! {
        #[test]
        fn no_option_breaks_the_reader(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..100)) {
            let length = u8::try_from(bytes.len()).unwrap();
            for option in [&bytes, &[&[0, 56, 0, length], bytes.as_slice()].concat()] {
                assert!(TimeServer::of_option(option, 1).len() <= bytes.len() / 4, "a server has four bytes at least");
            }
        }
    }
}
