//! Blocks that are elsewhere on the disk: copied instead of fetched, and checked as they are copied.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::Result;
use metalstrap_release::digest::Digest;
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE, Block, BlockStore as _, Geometry, Superblock, unchecked_leaves};

use super::blocks::BlockSet;
use super::expected::Judge;
use super::goal::Goal;
use super::index::Index;
use super::output::Output;
use super::sweep::{PIECE, Unreadable, pieces, sweep};
use crate::disk::{Buffer, Region};
use crate::failure::{Code, WithCode as _};
use crate::progress::LooksAt;

/// A part of the disk that may hold blocks of the release: another slot, an old ESP.
#[derive(Debug, Clone)]
pub struct Seed {
    /// Where it is.
    pub region: Region,
    /// Where its hash tree may be. With the salt of the release it tells which blocks are worth reading; without, all are
    /// read and hashed anew. It is never believed: every block that is used is hashed.
    pub tree: Option<Region>,
}

impl Seed {
    /// The blocks worth reading, and whether the old tree says so.
    fn candidates(&self, goal: &Goal, index: &Index) -> BlockSet {
        let all = 0..self.region.size / BLOCK;
        let hint = self.tree.as_ref().and_then(|tree| hinted(tree, goal.expected.salt(), index, all.clone()));
        hint.unwrap_or_else(|| {
            let every = BlockSet::new(all.clone());
            all.for_each(|block| _ = every.insert(block));
            every
        })
    }
}

/// The blocks below an old tree with this salt whose digests are wanted; `None` where there is no such tree.
fn hinted(tree: &Region, salt: &[u8], index: &Index, all: Range<u64>) -> Option<BlockSet> {
    let mut block = [0; BLOCK_SIZE];
    tree.read_block(0, &mut block).ok()?;
    let superblock = Superblock::parse(&block).ok().filter(|superblock| superblock.salt == salt)?;
    let geometry = Geometry::new(superblock.data_blocks)?;
    let wanted = BlockSet::new(all);
    // An old tree that cannot be read to its end is no hint: all is read.
    let read = unchecked_leaves(tree, &geometry, |number, digest| {
        if index.find(&digest).next().is_some() {
            wanted.insert(number);
        }
    });
    read.ok().map(|()| wanted)
}

/// Copies what `seed` has of the blocks that `index` wants and `have` lacks.
///
/// # Errors
/// [`Code::DiskIo`]: a write failed, or the tree cannot be read. What cannot be read of the seed is not there.
pub(super) fn copy(seed: &Seed, goal: &Goal, index: &Index, have: &BlockSet, output: &Output) -> Result<()> {
    let candidates = seed.candidates(goal, index);
    copy_of(&seed.region, &candidates, LooksAt::Seeds, goal, index, have, output)
}

/// Copies blocks that are right where they are to other places of the same content that want the same.
///
/// # Errors
/// As [`copy`].
pub(super) fn copy_kept(goal: &Goal, index: &Index, kept: &BlockSet, have: &BlockSet, output: &Output) -> Result<()> {
    let wanted = BlockSet::new(kept.range());
    let mut judge = goal.expected.reader();
    for block in kept.present(kept.range()).flatten() {
        let digest = judge.digest(block).code(Code::DiskIo, || "reading the hash tree".to_owned())?;
        if digest.is_some_and(|digest| index.find(&digest).next().is_some()) {
            wanted.insert(block);
        }
    }
    copy_of(&goal.region, &wanted, LooksAt::Repeats, goal, index, have, output)
}

/// Looks at the blocks `of` a region, and copies what is wanted of them.
fn copy_of(
    from: &Region,
    of: &BlockSet,
    at: LooksAt,
    goal: &Goal,
    index: &Index,
    have: &BlockSet,
    output: &Output,
) -> Result<()> {
    let (salt, progress) = (goal.expected.salt(), &goal.progress);
    progress.looks_at(at, of.len().saturating_mul(BLOCK));
    let looked = |bytes| progress.looked(bytes);
    let pieces = pieces(of.present(of.range()));
    let state = || goal.expected.reader();
    let copied = sweep(from, Unreadable::Skipped, pieces, state, looked, |judge, _, blocks| {
        let mut copies = BTreeMap::new();
        // Zeroes are made, not copied: what is empty need not be hashed.
        let full = blocks.iter().filter(|block| **block != [0; BLOCK_SIZE]).map(|block| ((), block));
        Digest::salted_each(salt, full, |(), block, digest| {
            copies.extend(wanting(&digest, judge.as_mut(), index, have)?.into_iter().map(|place| (place, block)));
            anyhow::Ok(())
        })?;
        write_runs(copies, output, |run| progress.copies(run.saturating_mul(BLOCK)))
    });
    progress.has_looked();
    copied
}

/// The places that want this digest, all of them, unless somebody else has begun to fill them: whoever takes the first one
/// takes all, so that a content that is wanted at very many places is not looked for at each time it is found.
fn wanting(digest: &Digest, judge: &mut dyn Judge, index: &Index, have: &BlockSet) -> Result<Vec<u64>> {
    let mut places = Vec::new();
    for place in index.find(digest) {
        let wanted = judge.digest(place).code(Code::DiskIo, || "reading the hash tree".to_owned())?;
        if wanted != Some(*digest) {
            continue;
        }
        if have.insert(place) {
            places.push(place);
        } else if places.is_empty() {
            break;
        }
    }
    Ok(places)
}

/// Writes blocks to their places, neighbours together; `told` hears how many at a time.
pub(super) fn write_runs(blocks: BTreeMap<u64, &Block>, output: &Output, mut told: impl FnMut(u64)) -> Result<()> {
    let mut blocks = blocks.into_iter().peekable();
    while let Some((first, block)) = blocks.next() {
        let mut run = vec![block];
        while run.len() < usize::try_from(PIECE)?
            && let Some((_, next)) = blocks
                .next_if(|(place, _)| Some(*place) == first.checked_add(u64::try_from(run.len()).unwrap_or(u64::MAX)))
        {
            run.push(next);
        }
        let mut buffer = Buffer::new(run.len().saturating_mul(BLOCK_SIZE));
        buffer.as_chunks_mut().0.iter_mut().zip(&run).for_each(|(to, from): (&mut Block, _)| *to = **from);
        output.write(first, buffer)?;
        told(u64::try_from(run.len())?);
    }
    Ok(())
}
