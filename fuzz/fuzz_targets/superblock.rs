//! Any block as a superblock: one that is taken encodes to the same bytes.
#![cfg_attr(fuzzing, no_main)]

use metalstrap_fuzz::fuzz_target;
use metalstrap_release::verity::{BLOCK_SIZE, Superblock};

fuzz_target!(|bytes: &[u8]| {
    let mut block = [0; BLOCK_SIZE];
    block.iter_mut().zip(bytes).for_each(|(place, byte)| *place = *byte);
    if let Ok(superblock) = Superblock::parse(&block) {
        assert_eq!(superblock.encode(), block);
    }
});
