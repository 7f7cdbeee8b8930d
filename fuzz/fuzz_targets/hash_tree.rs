//! A hash file on a disk, any bytes or a right one in which a bit may be wrong: its reader gives a digest that the root hash
//! vouches for, or an error; of a right one all digests, of one with a wrong bit those that do not lie below it.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::digest::Digest;
use metalstrap_release::verity::{
    BLOCK_SIZE, DIGESTS_PER_BLOCK, Geometry, Level, MemoryStore, Reader, Tree, unchecked_leaves,
};

const SALT: &[u8] = b"salt";
/// Bits of a block.
const BITS: u64 = 8 * BLOCK_SIZE as u64;

fuzz_target!(|input: (u16, u32, Option<u32>, Vec<u8>)| {
    let (blocks, index, flip, bytes) = input;
    any_bytes(u64::from(blocks), u64::from(index), &bytes);
    // Up to two levels below the top block; of those that have two no more than are quickly hashed.
    let blocks = u64::from(blocks);
    let data_blocks = if blocks & 0x8000 == 0 { 1 + (blocks & 0x7FF) } else { 16_385 + (blocks & 0x7F) };
    let geometry = Geometry::new(data_blocks).unwrap();
    nearly_right(&geometry, u64::from(index) % data_blocks, flip, &bytes);
});

fn any_bytes(data_blocks: u64, index: u64, bytes: &[u8]) {
    // The root hash of whatever lies where the top block is, so that what is below it gets read.
    let top = bytes.get(BLOCK_SIZE..2 * BLOCK_SIZE);
    let root_hash = top.map_or(Digest([0; 32]), |top| Digest::salted(SALT, top));
    let store = MemoryStore::new(bytes.to_vec());
    if let Some(geometry) = Geometry::new(data_blocks) {
        let _ = unchecked_leaves(&store, &geometry, |index, _| assert!(index < data_blocks));
    }
    if let Ok(mut reader) = Reader::new(&store, root_hash, SALT.to_vec(), data_blocks) {
        let first = reader.leaf(index).ok();
        assert!(first.is_none() || index < data_blocks);
        assert_eq!(first, reader.leaf(index).ok());
    }
    let _ = Tree::open(&store, root_hash, SALT.to_vec(), data_blocks);
}

/// The digest that data block `index` is made to have.
fn leaf(seed: &[u8], index: u64) -> [u8; 32] {
    let mut digest = [0; 32];
    digest[..8].copy_from_slice(&index.to_le_bytes());
    digest[8..].iter_mut().zip(seed).for_each(|(to, from)| *to = *from);
    digest
}

/// A right hash file without its superblock's content, and its root hash.
fn right(geometry: &Geometry, seed: &[u8]) -> (Vec<u8>, Digest) {
    let mut file = vec![0; geometry.total_blocks() as usize * BLOCK_SIZE];
    let mut digests: Vec<[u8; 32]> = (0..geometry.data_blocks()).map(|index| leaf(seed, index)).collect();
    for level in geometry.levels().iter().rev() {
        let start = level.start as usize * BLOCK_SIZE;
        let bytes = digests.concat();
        file[start..start + bytes.len()].copy_from_slice(&bytes);
        let blocks = file[start..start + level.blocks as usize * BLOCK_SIZE].chunks(BLOCK_SIZE);
        digests = blocks.map(|block| Digest::salted(SALT, block).0).collect();
    }
    (file, Digest(digests[0]))
}

/// Whether the block `at` of the hash file is on the way from the root hash to the digest of data block `index`.
fn is_above(levels: &[Level], at: u64, index: u64) -> bool {
    let mut number = index;
    levels.iter().rev().any(|level| {
        number /= DIGESTS_PER_BLOCK;
        level.start + number == at
    })
}

fn nearly_right(geometry: &Geometry, index: u64, flip: Option<u32>, seed: &[u8]) {
    let (mut file, root_hash) = right(geometry, seed);
    // The tree over one block of data has no block: its root hash is that block's digest.
    let bits = (geometry.total_blocks() - 1) * BITS;
    let wrong = flip.and_then(|flip| Some(BITS + u64::from(flip).checked_rem(bits)?));
    if let Some(bit) = wrong {
        file[(bit / 8) as usize] ^= 1 << (bit % 8);
    }
    let mut reader = Reader::new(MemoryStore::new(file), root_hash, SALT.to_vec(), geometry.data_blocks()).unwrap();
    let (last, neighbour) = (geometry.data_blocks() - 1, (index + 1) % geometry.data_blocks());
    // The last block that was checked is remembered: what comes after another one is the same.
    for index in [index, neighbour, last, 0, index] {
        let hit = wrong.is_some_and(|bit| is_above(geometry.levels(), bit / BITS, index));
        assert_eq!(reader.leaf(index).ok(), (!hit).then(|| Digest(leaf(seed, index))));
    }
}
