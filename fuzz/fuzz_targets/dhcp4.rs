//! Any bytes as a DHCPv4 server's answer: none but to our question, and of its options those that were asked for.
#![cfg_attr(fuzzing, no_main)]

#[path = "../../installer/src/dhcp/answer.rs"]
mod answer;

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::discovery::dhcp::{BOOT_FILE_4, WORDS_4};

const WANTED: [u8; 2] = [BOOT_FILE_4, WORDS_4];

fn check(bytes: &[u8], xid: [u8; 4]) {
    let Some(says) = answer::read(bytes, xid, &WANTED) else { return };
    assert!(bytes[0] == 2 && bytes[4..8] == xid);
    assert!(says.len() <= WANTED.len());
    for (code, data) in &says {
        assert!(WANTED.contains(code) && !data.is_empty() && data.len() < bytes.len());
        // The parts of an option stand in the message byte for byte.
        assert!(data.iter().all(|byte| bytes.contains(byte)));
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes, [1, 2, 3, 4]);
    // As far as its fixed part goes, an answer to our question, with options as they come.
    let mut ours = vec![0; answer::FIXED];
    ours.iter_mut().skip(answer::FILE).zip(bytes).for_each(|(to, from)| *to = *from);
    ours[0] = 2;
    ours[4..8].copy_from_slice(&[1, 2, 3, 4]);
    ours.extend(answer::COOKIE);
    ours.extend([answer::MESSAGE_TYPE, 1, 5]);
    ours.extend(bytes);
    check(&ours, [1, 2, 3, 4]);
});
