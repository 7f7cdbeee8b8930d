//! Which frames have to be fetched for the blocks that are missing, and which missing blocks are then copies of others.
//!
//! Half of an image may be blocks that its other half has too, so all that is kept of equal blocks is flat: beside the 4 bytes
//! that [`Repeats`] has of each, some 6 while frames are chosen, of which 4 stay for what is to be copied.

use std::cmp::Reverse;

use metalstrap_release::payload::SeekTable;
use metalstrap_release::verity::BLOCK;

use super::blocks::BlockSet;
use super::repeats::Repeats;

/// What is to be fetched.
#[derive(Debug, Default)]
pub(crate) struct Needed {
    /// Frames, by their number in the seek table.
    pub frames: BlockSet,
    /// Missing blocks outside of these frames: (block inside of one that has the same content, block), sorted, counted from
    /// the first block that repeats are counted from.
    copies: Vec<(u32, u32)>,
    /// That block.
    first: u64,
    /// Bytes of the frames.
    pub bytes: u64,
}

/// Groups of missing blocks that must have the same content.
struct Alike<'a> {
    repeats: &'a Repeats,
    have: &'a BlockSet,
    /// Where each of them begins, in the order of the content: the choice does not depend on digests.
    groups: Vec<u32>,
}

impl<'a> Alike<'a> {
    fn new(repeats: &'a Repeats, have: &'a BlockSet) -> Self {
        Self { repeats, have, groups: repeats.missing(have) }
    }

    /// The missing blocks of a group, in order.
    fn members(&self, group: u32) -> impl Iterator<Item = u64> {
        let blocks = self.repeats.members(group).map(move |number| self.repeats.block(number));
        blocks.filter(move |block| !self.have.contains(*block))
    }

    /// The frames that have them, one after the other.
    fn frames(&self, table: &SeekTable, group: u32) -> impl Iterator<Item = u64> {
        self.members(group).filter_map(move |block| frame_of(table, block))
    }
}

impl Needed {
    /// The frames for every block that is not in `have`: of them none can be left out. A block whose content is missing at
    /// several places is needed from one frame only: one that is needed anyway, else one that has most of such contents, the
    /// first of them. `repeats` has the missing blocks that are equal to others; all others need their own frame.
    pub fn new(table: &SeekTable, have: &BlockSet, repeats: &Repeats) -> Self {
        let count = u64::try_from(table.frames().len()).unwrap_or(u64::MAX);
        let (frames, first) = (BlockSet::new(0..count), repeats.block(0));
        let mut needed = Self { frames, first, ..Self::default() };
        let (alike, grouped) = (Alike::new(repeats, have), BlockSet::new(have.range()));
        let members = alike.groups.iter().flat_map(|group| alike.members(*group));
        members.for_each(|block| _ = grouped.insert(block));
        let alone = have.missing(have.range()).flatten().filter(|block| !grouped.contains(*block));
        alone.for_each(|block| needed.add(table, block));
        needed.choose(table, &alike);
        for group in &alike.groups {
            let source = alike.members(*group).find(|block| needed.has(table, *block));
            let Some(source) = source.and_then(|block| repeats.number(block)) else { continue };
            for block in alike.members(*group) {
                let outside = repeats.number(block).filter(|_| !needed.has(table, block));
                needed.copies.extend(outside.map(|block| (source, block)));
            }
        }
        needed.copies.sort_unstable();
        needed
    }

    /// Adds a frame for each group of equal blocks that no frame has so far, and takes those away again that turn out to
    /// be needed for no group.
    fn choose(&mut self, table: &SeekTable, alike: &Alike<'_>) {
        let chosen = BlockSet::new(self.frames.range());
        let serves = self.serves(table, alike);
        for group in &alike.groups {
            if alike.frames(table, *group).any(|frame| self.frames.contains(frame)) {
                continue;
            }
            let served = |frame: &u64| usize::try_from(*frame).ok().and_then(|frame| serves.get(frame)).copied();
            // The first of the greatest.
            let Some(best) = alike.frames(table, *group).min_by_key(|frame| Reverse(served(frame))) else { continue };
            self.add_frame(table, best);
            chosen.insert(best);
        }
        // Which groups each chosen frame has a member of.
        let mut having: Vec<(u32, u32)> = Vec::new();
        for group in &alike.groups {
            let frames = alike.frames(table, *group).filter(|frame| chosen.contains(*frame));
            having.extend(frames.map(|frame| (u32::try_from(frame).unwrap_or(u32::MAX), *group)));
        }
        having.sort_unstable();
        having.dedup();
        for pairs in having.chunk_by(|a, b| a.0 == b.0) {
            let Some(frame) = pairs.first().map(|(frame, _)| u64::from(*frame)) else { continue };
            let is_other = |other: u64| other != frame && self.frames.contains(other);
            if pairs.iter().all(|(_, group)| alike.frames(table, *group).any(is_other)) {
                self.remove(table, frame);
            }
        }
    }

    /// How many of the groups that no frame has so far each frame has a member of.
    fn serves(&self, table: &SeekTable, alike: &Alike<'_>) -> Vec<u32> {
        let mut serves = vec![0_u32; table.frames().len()];
        for group in &alike.groups {
            if alike.frames(table, *group).any(|frame| self.frames.contains(frame)) {
                continue;
            }
            let mut last = None;
            for frame in alike.frames(table, *group) {
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

    fn add(&mut self, table: &SeekTable, block: u64) {
        if let Some(frame) = frame_of(table, block) {
            self.add_frame(table, frame);
        }
    }

    fn add_frame(&mut self, table: &SeekTable, frame: u64) {
        if self.frames.insert(frame) {
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

    /// The blocks that are copies of `block`.
    pub fn copies_of(&self, block: u64) -> impl Iterator<Item = u64> {
        // A block before the first, or so far behind it that it has no number, has no copies.
        let number = block.checked_sub(self.first).and_then(|number| u32::try_from(number).ok());
        let start =
            number.map_or(self.copies.len(), |number| self.copies.partition_point(|(source, _)| *source < number));
        let rest = self.copies.get(start..).unwrap_or_default();
        rest.iter()
            .take_while(move |(source, _)| Some(*source) == number)
            .map(|(_, copy)| self.first.saturating_add(u64::from(*copy)))
    }
}

fn size_of(table: &SeekTable, frame: u64) -> u64 {
    usize::try_from(frame).ok().and_then(|frame| table.frames().get(frame)).map_or(0, |frame| frame.size)
}

fn frame_of(table: &SeekTable, block: u64) -> Option<u64> {
    table.frame_at(block.checked_mul(BLOCK)?).and_then(|frame| u64::try_from(frame).ok())
}
