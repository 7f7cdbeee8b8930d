//! What is in a Router Advertisement, without sockets: a fuzz target reads it too.

use std::net::Ipv6Addr;

/// ICMPv6 type (RFC 4861 section 4.2).
const ADVERTISEMENT: u8 = 134;
/// Option type of recursive DNS servers (RFC 8106 section 5.1).
const RDNSS: u8 = 25;

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
