//! Any bytes as a stream of frames without a seek table: an end that is found is where zstd finds it.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::payload::{Next, next_frame};
use metalstrap_release::seek_table::MAX_FRAME_CONTENT;
use zstd::zstd_safe::{find_frame_compressed_size, get_frame_content_size};

/// Magic number of a zstd frame.
const MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

fn check(bytes: &[u8]) {
    let zstds = find_frame_compressed_size(bytes).ok();
    match next_frame(bytes, 0) {
        // zstd refuses headers that it could not decode (reserved bits, a window too large); so does who decodes the frame.
        Ok(Next::Frame(length)) => assert!(zstds.map_or(get_frame_content_size(bytes).is_err(), |end| end == length)),
        Ok(Next::Table) => assert!(!bytes.starts_with(&MAGIC)),
        Ok(Next::More) => assert_eq!(zstds, None),
        // What is longer than any frame that we write is none of ours, nor is a skippable frame that is no seek table.
        Err(_) => assert!(!bytes.starts_with(&MAGIC) || zstds.is_none_or(|end| end as u64 > MAX_FRAME_CONTENT)),
    }
}

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    // What is behind the magic number is found without guessing it.
    check(&[&MAGIC, bytes].concat());
});
