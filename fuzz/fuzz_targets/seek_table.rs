//! A seek table with any bytes that the manifest vouches for: frames must be in order and without gaps.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::Payload;
use metalstrap_release::payload::SeekTable;

fuzz_target!(|input: (u64, u64, &[u8])| {
    let (size, content_size, bytes) = input;
    let payload = Payload {
        sha256: Digest([0; 32]),
        size,
        content_size,
        seek_table_size: bytes.len() as u64,
        seek_table_sha256: Digest::of(bytes),
    };
    if let Ok(table) = SeekTable::parse(bytes, &payload) {
        let end = table.frames().iter().fold((0, 0), |(offset, content_offset), frame| {
            assert_eq!((frame.offset, frame.content_offset), (offset, content_offset));
            (offset + frame.size, content_offset + frame.content_size)
        });
        assert_eq!(end, (size - bytes.len() as u64, content_size));
    }
});
