//! A set of blocks: one bit each, which many threads set at once. What a thread has done before it added a block, or took one
//! out, is seen by whoever finds that so: that a write was queued, or that somebody fills a place.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// Some of the blocks of a range.
#[derive(Debug, Default)]
pub struct BlockSet {
    range: Range<u64>,
    words: Vec<AtomicU64>,
}

impl BlockSet {
    /// An empty set of blocks of `range`.
    pub fn new(range: Range<u64>) -> Self {
        let count = range.end.saturating_sub(range.start).div_ceil(64);
        Self { range, words: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The blocks that could be in it.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    fn place(&self, block: u64) -> Option<(&AtomicU64, u64)> {
        let bit = block.checked_sub(self.range.start).filter(|_| block < self.range.end)?;
        Some((self.words.get(usize::try_from(bit / 64).ok()?)?, 1 << (bit % 64)))
    }

    /// Adds `block`; whether it was not there before. A block outside of the range is not added.
    pub fn insert(&self, block: u64) -> bool {
        self.place(block).is_some_and(|(word, bit)| word.fetch_or(bit, Ordering::AcqRel) & bit == 0)
    }

    /// Takes `block` out; whether it was there.
    pub fn remove(&self, block: u64) -> bool {
        self.place(block).is_some_and(|(word, bit)| word.fetch_and(!bit, Ordering::AcqRel) & bit != 0)
    }

    /// Whether `block` is in it.
    pub fn contains(&self, block: u64) -> bool {
        self.place(block).is_some_and(|(word, bit)| word.load(Ordering::Acquire) & bit != 0)
    }

    /// How many blocks are in it.
    pub fn len(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.load(Ordering::Acquire).count_ones())).sum()
    }

    /// Whether no block is in it.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| word.load(Ordering::Acquire) == 0)
    }

    /// Whether every block of the range is in it.
    pub fn is_full(&self) -> bool {
        self.len() == self.range.end.saturating_sub(self.range.start)
    }

    /// The blocks of `within` that are not in it, in order, as runs that are as long as they can be.
    pub fn missing(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        self.runs(within, false)
    }

    /// The blocks of `within` that are in it, likewise.
    pub fn present(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        self.runs(within, true)
    }

    fn runs(&self, within: Range<u64>, wanted: bool) -> impl Iterator<Item = Range<u64>> {
        let end = within.end.min(self.range.end);
        let mut next = within.start.max(self.range.start);
        std::iter::from_fn(move || {
            let start = self.next(next, end, wanted)?;
            next = self.next(start, end, !wanted).unwrap_or(end);
            Some(start..next)
        })
    }

    /// The first block from `from` on that is in the set, or is not, as `wanted` says. Whole words are passed at once.
    fn next(&self, from: u64, end: u64, wanted: bool) -> Option<u64> {
        let mut block = from;
        while block < end {
            let (word, bit) = self.place(block)?;
            let word = word.load(Ordering::Acquire);
            let word = if wanted { word } else { !word };
            // The bits from this block's on.
            let rest = word & !(bit - 1);
            let inside = u64::from(bit.trailing_zeros());
            if rest != 0 {
                let found = block - inside + u64::from(rest.trailing_zeros());
                return (found < end).then_some(found);
            }
            block += 64 - inside;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Runs are what a set of numbers says, and neither touch nor are empty.
        #[test]
        fn runs_are_what_a_plain_set_says(
            start in 0..200_u64, length in 0..300_u64,
            blocks in proptest::collection::btree_set(0..600_u64, 0..200), from in 0..600_u64, to in 0..600_u64,
        ) {
            let set = BlockSet::new(start..start + length);
            let inside: BTreeSet<u64> = blocks.iter().copied().filter(|block| set.range().contains(block)).collect();
            for block in &blocks {
                prop_assert_eq!(set.insert(*block), inside.contains(block));
                prop_assert!(!set.insert(*block));
            }
            prop_assert_eq!(set.len(), inside.len() as u64);
            prop_assert_eq!(set.is_full(), inside.len() as u64 == length);
            let flat = |runs: Vec<Range<u64>>| {
                assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start) && runs.iter().all(|run| !run.is_empty()));
                runs.into_iter().flatten().collect::<Vec<_>>()
            };
            let within = |block: &u64| (from..to).contains(block);
            let present: Vec<_> = inside.iter().copied().filter(within).collect();
            prop_assert_eq!(flat(set.present(from..to).collect()), present);
            let missing: Vec<_> = set.range().filter(|block| within(block) && !inside.contains(block)).collect();
            prop_assert_eq!(flat(set.missing(from..to).collect()), missing);
        }
    }
}
