//! IPv6 routers: asks a link for its router and reads what it advertises besides what the kernel acts on.
//!
//! The kernel makes addresses and routes from advertisements itself (accept_ra, on by default). It does not keep name
//! servers, and it asks seldom (net.ipv6.conf.*.router_solicitation_interval doubles to an hour, RFC 7559), which is
//! slow behind a switch port that opens late.

use std::io::IoSliceMut;
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, recvmsg, setsockopt,
    socket, sockopt,
};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::link::Link;

/// All routers on the link (RFC 4291 section 2.7.1).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// ICMPv6 types (RFC 4861 sections 4.1 and 4.2).
const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;
/// Option type of recursive DNS servers (RFC 8106 section 5.1).
const RDNSS: u8 = 25;
/// Between our own solicitations: RTR_SOLICITATION_INTERVAL of RFC 4861 section 10.
const INTERVAL: Duration = Duration::from_secs(4);

/// What a router says about things the kernel leaves to us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Advertisement {
    /// Addresses come by DHCPv6 (flag M).
    pub managed: bool,
    /// Other settings come by DHCPv6 (flag O).
    pub other: bool,
    /// Recursive name servers, best first.
    pub servers: Vec<Ipv6Addr>,
}

/// Hears the routers of one link.
#[derive(Debug)]
pub struct Routers {
    /// A raw ICMPv6 socket: what a datagram socket does, it does too.
    socket: UdpSocket,
    link: u32,
    heard: bool,
}

impl Routers {
    /// Starts to listen on `link`.
    ///
    /// # Errors
    /// When the socket cannot be had: no privilege, or no IPv6.
    pub fn open(link: &Link) -> Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let raw = socket(AddressFamily::Inet6, SockType::Raw, flags, SockProtocol::IcmpV6)
            .context("opening an ICMPv6 socket")?;
        setsockopt(&raw, sockopt::BindToDevice, &link.name.clone().into()).context("binding to the link")?;
        // RFC 4861 section 6.1: messages of neighbour discovery carry the hop limit 255, which no router passes on.
        setsockopt(&raw, sockopt::Ipv6MulticastHops, &255).context("setting the hop limit")?;
        setsockopt(&raw, sockopt::Ipv6RecvHopLimit, &true).context("asking for hop limits")?;
        let socket = UdpSocket::from_std(raw.into()).context("watching the socket")?;
        Ok(Self { socket, link: link.index, heard: false })
    }

    /// The next advertisement. Until the first one it asks again and again.
    ///
    /// # Errors
    /// When the socket fails.
    pub async fn next(&mut self) -> Result<Advertisement> {
        loop {
            if !self.heard {
                // Before our link-local address is ready the kernel refuses: the next one is soon.
                if let Err(error) = self.solicit().await {
                    log::trace!("asking for routers: {error}");
                }
            }
            let heard = match self.heard {
                true => self.receive().await?,
                false => match tokio::time::timeout(INTERVAL, self.receive()).await {
                    Ok(heard) => heard?,
                    Err(_elapsed) => continue,
                },
            };
            self.heard = true;
            return Ok(heard);
        }
    }

    async fn solicit(&self) -> std::io::Result<usize> {
        // Type, code, checksum (the kernel's work), reserved; no option, so that any source address is right.
        let question = [SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
        self.socket.send_to(&question, SocketAddrV6::new(ALL_ROUTERS, 0, 0, self.link)).await
    }

    async fn receive(&self) -> Result<Advertisement> {
        loop {
            let read = self.socket.async_io(Interest::READABLE, || Ok(read_one(&self.socket)?)).await;
            if let Some(heard) = read.context("reading from a router")? {
                return Ok(heard);
            }
        }
    }
}

/// Reads a message; `None`: it is no advertisement of a router on this link.
fn read_one(socket: &UdpSocket) -> nix::Result<Option<Advertisement>> {
    let mut bytes = [0_u8; 1500];
    let mut control = nix::cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let message = recvmsg::<SockaddrIn6>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let near = message.cmsgs()?.any(|control| matches!(control, ControlMessageOwned::Ipv6HopLimit(255)));
    let router = message.address.is_some_and(|from| from.ip().is_unicast_link_local());
    let length = message.bytes;
    Ok(bytes.get(..length).filter(|_| near && router).and_then(parse))
}

/// Reads a Router Advertisement (RFC 4861 section 4.2), ICMPv6 header included; `None`: it is none, or must be
/// discarded.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Advertisement> {
    let (header, mut options) = bytes.split_first_chunk::<16>()?;
    let [ADVERTISEMENT, 0, _, _, _, flags, ..] = *header else { return None };
    let mut heard = Advertisement { managed: flags & 0x80 != 0, other: flags & 0x40 != 0, servers: Vec::new() };
    while let [kind, eights, ..] = *options {
        // Section 4.6: the length counts 8 bytes; zero discards the whole message.
        let length = usize::from(eights).checked_mul(8).filter(|length| *length > 0)?;
        let (option, rest) = options.split_at_checked(length)?;
        if kind == RDNSS {
            heard.servers.extend(rdnss(option));
        }
        options = rest;
    }
    Some(heard)
}

/// The servers in an RDNSS option: type, length, 2 reserved, 4 lifetime, then addresses. A lifetime of zero takes
/// servers back.
fn rdnss(option: &[u8]) -> Vec<Ipv6Addr> {
    match option.split_first_chunk::<8>() {
        Some(([_, _, _, _, 0, 0, 0, 0], _)) | None => Vec::new(),
        Some((_, addresses)) => addresses.as_chunks::<16>().0.iter().map(|bytes| Ipv6Addr::from(*bytes)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(flags: u8, options: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![134, 0, 0xab, 0xcd, 64, flags, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend(options.concat());
        bytes
    }

    fn rdnss_option(lifetime: u32, servers: &[&str]) -> Vec<u8> {
        let mut bytes = vec![25, u8::try_from(1 + 2 * servers.len()).unwrap(), 0, 0];
        bytes.extend(lifetime.to_be_bytes());
        for server in servers {
            bytes.extend(server.parse::<Ipv6Addr>().unwrap().octets());
        }
        bytes
    }

    #[test]
    fn servers_and_flags_are_read() {
        let mtu = [5, 1, 0, 0, 0, 0, 5, 0xdc];
        let (one, two) = (rdnss_option(600, &["fe80::1", "2001:db8::1"]), rdnss_option(9, &["2001:db8::2"]));
        let heard = parse(&message(0x40, &[&mtu, &one, &two])).unwrap();
        let servers = ["fe80::1", "2001:db8::1", "2001:db8::2"].map(|text| text.parse().unwrap()).to_vec();
        assert_eq!(heard, Advertisement { managed: false, other: true, servers });
        assert_eq!(
            parse(&message(0x80, &[&rdnss_option(0, &["2001:db8::1"])])).unwrap(),
            Advertisement { managed: true, other: false, servers: Vec::new() }
        );
    }

    #[test]
    fn what_must_be_discarded_is() {
        assert_eq!(parse(&message(0, &[&[1, 0, 0, 0, 0, 0, 0, 0]])), None);
        assert_eq!(parse(&message(0, &[&[25, 3, 0, 0, 0, 0, 0, 9]])), None);
        assert_eq!(parse(&message(0, &[])[..15]), None);
        assert_eq!(parse(&[133, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
    }

    proptest::proptest! {
        #[test]
        fn no_message_breaks_the_parser(tail in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let heard = parse(&tail);
            proptest::prop_assert!(heard.is_none() || tail[0] == 134);
            let heard = parse(&message(0, &[&tail]));
            proptest::prop_assert!(heard.is_none_or(|heard| heard.servers.len() * 16 <= tail.len()));
        }

        #[test]
        fn written_servers_are_read(
            lists in proptest::collection::vec(proptest::collection::vec(proptest::num::u128::ANY, 1..5), 0..5)
        ) {
            let text = |address: &u128| Ipv6Addr::from(*address).to_string();
            let options: Vec<Vec<u8>> = lists.iter().map(|list| {
                let list: Vec<String> = list.iter().map(text).collect();
                rdnss_option(1, &list.iter().map(String::as_str).collect::<Vec<_>>())
            }).collect();
            let heard = parse(&message(0, &options.iter().map(Vec::as_slice).collect::<Vec<_>>())).unwrap();
            let all: Vec<Ipv6Addr> = lists.concat().into_iter().map(Ipv6Addr::from).collect();
            proptest::prop_assert_eq!(heard.servers, all);
        }
    }
}
