//! Checks that the installed root is what the root hash says, block by block.

use anyhow::{Context, Result};
use metalstrap_release::digest::Digest;
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE, BlockStore, Superblock, Tree};
use uuid::Uuid;

use crate::disks::Partition;

/// PARTUUIDs of the data and of the hash partition: the first and the last 128 bits of the root hash, in the order of
/// their text (Discoverable Partitions Specification).
#[must_use]
pub fn partition_uuids(root_hash: &Digest) -> (Uuid, Uuid) {
    let number = u128::from_be_bytes;
    let (mut first, mut last) = ([0; 16], [0; 16]);
    first.copy_from_slice(root_hash.0.first_chunk::<16>().unwrap_or(&[0; 16]));
    last.copy_from_slice(root_hash.0.last_chunk::<16>().unwrap_or(&[0; 16]));
    (Uuid::from_u128(number(first)), Uuid::from_u128(number(last)))
}

/// Checks the whole hash tree up to `root_hash` and every block of data; returns the number of blocks.
///
/// # Errors
///
/// The first block that is not what it has to be.
pub fn check(data: &Partition, tree: Partition, root_hash: Digest) -> Result<u64> {
    let mut block = [0; BLOCK_SIZE];
    tree.read_block(0, &mut block).context("reading the superblock of the hash tree")?;
    let superblock = Superblock::parse(&block)?;
    let tree = Tree::open(tree, root_hash, superblock.salt, superblock.data_blocks)?;
    for index in 0..superblock.data_blocks {
        data.read_at(index * BLOCK, &mut block).with_context(|| format!("reading data block {index}"))?;
        tree.check(index, &block)?;
    }
    Ok(superblock.data_blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_are_the_ends_of_the_root_hash() {
        let digest: Digest = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef".parse().unwrap();
        let (data, tree) = partition_uuids(&digest);
        assert_eq!(data.to_string(), "00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(tree.to_string(), "01234567-89ab-cdef-0123-456789abcdef");
    }
}
