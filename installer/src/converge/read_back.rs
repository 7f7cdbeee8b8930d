//! Reading back: what the drive returns is what the hash tree says.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use metalstrap_release::digest::Digest;
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE, BlockStore, Tree};
use sha2::{Digest as _, Sha256};

use crate::disk::Region;
use crate::failure::{Code, WithCode as _};
use crate::progress::Progress;

/// Bytes read at once.
const PIECE: u64 = 1 << 20;

/// Reads the first `blocks` blocks of `region` from the drive, not from the kernel's cache, and checks each against
/// `tree`. What is checked is on stable storage: the disk is flushed first.
///
/// # Errors
/// [`Code::DiskIo`] with the block when the drive returns something else, or fails.
pub async fn read_back<S: BlockStore + 'static>(
    region: &Region,
    tree: &Arc<Tree<S>>,
    blocks: u64,
    progress: &Progress,
) -> Result<()> {
    progress.expect(blocks.saturating_mul(BLOCK));
    check(region, tree, blocks, progress, |_, _| Ok(())).await.map(drop)
}

/// Reads a file of `size` bytes back as [`read_back`] does, as a part of a longer step, which says itself how much there
/// is to do; gives its SHA-256.
pub(crate) async fn check_file<S: BlockStore + 'static>(
    region: &Region,
    tree: &Arc<Tree<S>>,
    size: u64,
    progress: &Progress,
) -> Result<Digest> {
    let mut hash = Sha256::new();
    let each = move |offset: u64, piece: &[u8]| {
        // Without the zeroes up to the end of the last block.
        let rest = usize::try_from(size.saturating_sub(offset))?;
        hash.update(piece.get(..rest).unwrap_or(piece));
        Ok(hash.clone())
    };
    let hash = check(region, tree, size.div_ceil(BLOCK), progress, each).await?;
    Ok(Digest(hash.unwrap_or_default().finalize().into()))
}

/// Reads back, and gives what `each` made of the last piece.
async fn check<S: BlockStore + 'static, T: Send + 'static>(
    region: &Region,
    tree: &Arc<Tree<S>>,
    blocks: u64,
    progress: &Progress,
    mut each: impl FnMut(u64, &[u8]) -> Result<T> + Send + 'static,
) -> Result<Option<T>> {
    let (region, tree, progress) = (region.clone(), Arc::clone(tree), progress.clone());
    let worker = tokio::task::spawn_blocking(move || {
        region.disk.flush().code(Code::DiskIo, || "flushing before reading back".to_owned())?;
        region.disk.forget_cache().code(Code::DiskIo, || "dropping the cache before reading back".to_owned())?;
        let mut last = None;
        each_piece(&region, &tree, blocks, |offset, bytes| {
            last = Some(each(offset, bytes)?);
            progress.advance(u64::try_from(bytes.len())?);
            Ok(())
        })?;
        Ok(last)
    });
    worker.await.context("the thread that reads back ended without a result")?
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
    let mut buffer = vec![0; usize::try_from(PIECE.min(end))?];
    let mut offset = 0;
    while offset < end {
        buffer.truncate(usize::try_from(PIECE.min(end - offset))?);
        region.read_at(offset, &mut buffer).code(Code::DiskIo, || "reading back".to_owned())?;
        for (index, block) in (offset / BLOCK..).zip(buffer.as_chunks::<BLOCK_SIZE>().0) {
            tree.check(index, block).code(Code::DiskIo, || {
                let byte = region.start.saturating_add(index.saturating_mul(BLOCK));
                format!("{} did not keep what was written to it at byte {byte}", region.disk.describe())
            })?;
        }
        each(offset, &buffer)?;
        offset += u64::try_from(buffer.len())?;
    }
    Ok(())
}
