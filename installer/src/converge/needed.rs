//! Which frames have to be fetched for the blocks that are missing, and which missing blocks are then copies of others.

use std::collections::{BTreeMap, BTreeSet};

use metalstrap_release::payload::SeekTable;
use metalstrap_release::verity::{BLOCK, TreeError};

use super::blocks::BlockSet;
use super::expected::Judge;
use super::index::Index;

/// What is to be fetched.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    /// Frames, by their number in the seek table.
    pub frames: BlockSet,
    /// Missing blocks outside of these frames: (block inside of one that has the same content, block), sorted.
    pub copies: Vec<(u64, u64)>,
    /// Bytes of the frames.
    pub bytes: u64,
}

impl Needed {
    /// The frames for every block that is not in `have`. A block whose content is missing at several places is needed
    /// from one frame only: one that is needed anyway, else the first that has it. `index` has the missing blocks that
    /// a digest says of; those without one need their own frame.
    ///
    /// # Errors
    /// The tree that says what blocks must be cannot be read.
    pub fn new(
        table: &SeekTable,
        have: &BlockSet,
        index: Option<&Index>,
        judge: &mut dyn Judge,
    ) -> Result<Self, TreeError> {
        let count = u64::try_from(table.frames().len()).unwrap_or(u64::MAX);
        let mut needed = Self { frames: BlockSet::new(0..count), copies: Vec::new(), bytes: 0 };
        let Some(index) = index else {
            have.missing(have.range()).flatten().for_each(|block| needed.add(table, block));
            return Ok(needed);
        };
        let mut alike = Vec::new();
        for group in index.groups() {
            let mut missing = group.filter(|block| !have.contains(*block));
            let (Some(first), second) = (missing.next(), missing.next()) else { continue };
            match second {
                None => needed.add(table, first),
                Some(second) => {
                    let members: Vec<u64> = [first, second].into_iter().chain(missing).collect();
                    alike.extend(by_digest(members, judge)?);
                }
            }
        }
        needed.choose(table, &mut alike);
        for members in alike {
            let (inside, outside): (Vec<u64>, Vec<u64>) = members.iter().partition(|block| needed.has(table, **block));
            let Some(source) = inside.first() else { continue };
            needed.copies.extend(outside.into_iter().map(|block| (*source, block)));
        }
        needed.copies.sort_unstable();
        Ok(needed)
    }

    /// Adds a frame for each group of equal blocks that no frame has so far, and takes those away again that turn out to
    /// be needed for no group.
    fn choose(&mut self, table: &SeekTable, alike: &mut [Vec<u64>]) {
        // What has no choice comes first, then the order of the content: the choice does not depend on digests.
        alike.sort_unstable_by(|a, b| (a.len() > 1, a).cmp(&(b.len() > 1, b)));
        let mut chosen: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for members in alike.iter() {
            if let Some(first) = members.first()
                && !self.has_any(table, members)
            {
                self.add(table, *first);
                chosen.extend(frame_of(table, *first).filter(|_| members.len() > 1).map(|frame| (frame, Vec::new())));
            }
        }
        let mut having: Vec<BTreeSet<u64>> = Vec::with_capacity(alike.len());
        for (group, members) in alike.iter().enumerate() {
            let frames = members.iter().filter_map(|block| frame_of(table, *block));
            let frames: BTreeSet<u64> = frames.filter(|frame| self.frames.contains(*frame)).collect();
            for frame in &frames {
                if let Some(groups) = chosen.get_mut(frame) {
                    groups.push(group);
                }
            }
            having.push(frames);
        }
        for (frame, groups) in chosen {
            let spare = |group: &usize| having.get(*group).is_some_and(|frames| frames.len() > 1);
            if groups.iter().all(spare) {
                self.remove(table, frame);
                for group in groups {
                    having.get_mut(group).map(|frames| frames.remove(&frame));
                }
            }
        }
    }

    fn add(&mut self, table: &SeekTable, block: u64) {
        if let Some(frame) = frame_of(table, block)
            && self.frames.insert(frame)
        {
            self.bytes = self.bytes.saturating_add(size_of(table, frame));
        }
    }

    fn remove(&mut self, table: &SeekTable, frame: u64) {
        if self.frames.remove(frame) {
            self.bytes = self.bytes.saturating_sub(size_of(table, frame));
        }
    }

    fn has(&self, table: &SeekTable, block: u64) -> bool {
        frame_of(table, block).is_some_and(|frame| self.frames.contains(frame))
    }

    fn has_any(&self, table: &SeekTable, blocks: &[u64]) -> bool {
        blocks.iter().any(|block| self.has(table, *block))
    }

    /// The blocks that are copies of `block`.
    pub fn copies_of(&self, block: u64) -> impl Iterator<Item = u64> {
        let start = self.copies.partition_point(|(source, _)| *source < block);
        let rest = self.copies.get(start..).unwrap_or_default();
        rest.iter().take_while(move |(source, _)| *source == block).map(|(_, copy)| *copy)
    }
}

fn size_of(table: &SeekTable, frame: u64) -> u64 {
    usize::try_from(frame).ok().and_then(|frame| table.frames().get(frame)).map_or(0, |frame| frame.size)
}

fn frame_of(table: &SeekTable, block: u64) -> Option<u64> {
    table.frame_at(block.checked_mul(BLOCK)?).and_then(|frame| u64::try_from(frame).ok())
}

/// Splits blocks whose digests begin alike into those that have the same one, each list in order.
fn by_digest(members: Vec<u64>, judge: &mut dyn Judge) -> Result<Vec<Vec<u64>>, TreeError> {
    let mut digests = Vec::with_capacity(members.len());
    for block in members {
        digests.push((judge.digest(block)?.map(|digest| digest.0), block));
    }
    digests.sort_unstable();
    Ok(digests.chunk_by(|a, b| a.0 == b.0).map(|group| group.iter().map(|(_, block)| *block).collect()).collect())
}
