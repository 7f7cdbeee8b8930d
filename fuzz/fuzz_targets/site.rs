//! Any bytes as a site config: one that is taken reads back as it was.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::site::Site;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(site) = Site::parse(bytes) {
        let text = serde_json::to_vec(&site).expect("a site config is JSON");
        assert_eq!(Site::parse(&text).expect("what was written"), site);
    }
});
