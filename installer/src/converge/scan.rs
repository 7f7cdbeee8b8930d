//! What is right where it is.

use std::ops::Range;

use anyhow::Result;
use metalstrap_release::digest::Digest;
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE};

use super::blocks::BlockSet;
use super::expected::{Expected, Fault, check_each};
use super::goal::Goal;
use super::sweep::{Unreadable, pieces, sweep};
use crate::disk::Region;
use crate::failure::{Code, WithCode as _};
use crate::progress::LooksAt;

/// What is tried of a place before all of it is looked at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sampling {
    /// Blocks of a stretch that is looked at as a whole without asking whether that is worth it.
    pub small: u64,
    /// Blocks that are tried, spread evenly, before a longer one is.
    pub samples: u64,
    /// How many are tried in its first part besides.
    pub early_samples: usize,
    /// How many blocks those are apart.
    pub early: usize,
}

impl Default for Sampling {
    /// A stretch of up to 64 MiB is small; early samples are 1 MiB apart.
    fn default() -> Self {
        Self { small: 1 << 14, samples: 256, early_samples: 64, early: 256 }
    }
}

/// Adds to `kept` the blocks that are right in their place. A disk that fails a read does not hold that block.
pub(super) fn in_place(goal: &Goal, kept: &BlockSet) -> Result<()> {
    let (all, progress) = (pieces(std::iter::once(goal.blocks.clone())), &goal.progress);
    let count = goal.blocks.end.saturating_sub(goal.blocks.start);
    progress.looks_at(LooksAt::InPlace, count.saturating_mul(BLOCK));
    let looked = |bytes| progress.looked(bytes);
    let found = find_right(&goal.region, goal.expected.as_ref(), all, kept, looked, |bytes| progress.keeps(bytes));
    progress.has_looked();
    found
}

/// Whether reading all of the place is likely to find something. Reading a blank disk costs as much as hashing the whole
/// image; a few blocks of all parts of it tell a blank disk from one with a part of the release on it, however small the
/// part that counts.
pub(super) fn is_promising(goal: &Goal) -> Result<bool> {
    let count = goal.blocks.end.saturating_sub(goal.blocks.start);
    let Sampling { small, samples, early_samples, early } = goal.sampling;
    if count <= small {
        return Ok(true);
    }
    let found = BlockSet::new(goal.blocks.clone());
    // More of them at its start, where a run that was cut early has been.
    let mut wanted = with_content(goal, early).take(early_samples).collect::<Result<Vec<_>>>()?;
    let step = usize::try_from(count.checked_div(samples).unwrap_or(count)).unwrap_or(usize::MAX);
    wanted.extend(with_content(goal, step).collect::<Result<Vec<_>>>()?);
    let wanted = wanted.into_iter().map(|block| block..block.saturating_add(1));
    let looked = |bytes| goal.progress.looked(bytes);
    find_right(&goal.region, goal.expected.as_ref(), wanted, &found, looked, |_| ())?;
    Ok(!found.is_empty())
}

/// Of every `step`th block those that are not zeroes, which are there on a blank disk too.
fn with_content(goal: &Goal, step: usize) -> impl Iterator<Item = Result<u64>> {
    let zero = Digest::salted(goal.expected.salt(), &[0; BLOCK_SIZE]);
    let mut judge = goal.expected.reader();
    goal.blocks.clone().step_by(step.max(1)).filter_map(move |block| {
        let digest = judge.digest(block).code(Code::DiskIo, || "reading the hash tree".to_owned());
        digest.map(|digest| (digest != Some(zero)).then_some(block)).transpose()
    })
}

/// Adds to `right` those blocks of `pieces` that are what `expected` says; blocks that cannot be read are not. `looked` hears
/// how many bytes are behind it, `found` how many of them were right.
///
/// # Errors
/// [`Code::DiskIo`]: nobody can tell what the blocks must be.
pub(super) fn find_right(
    region: &Region,
    expected: &dyn Expected,
    pieces: impl Iterator<Item = Range<u64>> + Send,
    right: &BlockSet,
    looked: impl Fn(u64) + Sync,
    found: impl Fn(u64) + Sync,
) -> Result<()> {
    let state = || expected.reader();
    sweep(region, Unreadable::Skipped, pieces, state, looked, |judge, first, blocks| {
        let mut bytes = 0_u64;
        check_each(judge.as_mut(), expected.salt(), (first..).zip(&*blocks), |index, checked| match checked {
            Ok(()) => {
                right.insert(index);
                bytes = bytes.saturating_add(BLOCK);
                Ok(())
            }
            Err(Fault::Block(_)) => Ok(()),
            Err(Fault::Tree(error)) => Err(error).code(Code::DiskIo, || "reading the hash tree".to_owned()),
        })?;
        found(bytes);
        Ok(())
    })
}
