//! Where a digest is wanted: the missing blocks, sorted by the digest that they must have.
//!
//! An entry is 8 bytes: the first bits of the digest, then the block's number in as many bits as that takes. With the
//! 2^22 blocks that are looked at in one go, 42 bits of the digest stay, so a false match is rare; every match is
//! compared with the whole digest before anything is made of it.

use std::ops::Range;

use metalstrap_release::digest::Digest;
use metalstrap_release::verity::TreeError;

use super::blocks::BlockSet;
use super::expected::Judge;
use super::repeats::Repeats;

/// Blocks whose whole digests are looked up at once, in the order of the content: in the order of digests nearly each of them would
/// read and hash another block of the tree. They take some 10 MB, twice that at worst.
const AT_ONCE: usize = 1 << 17;

/// Missing blocks by digest.
#[derive(Debug)]
pub(crate) struct Index {
    first: u64,
    /// The bits that hold a block's number.
    numbers: u64,
    entries: Vec<u64>,
}

impl Index {
    /// An index of blocks of `range`.
    pub fn new(range: &Range<u64>) -> Self {
        let count = range.end.saturating_sub(range.start);
        let numbers = count.checked_next_power_of_two().map_or(u64::MAX, |power| power.saturating_sub(1));
        Self { first: range.start, numbers, entries: Vec::new() }
    }

    /// Adds a block, which must be of the range. [`Index::sort`] before the first search.
    pub fn add(&mut self, block: u64, digest: &Digest) {
        self.entries.push(self.key(digest) | (block.saturating_sub(self.first) & self.numbers));
    }

    /// Makes it ready for searches.
    pub fn sort(&mut self) {
        self.entries.sort_unstable();
    }

    /// What is left of it where seeds are done with: the blocks that `have` lacks and that others of those must be equal to. What
    /// is wanted at one place only is not looked for any more.
    ///
    /// # Errors
    /// The tree that says what blocks must be cannot be read.
    pub fn into_repeats(self, have: &BlockSet, judge: &mut dyn Judge) -> Result<Repeats, TreeError> {
        self.repeats(have, judge, AT_ONCE)
    }

    fn repeats(&self, have: &BlockSet, judge: &mut dyn Judge, at_once: usize) -> Result<Repeats, TreeError> {
        let mut repeats = Repeats::new(self.first);
        let (mut batch, mut waiting) = (Vec::new(), 0_usize);
        for entries in self.entries.chunk_by(|a, b| a & !self.numbers == b & !self.numbers) {
            let missing = self.missing(entries, have).count();
            if missing < 2 {
                continue;
            }
            // Many that are equal are in order already.
            if entries.len() >= at_once {
                repeats.add(self.missing(entries, have), &mut |block| judge.digest(block))?;
                continue;
            }
            batch.push(entries);
            waiting = waiting.saturating_add(missing);
            if waiting >= at_once {
                self.look_up(&batch, have, judge, &mut repeats)?;
                batch.clear();
                waiting = 0;
            }
        }
        self.look_up(&batch, have, judge, &mut repeats)?;
        repeats.shrink();
        Ok(repeats)
    }

    /// Adds groups whose digests are looked up at once.
    fn look_up(
        &self,
        batch: &[&[u64]],
        have: &BlockSet,
        judge: &mut dyn Judge,
        repeats: &mut Repeats,
    ) -> Result<(), TreeError> {
        let mut blocks: Vec<u64> = batch.iter().flat_map(|entries| self.missing(entries, have)).collect();
        blocks.sort_unstable();
        let digests = blocks.iter().map(|block| judge.digest(*block)).collect::<Result<Vec<_>, _>>()?;
        let known =
            |block: u64| blocks.binary_search(&block).ok().and_then(|place| digests.get(place).copied().flatten());
        for entries in batch {
            repeats.add(self.missing(entries, have), &mut |block| Ok(known(block)))?;
        }
        Ok(())
    }

    /// The blocks of entries that `have` lacks, in order where the entries begin alike.
    fn missing(&self, entries: &[u64], have: &BlockSet) -> impl Iterator<Item = u64> {
        entries.iter().map(|entry| self.block(*entry)).filter(|block| !have.contains(*block))
    }

    fn key(&self, digest: &Digest) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = digest.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h]) & !self.numbers
    }

    fn block(&self, entry: u64) -> u64 {
        self.first.saturating_add(entry & self.numbers)
    }

    /// Blocks that may want this digest, in order.
    pub fn find(&self, digest: &Digest) -> impl Iterator<Item = u64> {
        let key = self.key(digest);
        let start = self.entries.partition_point(|entry| entry & !self.numbers < key);
        let rest = self.entries.get(start..).unwrap_or_default();
        rest.iter().take_while(move |entry| **entry & !self.numbers == key).map(|entry| self.block(*entry))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use metalstrap_release::verity::Block;
    use proptest::prelude::*;

    use super::super::expected::Fault;
    use super::*;

    /// What blocks must be, one after the other.
    struct Says {
        first: u64,
        digests: Vec<Digest>,
    }

    impl Judge for Says {
        fn digest(&mut self, index: u64) -> Result<Option<Digest>, TreeError> {
            Ok(self.digests.get(usize::try_from(index - self.first).unwrap()).copied())
        }

        fn check(&mut self, _: u64, _: &Block, _: Digest) -> Result<(), Fault> {
            unreachable!("nothing is checked here")
        }
    }

    proptest! {
        /// It finds what a plain map finds, also where digests begin alike.
        #[test]
        fn digests_are_found(
            first in any::<u32>(),
            kinds in proptest::collection::vec(0..40_u8, 1..200),
            at_once in 1..60_usize,
        ) {
            let first = u64::from(first);
            let range = first..first + kinds.len() as u64;
            let digest = |kind: u8| {
                let mut bytes = Digest::of(&[kind / 2]).0;
                // Every other one differs in the last byte only.
                bytes[31] = kind;
                Digest(bytes)
            };
            let mut index = Index::new(&range);
            let mut alike: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
            for (block, kind) in range.zip(&kinds) {
                index.add(block, &digest(*kind));
                alike.entry(*kind / 2).or_default().push(block);
            }
            index.sort();
            for kind in 0..44 {
                let found: Vec<u64> = index.find(&digest(kind)).collect();
                prop_assert_eq!(found, alike.get(&(kind / 2)).cloned().unwrap_or_default());
            }
            // Where every third block has come, what is left are those that are equal to another one.
            let have = BlockSet::new(first..first + kinds.len() as u64);
            have.range().step_by(3).for_each(|block| _ = have.insert(block));
            let mut equal: BTreeMap<u8, Vec<u64>> = BTreeMap::new();
            for (block, kind) in have.range().zip(&kinds).filter(|(block, _)| !have.contains(*block)) {
                equal.entry(*kind).or_default().push(block);
            }
            let digests = kinds.iter().map(|kind| digest(*kind)).collect();
            let repeats = index.repeats(&have, &mut Says { first, digests }, at_once).unwrap();
            let groups = |have: &BlockSet| -> Vec<Vec<u64>> {
                let members = |place| repeats.members(place).map(|number| repeats.block(number)).collect::<Vec<u64>>();
                repeats.missing(have).into_iter().map(members).collect()
            };
            let expected = |least: usize| {
                let mut groups: Vec<_> = equal.values().filter(|group| group.len() >= least).cloned().collect();
                groups.sort();
                groups
            };
            prop_assert_eq!(groups(&have), expected(2));
            // The first of each has come since: a group begins behind it, and is none where one block is left.
            expected(1).iter().for_each(|group| _ = have.insert(group[0]));
            let mut rest: Vec<_> = expected(3).into_iter().map(|group| group[1..].to_vec()).collect();
            rest.sort();
            prop_assert_eq!(groups(&have), rest);
        }
    }
}
