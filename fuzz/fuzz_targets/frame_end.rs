//! Any bytes as a stream of frames without a seek table: an end that is found is where zstd finds it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metalstrap_release::payload::{Next, next_frame};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Next::Frame(length)) = next_frame(bytes, 0) {
        assert!(length <= bytes.len());
    }
});
