//! Any bytes as a frame: never more content than the seek table says.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::payload::{Frame, FrameDecoder};

fuzz_target!(|input: (u8, &[u8])| {
    let (blocks, bytes) = input;
    let content_size = u64::from(blocks) * 4096;
    let frame = Frame { offset: 0, size: bytes.len() as u64, content_offset: 0, content_size };
    let mut content = Vec::new();
    if FrameDecoder::new().decode(&frame, bytes, &mut content).is_ok() {
        assert_eq!(content.len() as u64, content_size);
    }
});
