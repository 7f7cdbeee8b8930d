//! Any bytes as an SMBIOS table: every string that is taken stands in it and is for us.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::discovery::{mentioned, smbios};

fuzz_target!(|bytes: &[u8]| {
    let Ok(strings) = smbios::strings(bytes) else { return };
    for text in &strings {
        assert!(mentioned(text) && bytes.windows(text.len()).any(|window| window == text));
    }
    if let Ok(words) = smbios::words(&strings) {
        assert_eq!(words.len(), strings.len());
    }
});
