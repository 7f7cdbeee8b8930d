//! Takes a hash file block by block and writes only what the root hash vouches for.

use super::levels::Levels;
use super::store::BlockStore;
use super::{Block, Tree, TreeError};
use crate::digest::Digest;

/// Writes a hash file in file order. Each block is checked before it is written: the superblock against the expected
/// parameters (its UUID apart, which nothing vouches for), the top block against the root hash, and every other
/// block against the level above, which is read back from the store.
#[derive(Debug)]
pub struct TreeWriter<S> {
    store: S,
    levels: Levels,
    next: u64,
}

impl<S: BlockStore> TreeWriter<S> {
    /// A writer to `store` of the tree with this root hash and salt over `data_blocks` blocks.
    ///
    /// # Errors
    /// [`TreeError::Size`] when no tree has that many data blocks.
    pub fn new(store: S, root_hash: Digest, salt: Vec<u8>, data_blocks: u64) -> Result<Self, TreeError> {
        Ok(Self { store, levels: Levels::new(root_hash, salt, data_blocks)?, next: 0 })
    }

    /// Blocks taken so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.next
    }

    /// Takes the next block of the hash file.
    ///
    /// # Errors
    /// When it is not the block that belongs there (then nothing is written), or when the store fails.
    pub fn push(&mut self, block: &Block) -> Result<(), TreeError> {
        let index = self.next;
        let total = self.levels.geometry.total_blocks();
        if index >= total {
            return Err(TreeError::TooLong { total });
        }
        match self.levels.geometry.place(index) {
            None => self.levels.check_superblock(block)?,
            Some((level, number)) => self.levels.admit(&self.store, level, number, Box::new(*block))?,
        }
        self.store.write_block(index, block).map_err(|source| TreeError::Write { index, source })?;
        self.next += 1;
        Ok(())
    }

    /// The tree, once every block was taken.
    ///
    /// # Errors
    /// [`TreeError::Incomplete`] when blocks are missing.
    pub fn finish(self) -> Result<Tree<S>, TreeError> {
        let total = self.levels.geometry.total_blocks();
        if self.next < total {
            return Err(TreeError::Incomplete { have: self.next, total });
        }
        Ok(Tree::of(self.store, self.levels))
    }
}
