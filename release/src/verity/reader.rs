//! Reading digests out of a hash file that may still be in the making: level by level, each through the one above.

use uuid::Uuid;

use super::levels::Levels;
use super::store::BlockStore;
use super::{BLOCK_SIZE, Block, Geometry, Tree, TreeError};
use crate::digest::Digest;

/// Reads digests through the verified levels above them, up to the root hash. Of each level one block is remembered, so
/// neighbours cost no read; keep one reader a thread. The levels above what is asked for must be in the store; what is
/// there is believed only as far as it checks up to the root hash.
#[derive(Debug, Clone)]
pub struct Reader<S> {
    pub(super) store: S,
    pub(super) levels: Levels,
}

impl<S: BlockStore> Reader<S> {
    /// A reader of the tree with this root hash and salt over `data_blocks` blocks, whatever is in `store` so far.
    ///
    /// # Errors
    /// [`TreeError::Size`] when no tree has that many data blocks.
    pub fn new(store: S, root_hash: Digest, salt: Vec<u8>, data_blocks: u64) -> Result<Self, TreeError> {
        Ok(Self { store, levels: Levels::new(root_hash, salt, data_blocks)? })
    }

    /// Which also checks the superblock's UUID, for which no hash vouches.
    #[must_use]
    pub fn with_uuid(mut self, uuid: Uuid) -> Self {
        self.levels.uuid = Some(uuid);
        self
    }

    /// Where the levels lie.
    pub fn geometry(&self) -> &Geometry {
        &self.levels.geometry
    }

    /// The salt.
    pub fn salt(&self) -> &[u8] {
        &self.levels.salt
    }

    /// The digest that block `number` of `level` must have; levels count from the top, and the one behind the last is the
    /// data.
    ///
    /// # Errors
    /// When a level above is not in the store, or not what the root hash vouches for.
    pub fn digest(&mut self, level: usize, number: u64) -> Result<Digest, TreeError> {
        self.levels.digest(&self.store, level, number)
    }

    /// The digest that block `index` of the data must have.
    ///
    /// # Errors
    /// [`TreeError::Range`] when there is no such block; others as [`Reader::digest`].
    pub fn leaf(&mut self, index: u64) -> Result<Digest, TreeError> {
        let blocks = self.levels.geometry.data_blocks();
        if index >= blocks {
            return Err(TreeError::Range { index, blocks });
        }
        self.digest(self.levels.geometry.levels().len(), index)
    }

    /// Checks that `block` is a superblock of this tree (its UUID apart, which nothing vouches for).
    ///
    /// # Errors
    /// Names the field that differs.
    pub fn check_superblock(&self, block: &Block) -> Result<(), TreeError> {
        self.levels.check_superblock(block)
    }

    /// The tree, after every block of the store was checked.
    ///
    /// # Errors
    /// Names the first block that is not what the root hash vouches for.
    pub fn finish(self) -> Result<Tree<S>, TreeError> {
        let Self { store, levels } = self;
        Tree::open(store, levels.root_hash, levels.salt.clone(), levels.geometry.data_blocks())
    }
}

/// Reads the digests of the last level of a hash file without checking them: hints of what a disk may hold.
///
/// # Errors
/// The store's.
pub fn unchecked_leaves(
    store: &impl BlockStore,
    geometry: &Geometry,
    mut each: impl FnMut(u64, Digest),
) -> std::io::Result<()> {
    let Some(level) = geometry.levels().last() else { return Ok(()) };
    let mut block = [0; BLOCK_SIZE];
    for number in 0..level.blocks {
        store.read_block(level.start.saturating_add(number), &mut block)?;
        let first = number.saturating_mul(super::DIGESTS_PER_BLOCK);
        for (index, digest) in (first..geometry.data_blocks()).zip(block.as_chunks::<32>().0) {
            each(index, Digest(*digest));
        }
    }
    Ok(())
}
