//! A verified hash tree: which digest each block of data must have.

use std::io;
use std::sync::{Mutex, PoisonError};

use super::levels::Levels;
use super::reader::Reader;
use super::store::BlockStore;
use super::{BLOCK_SIZE, Geometry, SuperblockError};
use crate::digest::Digest;

/// Why a hash tree, or a block of data, is refused.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// No tree is over that many blocks.
    #[error("no hash tree has {0} data blocks")]
    Size(u64),
    /// The salt does not fit the superblock.
    #[error("a salt has at most 256 bytes, not {0}")]
    Salt(usize),
    /// Block 0 is not the superblock that is expected.
    #[error(transparent)]
    Superblock(#[from] SuperblockError),
    /// A block of the tree does not have the digest that the level above, or the root hash, says.
    #[error("hash tree block {index} has digest {found}, but the {above} says {expected}")]
    Tree {
        /// Its index in the hash file.
        index: u64,
        /// Its digest.
        found: Digest,
        /// The digest it must have.
        expected: Digest,
        /// What says so: `root hash` or `block above`.
        above: &'static str,
    },
    /// A block of data does not have the digest that the tree says.
    #[error("block {index} has digest {found}, but the hash tree says {expected}")]
    Data {
        /// Its index in the data.
        index: u64,
        /// Its digest.
        found: Digest,
        /// The digest it must have.
        expected: Digest,
    },
    /// A block of data that is not one.
    #[error("block {index} has {length} bytes, not 4096")]
    Length {
        /// Its index in the data.
        index: u64,
        /// Its bytes.
        length: usize,
    },
    /// A block behind the end of the data.
    #[error("there is no block {index} among {blocks}")]
    Range {
        /// The index asked for.
        index: u64,
        /// Blocks of the data.
        blocks: u64,
    },
    /// The store could not read.
    #[error("reading hash tree block {index}")]
    Read {
        /// Its index in the hash file.
        index: u64,
        /// Why.
        source: io::Error,
    },
    /// The store could not write.
    #[error("writing hash tree block {index}")]
    Write {
        /// Its index in the hash file.
        index: u64,
        /// Why.
        source: io::Error,
    },
    /// The data could not be read while a tree was built over it.
    #[error("reading data block {index}")]
    ReadData {
        /// Its index in the data.
        index: u64,
        /// Why.
        source: io::Error,
    },
}

/// A hash tree that was checked as a whole up to its root hash. Blocks are read from the store when they are needed
/// and checked again then, so neither memory nor trust depends on what the store does meanwhile.
#[derive(Debug)]
pub struct Tree<S> {
    store: S,
    geometry: Geometry,
    salt: Vec<u8>,
    levels: Mutex<Levels>,
}

impl<S: BlockStore> Tree<S> {
    pub(super) fn of(store: S, levels: Levels) -> Self {
        Self { store, geometry: levels.geometry.clone(), salt: levels.salt.clone(), levels: Mutex::new(levels) }
    }

    /// Opens the hash file in `store` and checks every block of it.
    ///
    /// # Errors
    /// Names the first block that is not what the root hash vouches for.
    pub fn open(store: S, root_hash: Digest, salt: Vec<u8>, data_blocks: u64) -> Result<Self, TreeError> {
        let levels = check_all(&store, Levels::new(root_hash, salt, data_blocks)?)?;
        Ok(Self::of(store, levels))
    }

    /// Where its levels lie.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The salt.
    pub fn salt(&self) -> &[u8] {
        &self.salt
    }

    /// Reads every block of the hash file from the store once more, and checks it.
    ///
    /// # Errors
    /// Names the first block that is not what the root hash vouches for.
    pub fn check_again(&self) -> Result<(), TreeError> {
        let levels = Levels::new(self.levels_root(), self.salt.clone(), self.geometry.data_blocks())?;
        check_all(&self.store, levels).map(drop)
    }

    fn levels_root(&self) -> Digest {
        self.levels.lock().unwrap_or_else(PoisonError::into_inner).root_hash
    }

    /// The store that holds it.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// A reader of the tree for one thread, which waits for no other.
    pub fn reader(&self) -> Reader<&S> {
        let levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        Reader { store: &self.store, levels: levels.clone() }
    }

    /// The digest that block `index` of the data must have.
    ///
    /// # Errors
    /// When there is no such block, or the store fails or holds something else by now.
    pub fn leaf_digest(&self, index: u64) -> Result<Digest, TreeError> {
        let blocks = self.geometry.data_blocks();
        if index >= blocks {
            return Err(TreeError::Range { index, blocks });
        }
        let mut levels = self.levels.lock().unwrap_or_else(PoisonError::into_inner);
        levels.digest(&self.store, self.geometry.levels().len(), index)
    }

    /// Checks that `block` is block `index` of the data.
    ///
    /// # Errors
    /// [`TreeError::Data`] when it is not; others as [`Tree::leaf_digest`].
    pub fn check(&self, index: u64, block: &[u8]) -> Result<(), TreeError> {
        if block.len() != BLOCK_SIZE {
            return Err(TreeError::Length { index, length: block.len() });
        }
        let expected = self.leaf_digest(index)?;
        let found = Digest::salted(&self.salt, block);
        if found == expected { Ok(()) } else { Err(TreeError::Data { index, found, expected }) }
    }
}

/// Checks every block of a hash file, from the top.
fn check_all<S: BlockStore>(store: &S, mut levels: Levels) -> Result<Levels, TreeError> {
    let mut block = [0; BLOCK_SIZE];
    store.read_block(0, &mut block).map_err(|source| TreeError::Read { index: 0, source })?;
    levels.check_superblock(&block)?;
    let places: Vec<_> = levels.geometry.levels().to_vec();
    for (level, place) in places.iter().enumerate() {
        (0..place.blocks).try_for_each(|number| levels.verify(store, level, number))?;
    }
    Ok(levels)
}
