//! dm-verity hash trees (being written).

/// Bytes of a block.
pub const BLOCK: u64 = 4096;

/// Where the levels of a tree lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Geometry {
    total: u64,
}

impl Geometry {
    /// The geometry over `data_blocks` blocks; `None` for zero blocks.
    #[must_use]
    pub fn new(data_blocks: u64) -> Option<Self> {
        let mut total = 1;
        let mut n = data_blocks;
        while n > 1 {
            n = n.div_ceil(128);
            total += n;
        }
        (data_blocks > 0).then_some(Self { total })
    }

    /// Blocks of the whole hash file, superblock included.
    #[must_use]
    pub fn total_blocks(&self) -> u64 {
        self.total
    }
}
