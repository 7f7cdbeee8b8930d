//! Which frames have to be fetched for the blocks that are missing, and which missing blocks are then copies of others.
//!
//! Half of an image may be blocks that its other half has too, so all that is kept of equal blocks is flat: some 20 bytes
//! for each of them.

use std::ops::Range;

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
    /// Missing blocks outside of these frames: (block inside of one that has the same content, block), sorted, counted from
    /// the first block of the index.
    copies: Vec<(u32, u32)>,
    /// The first block of the index.
    first: u64,
    /// Bytes of the frames.
    pub bytes: u64,
}

/// Groups of missing blocks that must have the same content; each is in order.
#[derive(Debug, Default)]
struct Alike {
    /// All of them, counted from the first block of the index, group by group.
    blocks: Vec<u32>,
    /// Where each group begins in `blocks`, in the order that they are looked at.
    groups: Vec<Range<u32>>,
}

impl Alike {
    fn push(&mut self, members: impl IntoIterator<Item = u32>) {
        let start = u32::try_from(self.blocks.len()).unwrap_or(u32::MAX);
        self.blocks.extend(members);
        self.groups.push(start..u32::try_from(self.blocks.len()).unwrap_or(u32::MAX));
    }

    fn members(&self, group: &Range<u32>) -> &[u32] {
        let at = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
        self.blocks.get(at(group.start)..at(group.end)).unwrap_or_default()
    }

    /// What has no choice comes first, then the order of the content: the choice does not depend on digests.
    fn sort(&mut self) {
        let mut groups = std::mem::take(&mut self.groups);
        groups.sort_unstable_by(|a, b| {
            let (a, b) = (self.members(a), self.members(b));
            (a.len() > 1, a).cmp(&(b.len() > 1, b))
        });
        self.groups = groups;
    }
}

impl Needed {
    /// The frames for every block that is not in `have`: of them none can be left out. A block whose content is missing at
    /// several places is needed from one frame only: one that is needed anyway, else one that has most of such contents, the
    /// first of them. `index` has the missing blocks that may be equal to others; all others need their own frame.
    ///
    /// # Errors
    /// The tree that says what blocks must be cannot be read.
    pub fn new(table: &SeekTable, have: &BlockSet, index: &Index, judge: &mut dyn Judge) -> Result<Self, TreeError> {
        let count = u64::try_from(table.frames().len()).unwrap_or(u64::MAX);
        let (frames, first) = (BlockSet::new(0..count), index.first());
        let mut needed = Self { frames, first, ..Self::default() };
        let (mut alike, grouped) = (Alike::default(), BlockSet::new(have.range()));
        for group in index.groups() {
            let mut missing = group.filter(|block| !have.contains(*block));
            let (Some(first), Some(second)) = (missing.next(), missing.next()) else { continue };
            let members = [first, second].into_iter().chain(missing).inspect(|block| _ = grouped.insert(*block));
            by_digest(members, judge, index.first(), &mut alike)?;
        }
        let alone = have.missing(have.range()).flatten().filter(|block| !grouped.contains(*block));
        alone.for_each(|block| needed.add(table, block));
        alike.sort();
        needed.choose(table, &alike);
        for group in &alike.groups {
            let members = alike.members(group);
            let Some(source) = members.iter().copied().find(|block| needed.has(table, *block)) else { continue };
            let outside = members.iter().copied().filter(|block| !needed.has(table, *block));
            let copies: Vec<_> = outside.map(|block| (source, block)).collect();
            needed.copies.extend(copies);
        }
        needed.copies.sort_unstable();
        Ok(needed)
    }

    /// Adds a frame for each group of equal blocks that no frame has so far, and takes those away again that turn out to
    /// be needed for no group.
    fn choose(&mut self, table: &SeekTable, alike: &Alike) {
        let chosen = BlockSet::new(self.frames.range());
        let forced = alike.groups.partition_point(|group| alike.members(group).len() == 1);
        let (forced, free) = alike.groups.split_at_checked(forced).unwrap_or_default();
        let firsts = forced.iter().filter_map(|group| alike.members(group).first());
        firsts.for_each(|block| self.add(table, self.block(*block)));
        let serves = self.serves(table, alike, free);
        for group in free {
            let members = alike.members(group);
            if members.iter().any(|block| self.has(table, *block)) {
                continue;
            }
            let served = |block: &u32| {
                let frame = frame_of(table, self.block(*block)).and_then(|frame| usize::try_from(frame).ok());
                frame.and_then(|frame| serves.get(frame)).copied()
            };
            // The last of the greatest from behind is the first of them.
            let Some(best) = members.iter().rev().copied().max_by_key(served) else { continue };
            self.add(table, self.block(best));
            if let Some(frame) = frame_of(table, self.block(best)) {
                chosen.insert(frame);
            }
        }
        // Which groups each chosen frame has a member of.
        let mut having: Vec<(u32, u32)> = Vec::new();
        for (number, group) in (0..).zip(&alike.groups) {
            let frames = alike.members(group).iter().filter_map(|block| frame_of(table, self.block(*block)));
            let frames = frames.filter(|frame| chosen.contains(*frame));
            having.extend(frames.map(|frame| (u32::try_from(frame).unwrap_or(u32::MAX), number)));
        }
        having.sort_unstable();
        having.dedup();
        for pairs in having.chunk_by(|a, b| a.0 == b.0) {
            let Some(frame) = pairs.first().map(|(frame, _)| u64::from(*frame)) else { continue };
            let has_other = |group: &Range<u32>| {
                let mut frames = alike.members(group).iter().filter_map(|block| frame_of(table, self.block(*block)));
                frames.any(|other| other != frame && self.frames.contains(other))
            };
            let groups = pairs.iter().filter_map(|(_, number)| alike.groups.get(usize::try_from(*number).ok()?));
            if groups.clone().all(has_other) {
                self.remove(table, frame);
            }
        }
    }

    /// How many of `groups` that no frame has so far each frame has a member of.
    fn serves(&self, table: &SeekTable, alike: &Alike, groups: &[Range<u32>]) -> Vec<u32> {
        let mut serves = vec![0_u32; table.frames().len()];
        for members in groups.iter().map(|group| alike.members(group)) {
            if members.iter().any(|block| self.has(table, *block)) {
                continue;
            }
            let mut last = None;
            for frame in members.iter().filter_map(|block| frame_of(table, self.block(*block))) {
                // Members are in order, so those in one frame are neighbours.
                if last != Some(frame)
                    && let Some(count) = usize::try_from(frame).ok().and_then(|frame| serves.get_mut(frame))
                {
                    *count = count.saturating_add(1);
                }
                last = Some(frame);
            }
        }
        serves
    }

    /// The block with this number in the index.
    fn block(&self, number: u32) -> u64 {
        self.first.saturating_add(u64::from(number))
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

    fn has(&self, table: &SeekTable, number: u32) -> bool {
        frame_of(table, self.block(number)).is_some_and(|frame| self.frames.contains(frame))
    }

    /// The blocks that are copies of `block`.
    pub fn copies_of(&self, block: u64) -> impl Iterator<Item = u64> {
        // A block before the first, or so far behind it that it has no number, has no copies.
        let number = block.checked_sub(self.first).and_then(|number| u32::try_from(number).ok());
        let start =
            number.map_or(self.copies.len(), |number| self.copies.partition_point(|(source, _)| *source < number));
        let rest = self.copies.get(start..).unwrap_or_default();
        rest.iter().take_while(move |(source, _)| Some(*source) == number).map(|(_, copy)| self.block(*copy))
    }
}

fn size_of(table: &SeekTable, frame: u64) -> u64 {
    usize::try_from(frame).ok().and_then(|frame| table.frames().get(frame)).map_or(0, |frame| frame.size)
}

fn frame_of(table: &SeekTable, block: u64) -> Option<u64> {
    table.frame_at(block.checked_mul(BLOCK)?).and_then(|frame| u64::try_from(frame).ok())
}

/// Adds the groups of those blocks, whose digests begin alike, that have the same one.
fn by_digest(
    members: impl Iterator<Item = u64>,
    judge: &mut dyn Judge,
    first: u64,
    alike: &mut Alike,
) -> Result<(), TreeError> {
    // Nearly always all of them have.
    let mut groups: Vec<(Option<[u8; 32]>, Vec<u32>)> = Vec::new();
    for block in members {
        let digest = judge.digest(block)?.map(|digest| digest.0);
        let number = u32::try_from(block.saturating_sub(first)).unwrap_or(u32::MAX);
        match groups.iter_mut().find(|(known, _)| *known == digest) {
            Some((_, members)) => members.push(number),
            None => groups.push((digest, vec![number])),
        }
    }
    groups.into_iter().for_each(|(_, members)| alike.push(members));
    Ok(())
}
