//! What is in a DHCPv6 server's answer, without sockets: a fuzz target reads it too.

use std::net::Ipv6Addr;

use dhcproto::v6::{DhcpOption, Message, MessageType, NtpSuboption, OptionCode};
use dhcproto::{Decodable as _, Decoder, Encodable as _};

/// What a server answers when it is asked for no address.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub names: Vec<Ipv6Addr>,
    pub times: Vec<NtpSuboption>,
    /// Code and data of the options that may have settings.
    pub says: Vec<(u16, Vec<u8>)>,
}

/// What is in the Reply to the question with this id, of options for settings those of `wanted`, by code; `None`: it is none.
pub fn read(bytes: &[u8], xid: [u8; 3], wanted: &[u16]) -> Option<Answer> {
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
    let raw =
        |code: u16| Some(answer.opts().get_all(code.into())?.iter().filter_map(|one| one.to_vec().ok()).collect());
    let says = wanted.iter().flat_map(|code| data_of(raw(*code)).map(move |data| (*code, data)));
    Some(Answer { names, times: times.collect(), says: says.collect() })
}

/// The data of options, each of which comes with its code and length.
pub fn data_of(options: Option<Vec<Vec<u8>>>) -> impl Iterator<Item = Vec<u8>> {
    options.unwrap_or_default().into_iter().filter_map(|option| Some(option.get(4..)?.to_vec()))
}

/// The name servers in an option as mozim hands it out: with its code and length, whatever its documentation says.
pub fn read_servers(option: &[u8]) -> Vec<Ipv6Addr> {
    match DhcpOption::decode(&mut Decoder::new(option)) {
        Ok(DhcpOption::DomainNameServers(servers)) => servers,
        _ => Vec::new(),
    }
}
