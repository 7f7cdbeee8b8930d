//! What is right where it is.

use std::ops::Range;

use anyhow::Result;
use metalstrap_release::digest::Digest;
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE};

use super::blocks::BlockSet;
use super::expected::Fault;
use super::goal::Goal;
use super::sweep::{Unreadable, pieces, sweep};
use crate::failure::{Code, WithCode as _};

/// A stretch that is looked at as a whole without asking whether that is worth it: 64 MiB.
const SMALL: u64 = 1 << 14;
/// Blocks that are tried, spread evenly, before a longer one is.
const SAMPLES: u64 = 256;
/// How far apart those are that are tried in its first part: 1 MiB.
const EARLY: usize = 256;

/// Adds to `kept` the blocks that are right in their place. A disk that fails a read does not hold that block.
pub(super) fn in_place(goal: &Goal, kept: &BlockSet) -> Result<()> {
    blocks_of(goal, kept, pieces(std::iter::once(goal.blocks.clone())))
}

/// Whether reading all of the place is likely to find something. Reading a blank disk costs as much as hashing the whole
/// image; a few blocks of all parts of it tell a blank disk from one with a part of the release on it, however small the
/// part that counts.
pub(super) fn is_promising(goal: &Goal) -> Result<bool> {
    let count = goal.blocks.end.saturating_sub(goal.blocks.start);
    if count <= SMALL {
        return Ok(true);
    }
    let found = BlockSet::new(goal.blocks.clone());
    let step = count / SAMPLES;
    // More of them at its start, where a run that was cut early has been.
    let early = (0..SMALL).step_by(EARLY);
    let samples = early.chain((0..SAMPLES).map(|sample| sample.saturating_mul(step)));
    let samples = samples.map(|block| goal.blocks.start.saturating_add(block));
    // A block of zeroes is there on a blank disk too.
    let zero = Digest::salted(goal.expected.salt(), &[0; BLOCK_SIZE]);
    let mut judge = goal.expected.reader();
    let mut wanted = Vec::new();
    for block in samples {
        let digest = judge.digest(block).code(Code::DiskIo, || "reading the hash tree".to_owned())?;
        if digest != Some(zero) {
            wanted.push(block..block.saturating_add(1));
        }
    }
    blocks_of(&Goal { progress: Default::default(), ..goal.clone() }, &found, wanted.into_iter())?;
    Ok(!found.is_empty())
}

fn blocks_of(goal: &Goal, kept: &BlockSet, pieces: impl Iterator<Item = Range<u64>> + Send) -> Result<()> {
    let state = || goal.expected.reader();
    sweep(&goal.region, Unreadable::Skipped, pieces, state, |judge, first, blocks| {
        for (index, block) in (first..).zip(&*blocks) {
            match judge.check(index, block) {
                Ok(()) => {
                    kept.insert(index);
                    goal.progress.keeps(BLOCK);
                }
                Err(Fault::Block(_)) => {}
                Err(Fault::Tree(error)) => {
                    return Err(error).code(Code::DiskIo, || "reading the hash tree".to_owned());
                }
            }
        }
        Ok(())
    })
}
