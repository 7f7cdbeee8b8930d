//! Where the levels of a tree lie.

use super::{DIGEST_BITS, DIGESTS_PER_BLOCK};

/// No tree is larger (16 TiB of data): keeps every product of block numbers far from overflow.
pub const MAX_DATA_BLOCKS: u64 = 1 << 32;

/// Where the levels of the tree over a number of data blocks lie in its hash file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    data_blocks: u64,
    levels: Vec<Level>,
}

/// One level of a tree: blocks in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Its first block in the hash file (block 0 is the superblock).
    pub start: u64,
    /// How many blocks it has.
    pub blocks: u64,
}

impl Geometry {
    /// The geometry over `data_blocks` blocks; `None` for zero blocks and for more than [`MAX_DATA_BLOCKS`].
    #[must_use]
    pub fn new(data_blocks: u64) -> Option<Self> {
        if data_blocks == 0 || data_blocks > MAX_DATA_BLOCKS {
            return None;
        }
        // One data block has no level at all: its digest is the root hash.
        let mut sizes = Vec::new();
        let mut blocks = data_blocks;
        while blocks > 1 {
            blocks = blocks.div_ceil(DIGESTS_PER_BLOCK);
            sizes.push(blocks);
        }
        let mut start = 1;
        let levels = sizes.into_iter().rev().map(|blocks| {
            let level = Level { start, blocks };
            start += blocks;
            level
        });
        Some(Self { data_blocks, levels: levels.collect() })
    }

    /// Blocks of the data.
    #[must_use]
    pub fn data_blocks(&self) -> u64 {
        self.data_blocks
    }

    /// Blocks of the whole hash file, superblock included.
    #[must_use]
    pub fn total_blocks(&self) -> u64 {
        1 + self.levels.iter().map(|level| level.blocks).sum::<u64>()
    }

    /// The levels in file order: the top one (a single block) first, the one with the leaf digests last.
    #[must_use]
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }
}

/// The block of the level above that holds the digest of block `number`, and the entry there.
pub(super) fn parent(number: u64) -> (u64, u64) {
    (number >> DIGEST_BITS, number % DIGESTS_PER_BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(data_blocks: u64) -> Vec<(u64, u64)> {
        Geometry::new(data_blocks).unwrap().levels().iter().map(|level| (level.start, level.blocks)).collect()
    }

    #[test]
    fn levels_lie_top_first() {
        assert_eq!(levels(1), []);
        assert_eq!(levels(2), [(1, 1)]);
        assert_eq!(levels(128), [(1, 1)]);
        assert_eq!(levels(129), [(1, 1), (2, 2)]);
        assert_eq!(levels(16384), [(1, 1), (2, 128)]);
        assert_eq!(levels(16385), [(1, 1), (2, 2), (4, 129)]);
        assert_eq!(Geometry::new(16385).unwrap().total_blocks(), 133);
        assert_eq!(Geometry::new(1).unwrap().total_blocks(), 1);
    }

    #[test]
    fn nothing_and_too_much_are_refused() {
        assert_eq!(Geometry::new(0), None);
        assert_eq!(Geometry::new(u64::MAX), None);
        assert_eq!(Geometry::new(MAX_DATA_BLOCKS + 1), None);
        assert_eq!(Geometry::new(MAX_DATA_BLOCKS).unwrap().total_blocks(), 1 + 1 + 16 + 2048 + (1 << 18) + (1 << 25));
    }
}
