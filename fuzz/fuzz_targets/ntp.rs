//! An answer of a time server with any bytes: no time but for the question that was asked, and one near the time at hand.
#![cfg_attr(fuzzing, no_main)]

#[path = "../../installer/src/ntp/packet.rs"]
mod packet;

use metalstrap_fuzz::fuzz_target;
use packet::{Problem, SIZE};

fuzz_target!(|input: (u64, u32, &[u8])| {
    let (mark, near, bytes) = input;
    let near = i64::from(near);
    if let Ok(time) = packet::read(bytes, mark, near) {
        assert!(bytes.len() >= SIZE && bytes[24..32] == mark.to_be_bytes());
        assert!((time / 1000).abs_diff(near) <= 1 << 31);
    }
    // As far as that goes, an answer to our question.
    let mut ours = bytes.to_vec();
    ours.resize(bytes.len().max(SIZE), 0);
    ours[0] = 0x24 | ours[0] & 0xc0;
    ours[24..32].copy_from_slice(&packet::question(mark)[40..]);
    assert_ne!(packet::read(&ours, mark, near), Err(Problem::NotOurs));
});
