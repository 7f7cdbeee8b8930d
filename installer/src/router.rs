//! IPv6 routers: asks a link for its router and reads what it advertises besides what the kernel acts on.
//!
//! The kernel makes addresses and routes from advertisements itself (accept_ra, on by default). It does not keep name
//! servers, and it asks seldom (net.ipv6.conf.*.router_solicitation_interval doubles to an hour, RFC 7559), which is
//! slow behind a switch port that opens late.

mod advertisement;

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
pub use advertisement::{Advertisement, parse};

/// All routers on the link (RFC 4291 section 2.7.1).
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
/// ICMPv6 type (RFC 4861 section 4.1).
const SOLICITATION: u8 = 133;
/// Between our own solicitations: RTR_SOLICITATION_INTERVAL of RFC 4861 section 10.
const INTERVAL: Duration = Duration::from_secs(4);

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
