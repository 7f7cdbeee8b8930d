//! dm-verity hash trees: hash type 1, SHA-256, blocks of 4096 bytes.
//!
//! A *hash file* is what `veritysetup format` writes and what a hash partition holds: the superblock in block 0,
//! then the levels of the tree, top level first. Everything here works block by block through [`BlockStore`], so
//! memory does not grow with the image: a block that is needed again is read back and checked again up to the
//! root hash.
//!
//! Sources: cryptsetup `lib/verity/verity.c` and `verity_hash.c`; the kernel's
//! Documentation/admin-guide/device-mapper/verity.rst.

mod build;
mod geometry;
mod levels;
mod reader;
mod store;
mod superblock;
mod tree;

pub use build::build;
pub use geometry::{Geometry, Level, MAX_DATA_BLOCKS};
pub use reader::{Reader, unchecked_leaves};
pub use store::{BlockStore, MemoryStore};
pub use superblock::{MAX_SALT, Superblock, SuperblockError};
pub use tree::{Tree, TreeError};

/// Bytes of a block, for offsets in files.
pub const BLOCK: u64 = 4096;
/// Bytes of a block, for buffers.
pub const BLOCK_SIZE: usize = 4096;
/// One block of data or of the hash file.
pub type Block = [u8; BLOCK_SIZE];
/// Digests in a block of the tree.
pub const DIGESTS_PER_BLOCK: u64 = 128;
/// log2 of [`DIGESTS_PER_BLOCK`].
const DIGEST_BITS: u32 = 7;

#[cfg(test)]
mod tests;
