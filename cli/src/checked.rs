//! Content that is checked against its hash tree while it is read.

use std::io::{self, Read};

use metalstrap_release::verity::{BLOCK_SIZE, Block, BlockStore, Tree};

/// Reads the data of a tree block by block, and fails at the first block that the tree does not vouch for: what is
/// published is what the tree says, also if the file changes meanwhile.
pub struct Checked<'a, R, S> {
    data: R,
    tree: &'a Tree<S>,
    next: u64,
    block: Box<Block>,
    used: usize,
}

impl<'a, R: Read, S: BlockStore> Checked<'a, R, S> {
    /// The data of `tree`, read from `data`; what lies behind its end is not read.
    pub fn new(data: R, tree: &'a Tree<S>) -> Self {
        Self { data, tree, next: 0, block: Box::new([0; BLOCK_SIZE]), used: BLOCK_SIZE }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.data.read_exact(self.block.as_mut_slice())?;
        self.tree.check(self.next, self.block.as_slice()).map_err(io::Error::other)?;
        self.next += 1;
        self.used = 0;
        Ok(())
    }
}

impl<R: Read, S: BlockStore> Read for Checked<'_, R, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.used == BLOCK_SIZE {
            if self.next == self.tree.geometry().data_blocks() {
                return Ok(0);
            }
            self.fill()?;
        }
        let mut rest = self.block.get(self.used..).unwrap_or_default();
        let count = rest.read(buffer)?;
        self.used += count;
        Ok(count)
    }
}
