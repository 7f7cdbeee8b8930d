//! What compressing takes at most, in a process of its own.
#![allow(missing_docs, clippy::unwrap_used, reason = "clippy sees no test in the helpers of an integration test")]

use std::fs;
use std::io;

use metalstrap_release::payload::{CompressOptions, MOST_THREADS, compress};

/// Content that does not get smaller, so that compressed frames take the most memory too.
struct Noise(u64);

impl io::Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        for chunk in buffer.chunks_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            chunk.copy_from_slice(self.0.to_le_bytes().get(..chunk.len()).unwrap());
        }
        Ok(buffer.len())
    }
}

/// Peak resident memory of this process, in KiB.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

#[test]
fn compressing_with_the_most_threads_stays_below_half_a_gibibyte() {
    let options = CompressOptions { threads: MOST_THREADS, ..CompressOptions::default() };
    let mut input = io::Read::take(Noise(88_172_645_463_325_252), 256 << 20);
    let payload = compress(&mut input, &mut io::sink(), &options, &mut |_| {}).unwrap();
    assert_eq!(payload.content_size, 256 << 20);
    let peak = peak();
    // Every thread has had its tables: fewer would be no test of the bound.
    assert!(peak > 128 << 10, "a peak of {peak} KiB is that of fewer threads");
    assert!(peak <= 512 << 10, "a peak of {peak} KiB");
}
