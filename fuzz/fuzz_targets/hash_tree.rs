//! Any bytes as a hash file on a disk: its reader gives a digest that the root hash vouches for, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metalstrap_release::digest::Digest;
use metalstrap_release::verity::{BLOCK_SIZE, Geometry, MemoryStore, Reader, Tree, unchecked_leaves};

fuzz_target!(|input: (u16, u32, Vec<u8>)| {
    let (blocks, index, bytes) = input;
    let data_blocks = u64::from(blocks);
    // The root hash of whatever lies where the top block is, so that what is below it gets read.
    let top = bytes.get(BLOCK_SIZE..2 * BLOCK_SIZE);
    let root_hash = top.map_or(Digest([0; 32]), |top| Digest::salted(b"salt", top));
    let store = MemoryStore::new(bytes);
    if let Some(geometry) = Geometry::new(data_blocks) {
        let _ = unchecked_leaves(&store, &geometry, |index, _| assert!(index < data_blocks));
    }
    if let Ok(mut reader) = Reader::new(&store, root_hash, b"salt".to_vec(), data_blocks) {
        let first = reader.leaf(u64::from(index)).ok();
        assert!(first.is_none() || u64::from(index) < data_blocks);
        assert_eq!(first, reader.leaf(u64::from(index)).ok());
    }
    let _ = Tree::open(&store, root_hash, b"salt".to_vec(), data_blocks);
});
