//! Frames cost size, since none refers to another: at most 8% over one frame at the same level, on the Debian image.

use std::fs;
use std::io;

use metalstrap_release::payload::{CompressOptions, compress};
use metalstrap_tests::artifacts::built;

#[test]
fn a_payload_is_nearly_as_small_as_one_frame() {
    let image = fs::read(built("target/root.raw").unwrap()).unwrap();
    let options = CompressOptions::default();
    let payload = compress(&mut image.as_slice(), &mut io::sink(), &options, &mut |_| {}).unwrap();
    let one_frame = zstd::bulk::compress(&image, options.level).unwrap().len() as u64;
    let permille = payload.size * 1000 / one_frame;
    println!("payload {} bytes, one frame {one_frame}: {permille} permille", payload.size);
    assert!(payload.size * 100 <= one_frame * 108, "a payload of {permille} permille of one frame");
}
