//! Any bytes as a list of allowed releases: one that is taken reads back as it was.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::allowed::Allowed;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(allowed) = Allowed::parse(bytes) {
        let text = serde_json::to_vec(&allowed).expect("a list is JSON");
        assert_eq!(Allowed::parse(&text).expect("what was written"), allowed);
    }
});
