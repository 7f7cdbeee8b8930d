//! Samples of a disk, taken before it is erased and looked for afterwards: what a drive says of its own erasure is not
//! believed.

use std::io;

use anyhow::Result;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::disk::Disk;
use crate::failure::{Code, WithCode as _, coded};

/// How many blocks, evenly over the whole disk.
const COUNT: u64 = 256;
/// Bytes of a block: whole sectors of any size.
const BLOCK: usize = 4096;
/// What is compared: the smallest sector.
const SECTOR: usize = 512;

/// What has to be true of every sample afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rule {
    /// It reads as zeroes.
    Zeroes,
    /// Nothing of it reads as before: it is zeroes, ones, or what another key makes of the same cells.
    Gone,
}

/// What was found when the samples were looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Blocks of 4096 bytes that were looked at.
    pub blocks: usize,
    /// Those that read as zeroes.
    pub zeroes: usize,
    /// Those that hold something else than before.
    pub changed: usize,
}

/// Blocks as they were before.
#[derive(Debug)]
pub(super) struct Samples(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    position: u64,
    before: Vec<u8>,
}

impl Samples {
    /// Reads the samples. Where one is of the same byte all over, a pattern is written first: nothing could be seen
    /// otherwise.
    ///
    /// # Errors
    /// The device's, and a pattern that is not there when it is read back.
    pub(super) fn take(disk: &dyn Disk, guid: Uuid) -> io::Result<Self> {
        let mut samples = Vec::new();
        for position in positions(disk.size()) {
            let mut before = vec![0; BLOCK];
            disk.read_at(position, &mut before)?;
            if !before.chunks(SECTOR).any(tells) {
                before = pattern(guid, position);
                disk.write_at(position, &before)?;
            }
            samples.push(Sample { position, before });
        }
        disk.flush()?;
        disk.forget_cache()?;
        for Sample { position, before } in &samples {
            if read(disk, *position)? != *before {
                let text = format!("the block at byte {position} does not read as it was written");
                return Err(io::Error::other(text));
            }
        }
        Ok(Self(samples))
    }

    /// Looks for them.
    ///
    /// # Errors
    /// [`Code::EraseFailed`] if any of them breaks the rule, or cannot be read.
    pub(super) fn check(&self, disk: &dyn Disk, rule: Rule) -> Result<Checked> {
        let mut checked = Checked { blocks: self.0.len(), zeroes: 0, changed: 0 };
        let mut survived = Vec::new();
        for Sample { position, before } in &self.0 {
            let reading = || format!("reading the block at byte {position} after the erasure");
            let now = read(disk, *position).code(Code::EraseFailed, reading)?;
            let zero = now.iter().all(|byte| *byte == 0);
            let old = |(now, before): (&[u8], &[u8])| now == before && tells(before);
            if zero {
                checked.zeroes += 1;
            } else if rule == Rule::Zeroes || now.chunks(SECTOR).zip(before.chunks(SECTOR)).any(old) {
                survived.push(*position);
            } else {
                checked.changed += 1;
            }
        }
        match survived.first() {
            None if checked.blocks > 0 => Ok(checked),
            None => Err(coded(Code::EraseFailed, "the disk is too small to take samples of")),
            Some(first) => {
                let what = if rule == Rule::Zeroes { "do not read as zeroes" } else { "still hold what they held" };
                let (n, all) = (survived.len(), checked.blocks);
                let text = format!("{n} of {all} blocks that were looked at {what}, the first at byte {first}");
                Err(coded(Code::EraseFailed, text))
            }
        }
    }
}

/// Where the samples lie: the first and the last whole block among them.
fn positions(size: u64) -> Vec<u64> {
    let blocks = size / 4096;
    let count = COUNT.min(blocks);
    let spread = |n: u64| match count {
        0 | 1 => 0,
        _ => u64::try_from(u128::from(n) * u128::from(blocks - 1) / u128::from(count - 1)).unwrap_or(0),
    };
    (0..count).map(|n| spread(n) * 4096).collect()
}

/// Whether it can be seen that a sector is gone: one of equal bytes may come back by itself.
fn tells(sector: &[u8]) -> bool {
    sector.iter().any(|byte| Some(byte) != sector.first())
}

fn read(disk: &dyn Disk, position: u64) -> io::Result<Vec<u8>> {
    let mut block = vec![0; BLOCK];
    disk.read_at(position, &mut block)?;
    Ok(block)
}

/// Bytes that are nowhere else: no two sectors of any disk have the same.
fn pattern(guid: Uuid, position: u64) -> Vec<u8> {
    let piece = |n: u32| {
        let hash = Sha256::new().chain_update(guid.as_bytes()).chain_update(position.to_le_bytes());
        hash.chain_update(n.to_le_bytes()).finalize()
    };
    (0..128).flat_map(piece).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Memory;
    use crate::failure::code_of;

    const SIZE: u64 = 64 << 20;

    fn taken() -> (Memory, Samples) {
        let disk = Memory::new(SIZE, 512);
        disk.write_at(0, &b"old ".repeat(1024)).unwrap();
        let samples = Samples::take(&disk, Uuid::from_u128(1)).unwrap();
        (disk, samples)
    }

    fn refused(samples: &Samples, disk: &dyn Disk, rule: Rule) -> String {
        let error = samples.check(disk, rule).unwrap_err();
        assert_eq!(code_of(&error), Code::EraseFailed);
        format!("{error:#}")
    }

    #[test]
    fn samples_reach_from_the_first_to_the_last_block() {
        assert_eq!(positions(3 * 4096 + 512), [0, 4096, 8192]);
        let all = positions(1 << 44);
        assert_eq!((all.len(), all[0], all[255]), (256, 0, (1 << 44) - 4096));
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!(positions(100), Vec::<u64>::new());
    }

    #[test]
    fn what_is_zeroed_is_gone_by_both_rules() {
        let (disk, samples) = taken();
        disk.write_zeroes(0, SIZE).unwrap();
        let expected = Checked { blocks: 256, zeroes: 256, changed: 0 };
        assert_eq!(samples.check(&disk, Rule::Zeroes).unwrap(), expected);
        assert_eq!(samples.check(&disk, Rule::Gone).unwrap(), expected);
    }

    #[test]
    fn what_another_key_makes_of_it_is_gone_but_not_zeroes() {
        let (disk, samples) = taken();
        for Sample { position, before } in &samples.0 {
            let other: Vec<u8> = before.iter().map(|byte| byte ^ 0x5a).collect();
            disk.write_at(*position, &other).unwrap();
        }
        assert_eq!(samples.check(&disk, Rule::Gone).unwrap(), Checked { blocks: 256, zeroes: 0, changed: 256 });
        let text = "256 of 256 blocks that were looked at do not read as zeroes, the first at byte 0";
        assert_eq!(refused(&samples, &disk, Rule::Zeroes), text);
    }

    #[test]
    fn one_sector_that_survives_is_found_also_where_the_disk_was_empty() {
        let (disk, samples) = taken();
        let last = SIZE - 512;
        let mut kept = vec![0; 512];
        disk.read_at(last, &mut kept).unwrap();
        disk.write_zeroes(0, SIZE).unwrap();
        disk.write_at(last, &kept).unwrap();
        let text =
            format!("1 of 256 blocks that were looked at still hold what they held, the first at byte {}", SIZE - 4096);
        assert_eq!(refused(&samples, &disk, Rule::Gone), text);
    }

    #[test]
    fn a_block_that_cannot_be_read_afterwards_is_no_success() {
        let (_, samples) = taken();
        let text = "reading the block at byte 67104768 after the erasure: reading bytes 67104768 to 67108864 of memory: \
                    the range is outside of the disk";
        let shorter = Memory::new(SIZE - 4096, 512);
        assert_eq!(refused(&samples, &shorter, Rule::Gone), text);
        let none = Samples::take(&Memory::new(512, 512), Uuid::nil()).unwrap();
        assert_eq!(refused(&none, &shorter, Rule::Gone), "the disk is too small to take samples of");
    }
}
