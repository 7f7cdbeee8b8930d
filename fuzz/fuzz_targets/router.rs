//! Any bytes as a Router Advertisement: what is taken is one, has no more servers than there is room for, and says the same with
//! an option behind it that means nothing to us.
#![cfg_attr(fuzzing, no_main)]

#[path = "../../installer/src/router/advertisement.rs"]
mod advertisement;

use metalstrap_fuzz::fuzz_target;

/// Bytes before the options.
const HEADER: usize = 16;
/// The option MTU (RFC 4861 section 4.6.4).
const MTU: [u8; 8] = [5, 1, 0, 0, 0, 0, 5, 0xdc];

fn check(bytes: &[u8]) {
    let Some(heard) = advertisement::parse(bytes) else { return };
    assert!(bytes.len() >= HEADER && bytes[..2] == [134, 0]);
    assert!((bytes[5] & 0x80 != 0, bytes[5] & 0x40 != 0) == (heard.managed, heard.other));
    assert!(heard.servers.len() * 16 <= bytes.len() - HEADER);
    // Options have whole eights of bytes, so that nothing is left over here.
    if bytes.len() % 8 == 0 {
        assert_eq!(advertisement::parse(&[bytes, &MTU].concat()), Some(heard));
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // What is behind type and code is found without guessing them.
    check(&[[134, 0].as_slice(), bytes].concat());
});
