//! Any bytes as a manifest: one that is taken reads back as it was.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::manifest::Manifest;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = Manifest::parse(bytes) {
        let text = serde_json::to_vec(&manifest).expect("a manifest is JSON");
        assert_eq!(Manifest::parse(&text).expect("what was written"), manifest);
        let _ = manifest.boot.pcr11.map(|pcr11| pcr11.phases.read());
    }
});
