//! The levels of a tree, read through a store and checked up to the root hash.

use uuid::Uuid;

use super::geometry::parent;
use super::store::BlockStore;
use super::{BLOCK_SIZE, Block, Geometry, Superblock, SuperblockError, TreeError};
use crate::digest::{Digest, to_hex};

/// What a tree must be, and the last verified block of each level.
#[derive(Debug, Clone)]
pub(super) struct Levels {
    pub geometry: Geometry,
    pub root_hash: Digest,
    pub salt: Vec<u8>,
    /// What the superblock's UUID must be: the root hash does not vouch for it.
    pub uuid: Option<Uuid>,
    /// For each level the number of the block last verified there, and its bytes. One block a level is enough
    /// for neighbours to cost no read, and keeps memory constant.
    verified: Vec<Option<(u64, Box<Block>)>>,
}

impl Levels {
    pub fn new(root_hash: Digest, salt: Vec<u8>, data_blocks: u64) -> Result<Self, TreeError> {
        let geometry = Geometry::new(data_blocks).ok_or(TreeError::Size(data_blocks))?;
        let verified = geometry.levels().iter().map(|_| None).collect();
        Ok(Self { geometry, root_hash, salt, uuid: None, verified })
    }

    /// Checks block 0 of the hash file.
    pub fn check_superblock(&self, block: &Block) -> Result<(), TreeError> {
        let found = Superblock::parse(block)?;
        let expected = self.geometry.data_blocks();
        if found.data_blocks != expected {
            return Err(SuperblockError::new("data blocks", found.data_blocks, expected).into());
        }
        if found.salt != self.salt {
            return Err(SuperblockError::new("salt", to_hex(&found.salt), to_hex(&self.salt)).into());
        }
        if let Some(expected) = self.uuid.filter(|expected| found.uuid != *expected) {
            return Err(SuperblockError::new("UUID", found.uuid, expected).into());
        }
        Ok(())
    }

    /// Checks block `number` of `level` against the level above, and remembers it as verified.
    pub fn admit<S: BlockStore>(
        &mut self,
        store: &S,
        level: usize,
        number: u64,
        block: Box<Block>,
    ) -> Result<(), TreeError> {
        let expected = self.digest(store, level, number)?;
        let found = Digest::salted(&self.salt, block.as_slice());
        if found != expected {
            let index = self.index(level, number);
            return Err(TreeError::Tree {
                index,
                found,
                expected,
                above: if level == 0 { "root hash" } else { "block above" },
            });
        }
        if let Some(place) = self.verified.get_mut(level) {
            *place = Some((number, block));
        }
        Ok(())
    }

    /// The digest that block `number` of `level` must have, read from the verified level above. The level behind
    /// the last one is the data.
    pub fn digest<S: BlockStore>(&mut self, store: &S, level: usize, number: u64) -> Result<Digest, TreeError> {
        let Some(above) = level.checked_sub(1) else {
            return Ok(self.root_hash);
        };
        let (block_number, entry) = parent(number);
        self.verify(store, above, block_number)?;
        let digests = self.verified.get(above).and_then(Option::as_ref).map(|(_, block)| block.as_chunks::<32>().0);
        let digest = digests.and_then(|digests| digests.get(usize::try_from(entry).ok()?));
        digest
            .map(|digest| Digest(*digest))
            .ok_or_else(|| TreeError::Range { index: number, blocks: self.geometry.data_blocks() })
    }

    /// Makes block `number` of `level` the verified block of its level.
    pub fn verify<S: BlockStore>(&mut self, store: &S, level: usize, number: u64) -> Result<(), TreeError> {
        let known = self.verified.get(level).and_then(Option::as_ref).is_some_and(|(known, _)| *known == number);
        if known {
            return Ok(());
        }
        let index = self.index(level, number);
        let mut block = Box::new([0; BLOCK_SIZE]);
        store.read_block(index, &mut block).map_err(|source| TreeError::Read { index, source })?;
        self.admit(store, level, number, block)
    }

    /// Where block `number` of `level` lies in the hash file.
    fn index(&self, level: usize, number: u64) -> u64 {
        self.geometry.levels().get(level).map_or(0, |place| place.start).saturating_add(number)
    }
}
