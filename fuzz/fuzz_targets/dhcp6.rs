//! Any bytes as a DHCPv6 server's answer, and as an option: no Reply but to our question, no more servers than there is room for,
//! and every option that is taken stands in it.
#![cfg_attr(fuzzing, no_main)]

#[path = "../../installer/src/dhcp6/answer.rs"]
mod answer;

use answer::NAME_SERVERS;
use metalstrap_fuzz::fuzz_target;
use metalstrap_release::discovery::dhcp::{BOOT_URL_6, PARAMETERS_6};

const WANTED: [u16; 2] = [BOOT_URL_6, PARAMETERS_6];

fn check(bytes: &[u8], xid: [u8; 3]) {
    let Some(answer) = answer::read(bytes, xid, &WANTED) else { return };
    assert!(bytes[0] == 7 && bytes[1..4] == xid);
    assert!(answer.names.len() * 16 <= bytes.len());
    assert!(answer.all(NAME_SERVERS).is_empty());
    for code in WANTED {
        for option in answer.all(code) {
            assert!(option[..2] == code.to_be_bytes());
            assert_eq!(option.len(), 4 + usize::from(u16::from_be_bytes([option[2], option[3]])));
            assert!(bytes.windows(option.len()).any(|window| window == option));
        }
    }
    // What we did not ask for means nothing, whatever is in it.
    let status = [&bytes[..4], &[0, 13, 0, 1, 0xff], &bytes[4..]].concat();
    assert_eq!(answer::read(&status, xid, &WANTED), Some(answer));
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes, [1, 2, 3]);
    check(&[[7, 1, 2, 3].as_slice(), bytes].concat(), [1, 2, 3]);
    assert!(answer::read_servers(bytes).len() * 16 <= bytes.len());
});
