//! DHCPv6 on one link, where its router says so: addresses by the library mozim, and the exchange for servers alone,
//! which mozim does not have, by messages of the library dhcproto.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use dhcproto::v6::{DhcpOption, Message, MessageType, NtpSuboption, ORO, OptionCode};
use dhcproto::{Decodable as _, Decoder, Encodable as _};
use mozim::{DhcpV6Client, DhcpV6Config, DhcpV6Mode, DhcpV6State};
use rtnetlink::Handle;
use tokio::net::UdpSocket;

use crate::link::{self, Link};
use crate::resolve::Servers;
use crate::time_server::{self, TimeServer};

/// All_DHCP_Relay_Agents_and_Servers and the ports (RFC 8415 sections 7.1 and 7.2).
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const CLIENT_PORT: u16 = 546;
const SERVER_PORT: u16 = 547;
/// Option of name servers (RFC 3646 section 3).
const DNS_SERVERS: u16 = 23;
/// Pause before an exchange is started anew: the libraries' own pauses grow to an hour.
const ROUND: Duration = Duration::from_secs(16);
const AFTER_ERROR: Duration = Duration::from_secs(2);
/// First and longest wait for the answer to an Information-request.
const ASK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// Gets an address on `link` and keeps it, for as long as it is polled. `own` is our link-local address there.
pub async fn keep_lease(handle: Handle, link: Link, own: Ipv6Addr, servers: Servers) {
    loop {
        if let Err(error) = one_life(&handle, &link, own, &servers).await {
            log::debug!("{}: DHCPv6: {error:#}", link.name);
            tokio::time::sleep(AFTER_ERROR).await;
        }
    }
}

async fn one_life(handle: &Handle, link: &Link, own: Ipv6Addr, servers: &Servers) -> Result<()> {
    let mut config = DhcpV6Config::new(&link.name, DhcpV6Mode::NonTemporaryAddresses);
    config.set_iface_index(link.index).set_link_local_ip(own).set_duid_by_iface_mac(&link.mac);
    let mut client = DhcpV6Client::init(config, None).await?;
    let mut state = DhcpV6State::Solicit;
    loop {
        state = match state {
            DhcpV6State::Done(lease) => {
                if lease.address.is_unspecified() {
                    return Err(anyhow!("the server has no address for us"));
                }
                link::add_address(handle, link.index, IpAddr::V6(lease.address), 128).await?;
                // Before the name servers, whose coming ends the wait for the network.
                let options = lease.get_option_raw(time_server::OPTION).unwrap_or_default();
                servers.times.add(options.iter().flat_map(|option| TimeServer::of_option(option, link.index)));
                let options = lease.get_option_raw(DNS_SERVERS).unwrap_or_default();
                servers.add(options.iter().flat_map(|option| scoped(&read_servers(option), link.index)));
                log::info!("{}: {} from a DHCPv6 server", link.name, lease.address);
                client.run().await?
            }
            DhcpV6State::Solicit | DhcpV6State::Request => match tokio::time::timeout(ROUND, client.run()).await {
                Ok(next) => next?,
                Err(_elapsed) => return Ok(()),
            },
            _ => client.run().await?,
        };
    }
}

/// Asks the DHCPv6 servers of `link` for name and time servers until one answers (RFC 8415 section 18.2.6).
pub async fn ask_servers(link: Link, own: Ipv6Addr, servers: Servers) {
    let mut wait = ASK.0;
    loop {
        match tokio::time::timeout(wait, ask_once(&link, own)).await {
            Ok(Ok(found)) => {
                log::info!("{}: {found:?} from a DHCPv6 server", link.name);
                servers.times.add(TimeServer::of_suboptions(&found.times, link.index));
                return servers.add(scoped(&found.names, link.index));
            }
            Ok(Err(error)) => {
                log::debug!("{}: DHCPv6: {error:#}", link.name);
                tokio::time::sleep(wait).await;
            }
            Err(_elapsed) => {}
        }
        wait = wait.saturating_mul(2).min(ASK.1);
    }
}

/// What a DHCPv6 server names.
#[derive(Debug, Default, PartialEq, Eq)]
struct Named {
    names: Vec<Ipv6Addr>,
    times: Vec<NtpSuboption>,
}

async fn ask_once(link: &Link, own: Ipv6Addr) -> Result<Named> {
    let socket = UdpSocket::bind(SocketAddrV6::new(own, CLIENT_PORT, 0, link.index)).await.context("binding")?;
    let mut question = Message::new(MessageType::InformationRequest);
    // DUID-LL (RFC 8415 section 11.4): type 3, hardware type 1, the address.
    let duid = [&[0, 3, 0, 1], link.mac.as_slice()].concat();
    question.opts_mut().insert(DhcpOption::ClientId(duid));
    question.opts_mut().insert(DhcpOption::ElapsedTime(0));
    let wanted = vec![OptionCode::DomainNameServers, OptionCode::NtpServer];
    question.opts_mut().insert(DhcpOption::ORO(ORO { opts: wanted }));
    let bytes = question.to_vec().context("writing the question")?;
    let everyone = SocketAddrV6::new(ALL_SERVERS, SERVER_PORT, 0, link.index);
    socket.send_to(&bytes, everyone).await.context("asking")?;
    let mut answer = vec![0; 1500];
    loop {
        let length = socket.recv(&mut answer).await.context("waiting for an answer")?;
        if let Some(servers) = read_answer(answer.get(..length).unwrap_or_default(), question.xid()) {
            return Ok(servers);
        }
    }
}

/// The servers in the Reply to our question; `None`: it is none.
fn read_answer(bytes: &[u8], xid: [u8; 3]) -> Option<Named> {
    let answer = Message::decode(&mut Decoder::new(bytes)).ok()?;
    if answer.msg_type() != MessageType::Reply || answer.xid() != xid {
        return None;
    }
    let names = match answer.opts().get(OptionCode::DomainNameServers) {
        Some(DhcpOption::DomainNameServers(servers)) => servers.clone(),
        _ => Vec::new(),
    };
    // Each server has an option of its own (RFC 5908 section 4).
    let times = answer.opts().get_all(OptionCode::NtpServer).into_iter().flatten().flat_map(|option| match option {
        DhcpOption::NtpServer(servers) => servers.clone(),
        _ => Vec::new(),
    });
    Some(Named { names, times: times.collect() })
}

/// The servers in an option as mozim hands it out: with its code and length, whatever its documentation says.
fn read_servers(option: &[u8]) -> Vec<Ipv6Addr> {
    match DhcpOption::decode(&mut Decoder::new(option)) {
        Ok(DhcpOption::DomainNameServers(servers)) => servers,
        _ => Vec::new(),
    }
}

/// Name servers' sockets; link-local ones hold for the link they were named on.
#[must_use]
pub fn scoped(servers: &[Ipv6Addr], link: u32) -> Vec<SocketAddr> {
    let socket = |server: &Ipv6Addr| {
        let scope = if server.is_unicast_link_local() { link } else { 0 };
        SocketAddr::V6(SocketAddrV6::new(*server, 53, 0, scope))
    };
    servers.iter().filter(|server| !server.is_unspecified() && !server.is_multicast()).map(socket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_to_our_question_is_read() {
        // Reply, transaction 010203, server identifier (4 bytes), DNS servers fe80::1 and 2001:db8::53; two options with
        // time servers, fe80::1 and 2001:db8::53.
        let reply = "07010203 0002000400030001 00170020 fe800000000000000000000000000001 20010db8000000000000000000000053 \
             00380014 00010010 fe800000000000000000000000000001 00380014 00010010 20010db8000000000000000000000053";
        let bytes = metalstrap_release::digest::from_hex(&reply.replace(' ', "")).unwrap();
        let servers: [Ipv6Addr; 2] = ["fe80::1".parse().unwrap(), "2001:db8::53".parse().unwrap()];
        let times = servers.map(NtpSuboption::ServerAddress).to_vec();
        assert_eq!(read_answer(&bytes, [1, 2, 3]), Some(Named { names: servers.to_vec(), times }));
        assert_eq!(read_answer(&bytes, [1, 2, 4]), None);
        assert_eq!(read_servers(&bytes[12..]), servers);
        assert_eq!(read_servers(&bytes[16..]), [Ipv6Addr::UNSPECIFIED; 0]);
        let sockets = ["[fe80::1%9]:53", "[2001:db8::53]:53"].map(|text| text.parse::<SocketAddr>().unwrap());
        assert_eq!(scoped(&servers, 9), sockets);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_breaks_the_reader(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            read_answer(&bytes, [0; 3]);
            read_servers(&bytes);
            let mut reply = vec![7, 0, 0, 0];
            reply.extend(bytes);
            read_answer(&reply, [0; 3]);
        }
    }
}
