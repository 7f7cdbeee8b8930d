//! Builds a hash file as `veritysetup format` does.

use std::io::{BufReader, Read, Seek, SeekFrom, Write};

use uuid::Uuid;

use super::{BLOCK, BLOCK_SIZE, Block, Geometry, Superblock, TreeError};
use crate::digest::Digest;

/// Writes the hash file over the first `data_blocks` blocks of `data` to `out` and returns the root hash. The bytes
/// are those of `veritysetup format --data-block-size=4096 --hash-block-size=4096 --salt=… --uuid=…`. Memory is one
/// block a level.
///
/// # Errors
/// When `data` ends early, when reading or writing fails, or when no tree has that size or salt.
pub fn build(
    data: &mut dyn Read,
    data_blocks: u64,
    salt: &[u8],
    uuid: Uuid,
    out: &mut (impl Write + Seek),
) -> Result<Digest, TreeError> {
    let geometry = Geometry::new(data_blocks).ok_or(TreeError::Size(data_blocks))?;
    let superblock = Superblock::new(uuid, data_blocks, salt).ok_or(TreeError::Salt(salt.len()))?;
    let mut builder = Builder::new(&geometry, salt, out);
    builder.write(0, &superblock.encode())?;
    let mut data = BufReader::with_capacity(1 << 18, data.take(data_blocks * BLOCK));
    let mut block = [0; BLOCK_SIZE];
    for index in 0..data_blocks {
        data.read_exact(&mut block).map_err(|source| TreeError::ReadData { index, source })?;
        builder.add(&block)?;
    }
    builder.finish()
}

/// A level that is being filled: the block in the making and where it will go.
struct Filling {
    block: Box<Block>,
    used: usize,
    next: u64,
}

struct Builder<'a, W> {
    /// Bottom level first: the order in which digests arrive.
    levels: Vec<Filling>,
    salt: &'a [u8],
    out: &'a mut W,
    /// The digest that no level took: after the last block, the root hash.
    top: Option<Digest>,
}

impl<'a, W: Write + Seek> Builder<'a, W> {
    fn new(geometry: &Geometry, salt: &'a [u8], out: &'a mut W) -> Self {
        let empty = |start| Filling { block: Box::new([0; BLOCK_SIZE]), used: 0, next: start };
        let levels = geometry.levels().iter().rev().map(|level| empty(level.start)).collect();
        Self { levels, salt, out, top: None }
    }

    fn write(&mut self, index: u64, block: &Block) -> Result<(), TreeError> {
        let seek = self.out.seek(SeekFrom::Start(index * BLOCK));
        seek.and_then(|_| self.out.write_all(block)).map_err(|source| TreeError::Write { index, source })
    }

    /// Adds a block of data.
    fn add(&mut self, block: &Block) -> Result<(), TreeError> {
        self.put(0, Digest::salted(self.salt, block))
    }

    /// Puts a digest into `level`, and the digest of each block that this fills into the level above.
    fn put(&mut self, mut level: usize, mut digest: Digest) -> Result<(), TreeError> {
        while let Some(filling) = self.levels.get_mut(level) {
            if let Some(place) = filling.block.as_chunks_mut().0.get_mut(filling.used) {
                *place = digest.0;
            }
            filling.used += 1;
            if filling.used < filling.block.as_chunks::<32>().0.len() {
                return Ok(());
            }
            digest = self.close(level)?;
            level += 1;
        }
        self.top = Some(digest);
        Ok(())
    }

    /// Writes the block in the making of `level` and returns its digest.
    fn close(&mut self, level: usize) -> Result<Digest, TreeError> {
        let Some(filling) = self.levels.get_mut(level) else {
            return Err(TreeError::Size(0));
        };
        let block = std::mem::replace(&mut filling.block, Box::new([0; BLOCK_SIZE]));
        let index = filling.next;
        filling.used = 0;
        filling.next += 1;
        self.write(index, &block)?;
        Ok(Digest::salted(self.salt, block.as_slice()))
    }

    /// Closes what is only partly filled, bottom level first, and returns the root hash.
    fn finish(mut self) -> Result<Digest, TreeError> {
        for level in 0..self.levels.len() {
            if self.levels.get(level).is_some_and(|filling| filling.used > 0) {
                let digest = self.close(level)?;
                self.put(level + 1, digest)?;
            }
        }
        self.out.flush().map_err(|source| TreeError::Write { index: 0, source })?;
        self.top.ok_or(TreeError::Size(0))
    }
}
