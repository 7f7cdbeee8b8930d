//! Any bytes as a kernel command line, and as an option of DHCP: every setting that is read stands there, behind our prefix.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::discovery::{command_line, dhcp, mentioned};

fuzz_target!(|bytes: &[u8]| {
    for word in command_line::words(bytes) {
        assert!(mentioned(bytes));
        if let Some(value) = word.value.filter(|value| !value.is_empty()) {
            assert!(bytes.windows(value.len()).any(|window| window == value));
        }
    }
    assert!(dhcp::words_4(bytes).len() + dhcp::words_6(bytes).len() <= bytes.len());
    assert!(dhcp::boot_url(bytes).is_none_or(|url| url.len() <= bytes.len()));
});
