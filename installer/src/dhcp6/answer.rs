//! What is in a DHCPv6 server's answer, without sockets: a fuzz target reads it too.
//!
//! Only the options that are asked for are looked at. The library dhcproto reads all that it knows, and of some it takes the
//! length as it comes (0.15.0: options 13, 16 and 17), which ends a build that checks for overflows.

use std::net::Ipv6Addr;

/// The message Reply (RFC 8415 section 7.3).
const REPLY: u8 = 7;
/// Option of name servers (RFC 3646 section 3).
pub const NAME_SERVERS: u16 = 23;

/// What a server answers when it is asked for no address.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub names: Vec<Ipv6Addr>,
    /// The other options that were asked for: each one's code, and the whole of it, with code and length.
    options: Vec<(u16, Vec<u8>)>,
}

impl Answer {
    /// All options of a code, each with its code and length.
    pub fn all(&self, code: u16) -> Vec<Vec<u8>> {
        self.options.iter().filter(|(known, _)| *known == code).map(|(_, option)| option.clone()).collect()
    }
}

/// What is in the Reply to the question with this id: name servers, and the options of `wanted`, by code; `None`: it is none.
pub fn read(bytes: &[u8], [one, two, three]: [u8; 3], wanted: &[u16]) -> Option<Answer> {
    let (head, rest) = bytes.split_first_chunk::<4>()?;
    if *head != [REPLY, one, two, three] {
        return None;
    }
    let mut answer = Answer::default();
    for (code, option) in options(rest) {
        if code == NAME_SERVERS {
            answer.names.extend(addresses(option));
        } else if wanted.contains(&code) {
            answer.options.push((code, option.to_vec()));
        }
    }
    Some(answer)
}

/// The name servers in an option as mozim hands it out: with its code and length, whatever its documentation says.
pub fn read_servers(option: &[u8]) -> Vec<Ipv6Addr> {
    options(option).filter(|(code, _)| *code == NAME_SERVERS).flat_map(|(_, option)| addresses(option)).collect()
}

/// Code and whole of each option (RFC 8415 section 21.1), up to one that is cut off.
fn options(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let &[code, low, length, short] = rest.first_chunk::<4>()?;
        let whole = usize::from(u16::from_be_bytes([length, short])).saturating_add(4);
        let (option, behind) = rest.split_at_checked(whole)?;
        rest = behind;
        Some((u16::from_be_bytes([code, low]), option))
    })
}

/// The addresses that are an option's data; none where it has not whole ones.
fn addresses(option: &[u8]) -> Vec<Ipv6Addr> {
    match option.get(4..).unwrap_or_default().as_chunks::<16>() {
        (addresses, []) => addresses.iter().map(|bytes| Ipv6Addr::from(*bytes)).collect(),
        _ => Vec::new(),
    }
}
