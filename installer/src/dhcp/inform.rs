//! Asks the DHCPv4 servers of a link for the boot file as a firmware's HTTP boot does: many name an image's URL to clients of
//! the vendor class `HTTPClient` only, and the library that drives the leases has none.
//!
//! The question is a DHCPINFORM (RFC 2131 section 4.4.3): the address is ours already, and no lease changes.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};

use super::answer::{self, COOKIE, END, FIXED, MESSAGE_TYPE};
use crate::discovery::heard::Opt;
use crate::link::Link;

/// Ports of client and server.
const PORTS: (u16, u16) = (68, 67);
/// How long an answer is waited for, each time.
const WAITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];
/// The least bytes of a message that old relays pass on (BOOTP's 300).
const LEAST: usize = 300;
/// Option codes (RFC 2132; the last one RFC 4578).
const WANTED: u8 = 55;
const VENDOR_CLASS: u8 = 60;
const CLIENT_ID: u8 = 61;
const ARCHITECTURE: u8 = 93;
/// Message type.
const INFORM: u8 = 8;
/// x86-64 UEFI that boots by HTTP, in the registry of processor architectures of RFC 5970 and as text.
const ARCH: [u8; 2] = [0, 16];
const CLASS: &[u8] = b"HTTPClient:Arch:00016:UNDI:003001";

/// What the servers of `link` say of the boot file and of settings to a client of that class with the address `own`; nothing
/// where none answers in 3 s.
///
/// # Errors
/// When the socket cannot be had or fails.
pub async fn ask(link: &Link, own: Ipv4Addr) -> Result<Vec<(Opt, Vec<u8>)>> {
    let socket = UdpSocket::bind((own, PORTS.0)).context("binding to the client's port")?;
    setsockopt(&socket, sockopt::BindToDevice, &link.name.clone().into()).context("binding to the link")?;
    socket.set_broadcast(true).context("permitting broadcasts")?;
    socket.set_nonblocking(true).context("watching the socket")?;
    let socket = tokio::net::UdpSocket::from_std(socket).context("watching the socket")?;
    // The answer comes to our address alone; it only has to be told from what comes unasked.
    let [_, _, xid @ ..] = link.mac;
    let question = question(xid, own, link.mac);
    for wait in WAITS {
        socket.send_to(&question, (Ipv4Addr::BROADCAST, PORTS.1)).await.context("asking")?;
        if let Ok(answer) = tokio::time::timeout(wait, answer(&socket, xid)).await {
            return answer;
        }
    }
    Ok(Vec::new())
}

async fn answer(socket: &tokio::net::UdpSocket, xid: [u8; 4]) -> Result<Vec<(Opt, Vec<u8>)>> {
    let mut bytes = vec![0; 1500];
    loop {
        let length = socket.recv(&mut bytes).await.context("waiting for an answer")?;
        if let Some(says) = read_answer(bytes.get(..length).unwrap_or_default(), xid) {
            return Ok(says);
        }
    }
}

fn question(xid: [u8; 4], own: Ipv4Addr, mac: [u8; 6]) -> Vec<u8> {
    // Request, Ethernet, 6 bytes of address, no hops; id; no seconds and flags; our address, and three that are not known.
    let mut bytes = [&[1, 1, 6, 0], &xid[..], &[0; 4], &own.octets(), &[0; 12], &mac].concat();
    bytes.resize(FIXED, 0);
    bytes.extend(COOKIE);
    bytes.extend([MESSAGE_TYPE, 1, INFORM]);
    let wanted = Opt::FOUR.map(|(_, code)| code);
    let client = [&[1], &mac[..]].concat();
    let options: [(u8, &[u8]); 4] =
        [(WANTED, &wanted), (VENDOR_CLASS, CLASS), (CLIENT_ID, &client), (ARCHITECTURE, &ARCH)];
    for (code, data) in options {
        // None of them is longer than a byte can say.
        bytes.extend([code, u8::try_from(data.len()).unwrap_or(u8::MAX)]);
        bytes.extend(data);
    }
    bytes.push(END);
    bytes.resize(bytes.len().max(LEAST), 0);
    bytes
}

/// What is in the answer to our question; `None`: it is none.
fn read_answer(bytes: &[u8], xid: [u8; 4]) -> Option<Vec<(Opt, Vec<u8>)>> {
    let says = answer::read(bytes, xid, &Opt::FOUR.map(|(_, code)| code))?;
    let kind = |wanted: u8| Opt::FOUR.into_iter().find_map(|(kind, code)| (code == wanted).then_some(kind));
    Some(says.into_iter().filter_map(|(code, data)| Some((kind(code)?, data))).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::dhcp::answer::{FILE, OVERLOAD, PAD, option};

    /// The message type of an answer.
    const ACK: u8 = 5;
    const XID: [u8; 4] = [1, 2, 3, 4];

    /// An answer with these options, and a name in the field `file`.
    fn reply(options: &[(u8, &[u8])], file: &[u8]) -> Vec<u8> {
        let mut bytes = [&[2, 1, 6, 0], &XID[..]].concat();
        bytes.resize(FILE, 0);
        bytes.extend(file);
        bytes.resize(FIXED, 0);
        bytes.extend(COOKIE);
        bytes.push(PAD);
        for (code, data) in options {
            bytes.extend([*code, u8::try_from(data.len()).unwrap()]);
            bytes.extend(*data);
        }
        bytes.push(END);
        bytes
    }

    #[test]
    fn the_question_is_that_of_an_http_client() {
        let bytes = question(XID, Ipv4Addr::new(10, 0, 0, 7), [2, 0, 0, 0, 0, 9]);
        assert_eq!(bytes.len(), LEAST);
        assert_eq!(bytes[..16], [1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0, 10, 0, 0, 7]);
        assert_eq!(bytes[28..34], [2, 0, 0, 0, 0, 9]);
        let options = bytes[FIXED..].strip_prefix(&COOKIE).unwrap();
        for (code, data) in [
            (MESSAGE_TYPE, vec![8]),
            (WANTED, vec![67, 224]),
            (VENDOR_CLASS, b"HTTPClient:Arch:00016:UNDI:003001".to_vec()),
            (CLIENT_ID, vec![1, 2, 0, 0, 0, 0, 9]),
            (ARCHITECTURE, vec![0, 16]),
        ] {
            assert_eq!(option(options, code), Some(data));
        }
        assert_eq!(option(options, 50), None);
    }

    #[test]
    fn an_answer_to_our_question_is_read() {
        let ack: (u8, &[u8]) = (MESSAGE_TYPE, &[5]);
        let parts: [(u8, &[u8]); 4] = [ack, (67, b"https://a/"), (224, b"w"), (67, b"b.efi")];
        let (file, words) = ((Opt::BootFile4, b"https://a/b.efi".to_vec()), (Opt::Words4, b"w".to_vec()));
        assert_eq!(read_answer(&reply(&parts, b"other"), XID).unwrap(), [file.clone(), words]);
        assert_eq!(read_answer(&reply(&[ack], b"https://a/b.efi"), XID).unwrap(), [file]);
        assert_eq!(read_answer(&reply(&[ack, (OVERLOAD, &[1])], b"options"), XID).unwrap(), []);
        assert_eq!(read_answer(&reply(&[ack], b""), XID).unwrap(), []);
        for other in [reply(&[(MESSAGE_TYPE, &[6])], b"x"), reply(&[], b"x"), question(XID, [0; 4].into(), [0; 6])] {
            assert_eq!(read_answer(&other, XID), None);
        }
        assert_eq!(read_answer(&reply(&[ack], b"x"), [0; 4]), None);
    }

    proptest! {
        #[test]
        fn no_answer_breaks_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let _: Option<Vec<(Opt, Vec<u8>)>> = read_answer(&bytes, XID);
            let mut answer = reply(&[], b"");
            answer.pop();
            answer.extend([MESSAGE_TYPE, 1, ACK]);
            answer.extend(bytes);
            let _: Option<Vec<(Opt, Vec<u8>)>> = read_answer(&answer, XID);
        }
    }
}
