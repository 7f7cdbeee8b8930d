//! Where a digest is wanted: the missing blocks, sorted by the digest that they must have.
//!
//! An entry is 8 bytes: the first bits of the digest, then the block's number in as many bits as that takes. With the
//! 2^22 blocks that are looked at in one go, 42 bits of the digest stay, so a false match is rare; every match is
//! compared with the whole digest before anything is made of it.

use std::ops::Range;

use metalstrap_release::digest::Digest;

use super::blocks::BlockSet;

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

    /// Forgets the blocks that are in `have`, and those that no other one of the rest may be equal to: where seeds are done
    /// with, what is wanted at one place only is not looked for any more. Gives the memory back.
    pub fn keep_repeats(&mut self, have: &BlockSet) {
        let (first, numbers) = (self.first, self.numbers);
        self.entries.retain(|entry| !have.contains(first.saturating_add(entry & numbers)));
        let repeated = BlockSet::new(0..u64::try_from(self.entries.len()).unwrap_or(u64::MAX));
        let mut place = 0_u64;
        for group in self.entries.chunk_by(|a, b| a & !numbers == b & !numbers) {
            let end = place.saturating_add(u64::try_from(group.len()).unwrap_or(u64::MAX));
            if group.len() > 1 {
                (place..end).for_each(|place| _ = repeated.insert(place));
            }
            place = end;
        }
        let mut places = 0..;
        self.entries.retain(|_| places.next().is_some_and(|place| repeated.contains(place)));
        self.entries.shrink_to_fit();
    }

    /// The first block that it may have.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// How many blocks it has.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.entries.len()
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

    /// Blocks that may want the same digest, group by group, each in order.
    pub fn groups(&self) -> impl Iterator<Item = impl Iterator<Item = u64> + Clone> {
        self.entries
            .chunk_by(|a, b| a & !self.numbers == b & !self.numbers)
            .map(|group| group.iter().map(|entry| self.block(*entry)))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// It finds what a plain map finds, also where digests begin alike.
        #[test]
        fn digests_are_found(first in any::<u32>(), kinds in proptest::collection::vec(0..40_u8, 1..200)) {
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
            let mut groups: Vec<Vec<u64>> = index.groups().map(Iterator::collect).collect();
            groups.sort();
            let mut expected: Vec<Vec<u64>> = alike.into_values().collect();
            expected.sort();
            prop_assert_eq!(&groups, &expected);
            prop_assert_eq!(index.len(), kinds.len());
            // Where every third block has come, what is left are those that look like another one.
            let have = BlockSet::new(first..first + kinds.len() as u64);
            have.range().step_by(3).for_each(|block| _ = have.insert(block));
            index.keep_repeats(&have);
            let mut groups: Vec<Vec<u64>> = index.groups().map(Iterator::collect).collect();
            groups.sort();
            expected.iter_mut().for_each(|group| group.retain(|block| !have.contains(*block)));
            expected.retain(|group| group.len() > 1);
            expected.sort();
            prop_assert_eq!(groups, expected);
        }
    }
}
