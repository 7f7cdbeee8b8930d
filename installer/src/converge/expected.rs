//! What each block of a payload's content must be.

use std::fmt::Debug;

use anyhow::Result;
use metalstrap_release::digest::Digest;
use metalstrap_release::verity::{Block, BlockStore, Reader, Tree, TreeError};

use crate::disk::Region;

/// Knows what the blocks of a content must be.
pub(crate) trait Expected: Send + Sync + Debug {
    /// A reader for one thread.
    fn reader(&self) -> Box<dyn Judge + '_>;

    /// What stands before a block when its digest is taken.
    fn salt(&self) -> &[u8];
}

/// Says what one block after the other must be.
pub(crate) trait Judge {
    /// The digest that block `index` of the content must have; `None` where something else than a digest decides.
    ///
    /// # Errors
    /// The tree that says it cannot be read, or is not what the root hash vouches for.
    fn digest(&mut self, index: u64) -> Result<Option<Digest>, TreeError>;

    /// Checks that `block`, whose digest is `found`, is block `index` of the content.
    ///
    /// # Errors
    /// [`Fault::Block`] when it is not, [`Fault::Tree`] when nobody can tell.
    fn check(&mut self, index: u64, block: &Block, found: Digest) -> Result<(), Fault>;
}

/// Hashes blocks and tells `each` whether they are what they must be, in order; its first error ends it.
///
/// # Errors
/// Those of `each`.
pub(super) fn check_each<'a>(
    judge: &mut (impl Judge + ?Sized),
    salt: &[u8],
    blocks: impl IntoIterator<Item = (u64, &'a Block)>,
    mut each: impl FnMut(u64, Result<(), Fault>) -> Result<()>,
) -> Result<()> {
    Digest::salted_each(salt, blocks, |index, block, found| each(index, judge.check(index, block, found)))
}

/// Why a block was not found right.
#[derive(Debug)]
pub(crate) enum Fault {
    /// It is another one.
    Block(TreeError),
    /// The tree that says what it must be cannot be read.
    Tree(TreeError),
}

/// The blocks of a file system or a file, below their hash tree.
impl<S: BlockStore + Debug> Expected for Tree<S> {
    fn reader(&self) -> Box<dyn Judge + '_> {
        Box::new(Tree::reader(self))
    }

    fn salt(&self) -> &[u8] {
        Tree::salt(self)
    }
}

impl<S: BlockStore> Judge for Reader<S> {
    fn digest(&mut self, index: u64) -> Result<Option<Digest>, TreeError> {
        self.leaf(index).map(Some)
    }

    fn check(&mut self, index: u64, _: &Block, found: Digest) -> Result<(), Fault> {
        let expected = self.leaf(index).map_err(Fault::Tree)?;
        if found == expected { Ok(()) } else { Err(Fault::Block(TreeError::Data { index, found, expected })) }
    }
}

/// The blocks of one level of a hash file whose upper levels are in their place already; without a level, its superblock.
#[derive(Debug)]
pub(super) struct Level {
    pub reader: Reader<Region>,
    /// Counted from the top; `None`: the superblock.
    pub level: Option<usize>,
}

impl Level {
    /// Which block of the level lies at block `index` of the hash file.
    fn number(&self, level: usize, index: u64) -> u64 {
        let start = self.reader.geometry().levels().get(level).map_or(0, |place| place.start);
        index.saturating_sub(start)
    }
}

impl Expected for Level {
    fn reader(&self) -> Box<dyn Judge + '_> {
        Box::new(Self { reader: self.reader.clone(), level: self.level })
    }

    fn salt(&self) -> &[u8] {
        self.reader.salt()
    }
}

impl Judge for Level {
    fn digest(&mut self, index: u64) -> Result<Option<Digest>, TreeError> {
        let Some(level) = self.level else { return Ok(None) };
        let number = self.number(level, index);
        self.reader.digest(level, number).map(Some)
    }

    fn check(&mut self, index: u64, block: &Block, found: Digest) -> Result<(), Fault> {
        let Some(expected) = self.digest(index).map_err(Fault::Tree)? else {
            return self.reader.check_superblock(block).map_err(Fault::Block);
        };
        if found == expected {
            return Ok(());
        }
        let above = if self.level == Some(0) { "root hash" } else { "block above" };
        Err(Fault::Block(TreeError::Tree { index, found, expected, above }))
    }
}
