//! A target for a moment: its seeds, and inputs that are made of them by chance. The chance is the same each time, so that what
//! `make check` says does not change from run to run; it is `scripts/fuzz` that looks further.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// No input may take longer.
const SLOW: Duration = Duration::from_secs(10);
/// No input is longer.
const LONGEST: usize = 1 << 16;
/// Bytes and numbers that code is often wrong about.
const EDGES: [u64; 12] = [0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, u64::MAX >> 1, u64::MAX];

/// Runs a target as the arguments say: seconds, then files with seeds.
pub fn briefly(try_one: impl Fn(&[u8])) -> ExitCode {
    let mut words = std::env::args().skip(1);
    let Some(seconds) = words.next().and_then(|word| word.parse::<u64>().ok()) else {
        eprintln!("usage: TARGET SECONDS SEED…");
        return ExitCode::from(2);
    };
    let mut seeds = Vec::new();
    for path in words {
        match fs::read(&path) {
            Ok(seed) => seeds.push(seed),
            Err(error) => {
                eprintln!("reading {path}: {error}");
                return ExitCode::from(2);
            }
        }
    }
    if !seeds.iter().all(|seed| holds(&try_one, seed)) {
        return ExitCode::FAILURE;
    }
    let (end, mut chance, mut tried) = (Instant::now() + Duration::from_secs(seconds), Chance(1), seeds.len());
    while Instant::now() < end {
        if !holds(&try_one, &chance.input(&seeds)) {
            return ExitCode::FAILURE;
        }
        tried += 1;
    }
    println!("{}: {} seeds, {tried} inputs in {seconds} s", name(), seeds.len());
    ExitCode::SUCCESS
}

/// What this program is called.
fn name() -> String {
    let path = std::env::args_os().next().map(PathBuf::from).unwrap_or_default();
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Whether the target takes the input. One that it does not take is left in a file.
fn holds(try_one: &impl Fn(&[u8]), input: &[u8]) -> bool {
    let started = Instant::now();
    // A panic has said by itself what is wrong.
    let panicked = catch_unwind(AssertUnwindSafe(|| try_one(input))).is_err();
    let took = started.elapsed();
    if !panicked && took <= SLOW {
        return true;
    }
    let directory = Path::new("fuzz/artifacts").join(name());
    let path = directory.join("briefly");
    let kept = fs::create_dir_all(&directory).and_then(|()| fs::write(&path, input));
    eprintln!("{}: an input of {} bytes failed after {took:?}: {} ({kept:?})", name(), input.len(), path.display());
    eprintln!("{} 0 {} shows it again", std::env::args().next().unwrap_or_default(), path.display());
    false
}

/// A sequence that looks like chance (SplitMix64, by Steele, Lea and Flood).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 if there is none.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// A range of bytes within `length`, mostly a short one.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length);
        let most = if self.below(4) == 0 { length } else { 16 };
        start..(start + 1 + self.below(most)).min(length)
    }

    /// A seed, or nothing, changed in one to eight places.
    fn input(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut input = seeds.get(self.below(seeds.len() + 1)).cloned().unwrap_or_default();
        for _ in 0..=self.below(8) {
            self.change(&mut input, seeds);
        }
        input.truncate(LONGEST);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let range = self.range(input.len());
        match self.below(8) {
            _ if range.is_empty() => {
                let length = self.below(64);
                input.extend((0..length).map(|_| self.next() as u8));
            }
            0 => input[range.start] ^= 1 << self.below(8),
            1 => input[range.start] = EDGES[self.below(6)] as u8,
            2 => {
                // A number of 2, 4 or 8 bytes, with the larger or the smaller byte first.
                let (edge, width) = (EDGES[self.below(EDGES.len())], 2_usize << self.below(3));
                let bytes = if self.below(2) == 0 { edge.to_le_bytes() } else { edge.to_be_bytes() };
                let from = if bytes == edge.to_le_bytes() { &bytes[..width] } else { &bytes[8 - width..] };
                input.iter_mut().skip(range.start).zip(from).for_each(|(to, from)| *to = *from);
            }
            3 => drop(input.drain(range)),
            4 => {
                let again = input[range.clone()].to_vec();
                let at = self.below(input.len() + 1);
                drop(input.splice(at..at, again));
            }
            5 => {
                let new: Vec<u8> = range.clone().map(|_| self.next() as u8).collect();
                drop(input.splice(range.start..range.start, new));
            }
            6 => input.truncate(range.start),
            _ => {
                // A part of another seed.
                let Some(other) = seeds.get(self.below(seeds.len())) else { return };
                let part = self.range(other.len());
                drop(input.splice(range, other[part].iter().copied()));
            }
        }
    }
}
