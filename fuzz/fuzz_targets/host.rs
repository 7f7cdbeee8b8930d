//! Any bytes as a host config, and as a list of groups of machines with one each: what is taken reads back as it was.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::host::{Groups, Host};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(host) = Host::parse(bytes) {
        let text = serde_json::to_vec(&host).expect("a host config is JSON");
        assert_eq!(Host::parse(&text).expect("what was written"), host);
    }
    if let Ok(groups) = Groups::parse(bytes) {
        let text = serde_json::to_vec(&groups).expect("a list of groups is JSON");
        assert_eq!(Groups::parse(&text).expect("what was written"), groups);
    }
});
