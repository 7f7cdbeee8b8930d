//! What is in a DHCPv4 server's answer, without sockets: a fuzz target reads it too.

use metalstrap_release::discovery::dhcp::BOOT_FILE_4;

/// Bytes of the fixed part (RFC 2131 section 2), and what the options begin with.
pub const FIXED: usize = 236;
pub const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Where `file` begins in the fixed part, behind `chaddr` and `sname`.
pub const FILE: usize = 108;
/// Option codes (RFC 2132).
pub const PAD: u8 = 0;
pub const OVERLOAD: u8 = 52;
pub const MESSAGE_TYPE: u8 = 53;
pub const END: u8 = 255;
/// Message type.
const ACK: u8 = 5;

/// The options of `wanted`, by code, in the answer to the question with this id, and the boot file from where it stood of old;
/// `None`: it is no such answer.
pub fn read(bytes: &[u8], xid: [u8; 4], wanted: &[u8]) -> Option<Vec<(u8, Vec<u8>)>> {
    let (fixed, options) = bytes.split_at_checked(FIXED)?;
    let options = options.strip_prefix(&COOKIE)?;
    if fixed.first() != Some(&2) || fixed.get(4..8) != Some(&xid[..]) || option(options, MESSAGE_TYPE)? != [ACK] {
        return None;
    }
    let mut says: Vec<_> = wanted.iter().filter_map(|code| Some((*code, option(options, *code)?))).collect();
    let named = says.iter().any(|(code, _)| *code == BOOT_FILE_4);
    if !named && option(options, OVERLOAD).is_none() {
        // The field of old for the same thing, which is text up to a zero.
        let file = fixed.get(FILE..)?.split(|byte| *byte == 0).next()?;
        says.push((BOOT_FILE_4, file.to_vec()));
    }
    says.retain(|(_, data)| !data.is_empty());
    Some(says)
}

/// The data of an option; of one that comes in parts all of them, one after the other (RFC 3396).
pub fn option(mut options: &[u8], code: u8) -> Option<Vec<u8>> {
    let mut found: Option<Vec<u8>> = None;
    loop {
        match options {
            [PAD, rest @ ..] => options = rest,
            [END, ..] | [] | [_] => return found,
            [kind, length, rest @ ..] => {
                let Some((data, rest)) = rest.split_at_checked(usize::from(*length)) else { return found };
                if *kind == code {
                    found.get_or_insert_default().extend(data);
                }
                options = rest;
            }
        }
    }
}
