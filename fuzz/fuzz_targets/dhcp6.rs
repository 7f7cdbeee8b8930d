//! Any bytes as a DHCPv6 server's answer, and as an option: no Reply but to our question, and no more servers than there is
//! room for.
#![cfg_attr(fuzzing, no_main)]

#[path = "../../installer/src/dhcp6/answer.rs"]
mod answer;

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::discovery::dhcp::{BOOT_URL_6, PARAMETERS_6};

const WANTED: [u16; 2] = [BOOT_URL_6, PARAMETERS_6];

fn check(bytes: &[u8], xid: [u8; 3]) {
    let Some(answer) = answer::read(bytes, xid, &WANTED) else { return };
    assert!(bytes[0] == 7 && bytes[1..4] == xid);
    assert!(answer.names.len() * 16 <= bytes.len());
    // A suboption has four bytes at least, and so has an option.
    assert!(answer.times.len() * 4 <= bytes.len() && answer.says.len() * 4 <= bytes.len());
    assert!(answer.says.iter().all(|(code, _)| WANTED.contains(code)));
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes, [1, 2, 3]);
    check(&[[7, 1, 2, 3].as_slice(), bytes].concat(), [1, 2, 3]);
    assert!(answer::read_servers(bytes).len() * 16 <= bytes.len());
    assert!(answer::data_of(Some(vec![bytes.to_vec()])).all(|data| data.len() + 4 == bytes.len()));
});
