//! The data path: frames of a payload come in as one ranged stream, and every block is checked against its hash tree
//! before it is written.
//!
//! # Design
//! A payload goes through two stages with a bounded channel between them: the source receives on the runtime; one
//! blocking thread cuts the stream into frames, decodes, checks and writes. Memory is the channel, one frame before
//! and after decoding and one write, whatever the size of the payload.
//!
//! Trust comes from the manifest alone: the seek table has its digest there, the hash tree leads up to the root hash
//! there, and each block is compared with its leaf digest. What a mirror sends can delay an installation or end it
//! with [`Code::Corrupt`], but not reach the disk.

mod merge;
mod payload;
mod read_back;
mod stream;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::Payload;
use metalstrap_release::payload::Frame;
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE, BlockStore, Tree, TreeError, TreeWriter};

use crate::disk::Region;
use crate::failure::{Code, WithCode as _};
use crate::fetch::Source;
use crate::progress::Progress;
use merge::Merge;
use payload::Origin;
pub use payload::check_seek_table;
pub use read_back::read_back;
pub(crate) use read_back::{check_file, each_piece};

/// What a payload cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes that came from the source, seek table included.
    pub fetched_bytes: u64,
    /// Bytes written to the disk.
    pub written_bytes: u64,
    /// Blocks found right.
    pub blocks: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.fetched_bytes += other.fetched_bytes;
        self.written_bytes += other.written_bytes;
        self.blocks += other.blocks;
    }
}

/// Fetches the hash file that `payload` is into `store`. Each of its blocks is written only after it was found to
/// be what `root_hash` vouches for. `data_blocks` is the number of blocks below the tree.
///
/// # Errors
/// [`Code::Corrupt`] when the payload is not this tree, [`Code::DiskIo`] when the store fails, and the source's.
pub async fn hash_tree<S: BlockStore + 'static>(
    source: &dyn Source,
    payload: &Payload,
    store: S,
    root_hash: Digest,
    salt: Vec<u8>,
    data_blocks: u64,
    progress: &Progress,
) -> Result<Tree<S>> {
    progress.expect(payload.content_size);
    place_tree(source, payload, store, root_hash, salt, data_blocks, progress).await
}

/// [`hash_tree`] as a part of a longer step, which says itself how much there is to do.
pub(crate) async fn place_tree<S: BlockStore + 'static>(
    source: &dyn Source,
    payload: &Payload,
    store: S,
    root_hash: Digest,
    salt: Vec<u8>,
    data_blocks: u64,
    progress: &Progress,
) -> Result<Tree<S>> {
    let origin = Origin::new(source, payload);
    let writer = TreeWriter::new(store, root_hash, salt, data_blocks).with_context(|| origin.to_string())?;
    let told = progress.clone();
    let (writer, _) = payload::frames(source, payload, progress, writer, move |writer, origin, frame, content| {
        for (index, block) in blocks(frame, content) {
            let pushed = writer.push(block);
            accept(origin, index, pushed, |error| !matches!(error, TreeError::Read { .. } | TreeError::Write { .. }))?;
        }
        told.advance(frame.content_size);
        Ok(())
    })
    .await?;
    writer.finish().code(Code::Corrupt, || format!("{origin} is not whole"))
}

/// Fetches `payload` to the start of `region`. Each block is written only after it was found to be the one that
/// `tree` says; of a frame with a wrong block nothing is written. The caller flushes.
///
/// # Errors
/// [`Code::Corrupt`] with payload, mirror, block and byte offset when a block is wrong, [`Code::DiskIo`] when the
/// disk or the tree on it fails, and the source's.
pub async fn data<S: BlockStore + 'static>(
    source: &dyn Source,
    payload: &Payload,
    tree: &Arc<Tree<S>>,
    region: &Region,
    progress: &Progress,
) -> Result<Tally> {
    progress.expect(payload.content_size);
    place(source, payload, tree, region, progress).await
}

/// [`data`] as a part of a longer step, which says itself how much there is to do.
pub(crate) async fn place<S: BlockStore + 'static>(
    source: &dyn Source,
    payload: &Payload,
    tree: &Arc<Tree<S>>,
    region: &Region,
    progress: &Progress,
) -> Result<Tally> {
    check_sizes(payload, tree, region)?;
    let (told, tree) = (progress.clone(), Arc::clone(tree));
    let merge = Merge::new(region.clone());
    let (mut merge, fetched_bytes) =
        payload::frames(source, payload, progress, merge, move |merge, origin, frame, content| {
            for (index, block) in blocks(frame, content) {
                accept(origin, index, tree.check(index, block), |error| matches!(error, TreeError::Data { .. }))?;
            }
            merge.push(frame.content_offset, content)?;
            told.advance(frame.content_size);
            Ok(())
        })
        .await?;
    // The rest of less than one write: too short to be worth a thread of its own.
    merge.finish()?;
    Ok(Tally { fetched_bytes, written_bytes: merge.written(), blocks: payload.content_size / BLOCK })
}

/// A tree over as many blocks as the payload has, and room for them: what the manifest's and the plan's checks say,
/// looked at once more before the first write.
fn check_sizes<S: BlockStore>(payload: &Payload, tree: &Tree<S>, region: &Region) -> Result<()> {
    let blocks = tree.geometry().data_blocks();
    ensure!(
        blocks.checked_mul(BLOCK) == Some(payload.content_size),
        "the hash tree is over {blocks} blocks, but the payload has {} bytes",
        payload.content_size
    );
    ensure!(
        payload.content_size <= region.size,
        "the payload has {} bytes, but its place on the disk {}",
        payload.content_size,
        region.size
    );
    Ok(())
}

/// The blocks of a frame, with their indices in the content.
fn blocks<'a>(frame: &Frame, content: &'a [u8]) -> impl Iterator<Item = (u64, &'a [u8; BLOCK_SIZE])> {
    (frame.content_offset / BLOCK..).zip(content.as_chunks().0)
}

/// Says what a block that the tree did not take means: what came is wrong, or the disk that holds the tree fails.
fn accept(origin: &Origin, index: u64, checked: Result<(), TreeError>, corrupt: fn(&TreeError) -> bool) -> Result<()> {
    match &checked {
        Ok(()) => Ok(()),
        Err(error) if corrupt(error) => {
            let byte = index.saturating_mul(BLOCK);
            checked.code(Code::Corrupt, || format!("{origin} is corrupt at byte {byte} of its content"))
        }
        Err(_) => checked.code(Code::DiskIo, || format!("checking {origin}")),
    }
}
