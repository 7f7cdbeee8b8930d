//! Where the blocks of a hash file are kept.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use super::{BLOCK, BLOCK_SIZE, Block};

/// The blocks of one hash file; index 0 is the superblock.
pub trait BlockStore: Send + Sync {
    /// Reads block `index`.
    ///
    /// # Errors
    /// When it cannot be read, also because it lies behind the end.
    fn read_block(&self, index: u64, block: &mut Block) -> io::Result<()>;

    /// Writes block `index`.
    ///
    /// # Errors
    /// When it cannot be written.
    fn write_block(&self, index: u64, block: &Block) -> io::Result<()>;
}

impl<S: BlockStore + ?Sized> BlockStore for &S {
    fn read_block(&self, index: u64, block: &mut Block) -> io::Result<()> {
        (**self).read_block(index, block)
    }

    fn write_block(&self, index: u64, block: &Block) -> io::Result<()> {
        (**self).write_block(index, block)
    }
}

impl<S: BlockStore + ?Sized> BlockStore for Arc<S> {
    fn read_block(&self, index: u64, block: &mut Block) -> io::Result<()> {
        (**self).read_block(index, block)
    }

    fn write_block(&self, index: u64, block: &Block) -> io::Result<()> {
        (**self).write_block(index, block)
    }
}

/// A file that holds nothing but the hash file.
impl BlockStore for File {
    fn read_block(&self, index: u64, block: &mut Block) -> io::Result<()> {
        self.read_exact_at(block, offset(index)?)
    }

    fn write_block(&self, index: u64, block: &Block) -> io::Result<()> {
        self.write_all_at(block, offset(index)?)
    }
}

fn offset(index: u64) -> io::Result<u64> {
    index.checked_mul(BLOCK).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}

/// A hash file in memory: for small artifacts and tests.
#[derive(Debug, Default)]
pub struct MemoryStore(Mutex<Vec<u8>>);

impl MemoryStore {
    /// A store that holds `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Mutex::new(bytes))
    }

    /// How many bytes it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes written so far.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockStore for MemoryStore {
    fn read_block(&self, index: u64, block: &mut Block) -> io::Result<()> {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset(index)?).map_err(io::Error::other)?;
        let found = bytes.get(start..).and_then(<[u8]>::first_chunk);
        *block = *found.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        Ok(())
    }

    fn write_block(&self, index: u64, block: &Block) -> io::Result<()> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset(index)?).map_err(io::Error::other)?;
        let end = start.checked_add(BLOCK_SIZE).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        if let Some(place) = bytes.get_mut(start..end) {
            place.copy_from_slice(block);
        }
        Ok(())
    }
}
