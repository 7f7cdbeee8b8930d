//! Reading back: what the drive returns is what the hash tree says.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use metalstrap_release::digest::Digest;
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE, BlockStore, Tree, TreeError};
use sha2::{Digest as _, Sha256};

use super::blocks::BlockSet;
use super::expected::{Fault, check_each};
use super::scan::find_right;
use super::sweep::{Unreadable, pieces, sweep};
use crate::disk::{Buffer, Region, blocking};
use crate::failure::{Code, WithCode as _};
use crate::progress::Progress;

/// When what was written is read back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadBack {
    /// As far as may be while the network is waited for; the rest later.
    Meanwhile,
    /// All of it later, or not at all.
    Later,
}

/// Bytes read at once.
const PIECE: u64 = 1 << 20;

/// Reads `tree`, which lies at the start of `tree_at`, and the blocks of `region` that are not in `proven`, from the drive, not from
/// the kernel's cache, and checks each. What is checked is on stable storage: the disk is flushed first.
///
/// # Errors
/// [`Code::DiskIo`] with the block when the drive returns something else, or fails.
pub async fn read_back<S: BlockStore + Debug + 'static>(
    region: &Region,
    tree: &Arc<Tree<S>>,
    tree_at: &Region,
    proven: &Arc<BlockSet>,
    progress: &Progress,
) -> Result<()> {
    let (region, tree, proven, progress) = (region.clone(), Arc::clone(tree), Arc::clone(proven), progress.clone());
    let tree_at = tree_at.clone();
    blocking(move || {
        flush_and_forget(&region)?;
        progress.expect(proven.range().end.saturating_sub(proven.len()).saturating_mul(BLOCK));
        tree.check_again().or_else(|error| lost_of_tree(&tree_at, error))?;
        let written = pieces(proven.missing(proven.range()));
        sweep(
            &region,
            Unreadable::Fails,
            written,
            || tree.reader(),
            |bytes| progress.advance(bytes),
            |reader, first, blocks| {
                let blocks = (first..).zip(&*blocks);
                check_each(reader, tree.salt(), blocks, |index, checked| {
                    checked.or_else(|fault| lost(&region, index, fault))
                })
            },
        )
    })
    .await
}

/// Brings all that was written to stable storage.
///
/// # Errors
/// [`Code::DiskIo`].
pub async fn flush(region: &Region) -> Result<()> {
    let disk = Arc::clone(&region.disk);
    blocking(move || disk.flush().code(Code::DiskIo, || "flushing the disk".to_owned())).await
}

fn flush_and_forget(region: &Region) -> Result<()> {
    region.disk.flush().code(Code::DiskIo, || "flushing before reading back".to_owned())?;
    let forgotten = region.disk.forget_cache();
    forgotten.code(Code::DiskIo, || format!("dropping what the kernel keeps of {}", region.disk.describe()))
}

/// A block that came back as another one, or whose digest is not to be had.
pub(super) fn lost(region: &Region, index: u64, fault: Fault) -> Result<()> {
    let error = match fault {
        Fault::Block(error) => error,
        Fault::Tree(error) => {
            return Err(error).code(Code::DiskIo, || format!("reading the hash tree on {}", region.disk.describe()));
        }
    };
    Err(error).code(Code::DiskIo, || did_not_keep(region, index))
}

/// A block of the hash tree at the start of `region` that came back as another one, or that could not be read.
pub(super) fn lost_of_tree<T>(region: &Region, error: TreeError) -> Result<T> {
    let index = match &error {
        TreeError::Tree { index, .. } => Some(*index),
        TreeError::Superblock(_) => Some(0),
        // Where a read failed is in its own error.
        _ => None,
    };
    Err(error).code(Code::DiskIo, || match index {
        Some(index) => did_not_keep(region, index),
        None => format!("reading the hash tree back from {}", region.disk.describe()),
    })
}

fn did_not_keep(region: &Region, index: u64) -> String {
    let byte = region.start.saturating_add(index.saturating_mul(BLOCK));
    format!("{} did not keep the {BLOCK} bytes that were written to it at byte {byte}", region.disk.describe())
}

/// The blocks of `region` that are not what `tree` says, or that the drive cannot read: in order, in runs. Nothing is
/// written. A part of a step, which says itself how much there is to do.
///
/// # Errors
/// [`Code::DiskIo`]: the tree cannot be read.
pub async fn damaged<S: BlockStore + Debug + 'static>(
    region: &Region,
    tree: &Arc<Tree<S>>,
    progress: &Progress,
) -> Result<Vec<Range<u64>>> {
    let (region, tree, progress) = (region.clone(), Arc::clone(tree), progress.clone());
    blocking(move || {
        let blocks = tree.geometry().data_blocks();
        let right = BlockSet::new(0..blocks);
        let all = pieces(std::iter::once(0..blocks));
        find_right(&region, tree.as_ref(), all, &right, |bytes| progress.advance(bytes), |_| ())?;
        Ok(right.missing(0..blocks).collect())
    })
    .await
}

/// Reads a file of `size` bytes back as [`read_back`] does, as a part of a longer step, which says itself how much there
/// is to do; gives its SHA-256.
pub(crate) async fn check_file<S: BlockStore + 'static>(
    region: &Region,
    tree: &Arc<Tree<S>>,
    size: u64,
    progress: &Progress,
) -> Result<Digest> {
    let (region, tree, progress) = (region.clone(), Arc::clone(tree), progress.clone());
    blocking(move || {
        flush_and_forget(&region)?;
        let mut hash = Sha256::new();
        each_piece(&region, &tree, size.div_ceil(BLOCK), |offset, piece| {
            // Without the zeroes up to the end of the last block.
            let rest = usize::try_from(size.saturating_sub(offset))?;
            hash.update(piece.get(..rest).unwrap_or(piece));
            progress.advance(u64::try_from(piece.len())?);
            Ok(())
        })?;
        Ok(Digest(hash.finalize().into()))
    })
    .await
}

/// Reads the first `blocks` blocks of `region` piece by piece and hands each piece, checked, to `each` with its
/// offset. Blocks the thread.
pub(crate) fn each_piece<S: BlockStore>(
    region: &Region,
    tree: &Tree<S>,
    blocks: u64,
    mut each: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let end = blocks.checked_mul(BLOCK).context("more blocks than a disk has")?;
    let mut buffer = Buffer::new(usize::try_from(PIECE.min(end))?);
    let mut reader = tree.reader();
    let mut offset = 0;
    while offset < end {
        buffer.truncate(usize::try_from(PIECE.min(end - offset))?);
        region.read_at(offset, &mut buffer).code(Code::DiskIo, || "reading back".to_owned())?;
        let read = (offset / BLOCK..).zip(buffer.as_chunks::<BLOCK_SIZE>().0);
        check_each(&mut reader, tree.salt(), read, |index, checked| {
            checked.or_else(|fault| lost(region, index, fault))
        })?;
        each(offset, &buffer)?;
        offset += u64::try_from(buffer.len())?;
    }
    Ok(())
}
