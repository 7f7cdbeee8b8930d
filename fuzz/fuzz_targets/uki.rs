//! Any bytes as a UKI: its sections can be read or are refused, within the limit.
#![cfg_attr(fuzzing, no_main)]

use std::io::Cursor;

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::uki::{Sections, cmdline_limit, read_section};

const LIMIT: u64 = 1 << 16;

fuzz_target!(|bytes: &[u8]| {
    for section in Sections::parse(bytes).iter().flatten() {
        if let Ok(content) = read_section(&mut Cursor::new(bytes), section, LIMIT) {
            assert_eq!(content.len() as u64, section.virtual_size);
            let _ = cmdline_limit(&content);
        }
    }
    let _ = cmdline_limit(bytes);
});
