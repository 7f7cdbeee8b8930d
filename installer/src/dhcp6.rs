//! DHCPv6 on one link, where its router says so: addresses by the library mozim, and the exchange for servers alone,
//! which mozim does not have, with a question by the library dhcproto.

mod answer;

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use dhcproto::Encodable as _;
use dhcproto::v6::{DhcpOption, Message, MessageType, ORO, OptionCode, UnknownOption};
use mozim::{DhcpV6Client, DhcpV6Config, DhcpV6Mode, DhcpV6State};
use rtnetlink::Handle;
use tokio::net::UdpSocket;

use crate::discovery::heard::Opt;
use crate::link::{self, Link};
use crate::net::Learns;
use crate::time_server::{self, TimeServer};
use answer::{Answer, NAME_SERVERS, read_servers};

/// All_DHCP_Relay_Agents_and_Servers and the ports (RFC 8415 sections 7.1 and 7.2).
const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
const CLIENT_PORT: u16 = 546;
const SERVER_PORT: u16 = 547;
/// Pause before an exchange is started anew: the libraries' own pauses grow to an hour.
const ROUND: Duration = Duration::from_secs(16);
const AFTER_ERROR: Duration = Duration::from_secs(2);
/// First and longest wait for the answer to an Information-request.
const ASK: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(8));

/// How long a server that gave an address is asked for the boot file.
const ASKED: Duration = Duration::from_secs(3);
/// How a firmware's HTTP boot names itself (UEFI specification, section 24.7): the enterprise number of Intel, and a text with
/// its length.
const CLASS: &[u8] = b"\0\0\x01\x57\0\x21HTTPClient:Arch:00016:UNDI:003001";

/// Gets an address on `link` and keeps it, for as long as it is polled. `own` is our link-local address there.
pub async fn keep_lease(handle: Handle, link: Link, own: Ipv6Addr, learns: Learns) {
    loop {
        if let Err(error) = one_life(&handle, &link, own, &learns).await {
            log::debug!("{}: DHCPv6: {error:#}", link.name);
            tokio::time::sleep(AFTER_ERROR).await;
        }
    }
}

async fn one_life(handle: &Handle, link: &Link, own: Ipv6Addr, learns: &Learns) -> Result<()> {
    let mut config = DhcpV6Config::new(&link.name, DhcpV6Mode::NonTemporaryAddresses);
    config.set_iface_index(link.index).set_link_local_ip(own).set_duid_by_iface_mac(&link.mac);
    config.request_extra_dhcp_opts(&Opt::SIX.map(|(_, code)| code));
    let mut client = DhcpV6Client::init(config, None).await?;
    let (mut state, mut asks) = (DhcpV6State::Solicit, learns.asks);
    loop {
        state = match state {
            DhcpV6State::Done(lease) => {
                if lease.address.is_unspecified() {
                    return Err(anyhow!("the server has no address for us"));
                }
                if std::mem::take(&mut asks) {
                    // The library has no vendor class, which many servers name an image's URL to only.
                    let _elapsed = tokio::time::timeout(ASKED, ask_servers(link.clone(), own, learns.clone())).await;
                }
                learns.heard.add(&link.name, sayings(|code| lease.get_option_raw(code)));
                link::add_address(handle, link.index, IpAddr::V6(lease.address), 128).await?;
                // Before the name servers, whose coming ends the wait for the network.
                let options = lease.get_option_raw(time_server::OPTION).unwrap_or_default();
                learns.servers.times.add(options.iter().flat_map(|option| TimeServer::of_option(option, link.index)));
                let options = lease.get_option_raw(NAME_SERVERS).unwrap_or_default();
                learns.servers.add(options.iter().flat_map(|option| scoped(&read_servers(option), link.index)));
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

/// Asks the DHCPv6 servers of `link` for name and time servers and settings until one answers (RFC 8415 section 18.2.6).
pub async fn ask_servers(link: Link, own: Ipv6Addr, learns: Learns) {
    let mut wait = ASK.0;
    loop {
        match tokio::time::timeout(wait, ask_once(&link, own, learns.asks)).await {
            Ok(Ok(answer)) => {
                let options = answer.all(time_server::OPTION);
                let times: Vec<_> = options.iter().flat_map(|one| TimeServer::of_option(one, link.index)).collect();
                let names = &answer.names;
                log::info!("{}: name servers {names:?}, time servers {times:?} from a DHCPv6 server", link.name);
                learns.heard.add(&link.name, sayings(|code| Some(answer.all(code))));
                learns.servers.times.add(times);
                return learns.servers.add(scoped(names, link.index));
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

/// `as_http_client`: with the vendor class of one.
async fn ask_once(link: &Link, own: Ipv6Addr, as_http_client: bool) -> Result<Answer> {
    let socket = UdpSocket::bind(SocketAddrV6::new(own, CLIENT_PORT, 0, link.index)).await.context("binding")?;
    let mut question = Message::new(MessageType::InformationRequest);
    // DUID-LL (RFC 8415 section 11.4): type 3, hardware type 1, the address.
    let duid = [&[0, 3, 0, 1], link.mac.as_slice()].concat();
    question.opts_mut().insert(DhcpOption::ClientId(duid));
    question.opts_mut().insert(DhcpOption::ElapsedTime(0));
    if as_http_client {
        // Not as dhcproto's own option, which is written with a wrong length.
        let class = UnknownOption::new(OptionCode::VendorClass, CLASS.to_vec());
        question.opts_mut().insert(DhcpOption::Unknown(class));
    }
    let wanted: Vec<u16> = Opt::SIX.iter().map(|(_, code)| *code).chain([time_server::OPTION]).collect();
    let asked = wanted.iter().map(|code| OptionCode::from(*code)).chain([OptionCode::DomainNameServers]);
    question.opts_mut().insert(DhcpOption::ORO(ORO { opts: asked.collect() }));
    let bytes = question.to_vec().context("writing the question")?;
    let everyone = SocketAddrV6::new(ALL_SERVERS, SERVER_PORT, 0, link.index);
    socket.send_to(&bytes, everyone).await.context("asking")?;
    let mut answer = vec![0; 1500];
    loop {
        let length = socket.recv(&mut answer).await.context("waiting for an answer")?;
        let bytes = answer.get(..length).unwrap_or_default();
        if let Some(answer) = answer::read(bytes, question.xid(), &wanted) {
            return Ok(answer);
        }
    }
}

/// The options that may have settings, from whoever hands out those of a code, each with its code and length.
fn sayings(raw: impl Fn(u16) -> Option<Vec<Vec<u8>>>) -> impl Iterator<Item = (Opt, Vec<u8>)> {
    let of = move |(option, code)| {
        let all = raw(code).unwrap_or_default().into_iter();
        all.filter_map(move |bytes| Some((option, bytes.get(4..)?.to_vec())))
    };
    Opt::SIX.into_iter().flat_map(of)
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

    fn read_answer(bytes: &[u8], xid: [u8; 3]) -> Option<Answer> {
        answer::read(bytes, xid, &[59, 60, time_server::OPTION])
    }

    #[test]
    fn a_reply_to_our_question_is_read() {
        // Reply, transaction 010203, server identifier (4 bytes), DNS servers fe80::1 and 2001:db8::53; two options with
        // time servers, fe80::1 and 2001:db8::53.
        let reply = "07010203 0002000400030001 00170020 fe800000000000000000000000000001 20010db8000000000000000000000053 \
             00380014 00010010 fe800000000000000000000000000001 00380014 00010010 20010db8000000000000000000000053";
        let bytes = metalstrap_release::digest::from_hex(&reply.replace(' ', "")).unwrap();
        let servers: [Ipv6Addr; 2] = ["fe80::1".parse().unwrap(), "2001:db8::53".parse().unwrap()];
        let answer = read_answer(&bytes, [1, 2, 3]).unwrap();
        assert_eq!(answer.names, servers);
        let times = answer.all(time_server::OPTION).into_iter().flat_map(|option| TimeServer::of_option(&option, 9));
        let at = |text: &str| TimeServer::At(text.parse().unwrap());
        assert_eq!(times.collect::<Vec<_>>(), [at("[fe80::1%9]:123"), at("[2001:db8::53]:123")]);
        assert_eq!(sayings(|code| Some(answer.all(code))).count(), 0);
        assert_eq!(read_answer(&bytes, [1, 2, 4]), None);
        assert_eq!(read_servers(&bytes[12..]), servers);
        assert_eq!(read_servers(&bytes[16..]), [Ipv6Addr::UNSPECIFIED; 0]);
        let sockets = ["[fe80::1%9]:53", "[2001:db8::53]:53"].map(|text| text.parse::<SocketAddr>().unwrap());
        assert_eq!(scoped(&servers, 9), sockets);
    }

    #[test]
    fn a_reply_may_have_settings() {
        // Reply, parameters "ab" (with their length), boot file "u".
        let bytes = metalstrap_release::digest::from_hex("07010203003c000400026162003b000175").unwrap();
        let answer = read_answer(&bytes, [1, 2, 3]).unwrap();
        let says: Vec<_> = sayings(|code| Some(answer.all(code))).collect();
        assert_eq!(says, [(Opt::BootUrl6, b"u".to_vec()), (Opt::Parameters6, b"\0\x02ab".to_vec())]);
    }

    #[test]
    fn options_that_are_not_asked_for_are_passed_over_whatever_is_in_them() {
        let server = "20010db8000000000000000000000053";
        // A status (13) and a vendor's class (16) that are too short, and one name server; then a half one, and an option that is cut.
        let options = format!("000d000100 00100002ffff 00170010{server} 0017000820010db800000000 00170010{server}");
        let options = options.replace(' ', "");
        let bytes =
            metalstrap_release::digest::from_hex(&format!("07010203{}", &options[..options.len() - 2])).unwrap();
        let answer = read_answer(&bytes, [1, 2, 3]).unwrap();
        assert_eq!(answer.names, ["2001:db8::53".parse::<Ipv6Addr>().unwrap()]);
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
