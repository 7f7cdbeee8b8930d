//! Any bytes as a memory of metadata versions: one that is taken reads back as it was.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::metadata::Versions;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(versions) = Versions::parse(bytes) {
        assert_eq!(Versions::parse(&versions.to_bytes()).expect("what was written"), versions);
    }
});
