//! The data path: a place on the disk becomes what a release says, whatever is there.
//!
//! # Design
//! The hash tree is the index of the download. It comes first ([`hash_tree`], level by level, so that each block of it is
//! known before it is looked for); then [`data`] goes through the content below it:
//!
//! 1. **scan**: blocks that are right in their place stay;
//! 2. blocks of zeroes are made, without being fetched;
//! 3. **seeds**: blocks that are elsewhere on the disk are copied;
//! 4. **needed**: frames that hold the rest, of which none can be left out; a content that is wanted at several places is
//!    fetched once. The fewest there are would be a set cover, which nobody computes: a frame that serves many of those
//!    contents is taken before one that serves few;
//! 5. **round**: several connections fetch ranges of frames and cut them; one thread a processor decodes, checks every
//!    block against its digest, and queues the writes, neighbours together. What came wrong costs its mirror the run,
//!    and is fetched from another one in the next round;
//! 6. **read back**: what was written is read from the device again, as much of it as may be while the network is waited for.
//!
//! Every block is checked before it is written, so what is on the disk is the only state: a run that was killed goes on
//! where it was by looking; the [`budget`] says what is lost. Memory is bounded: blocks are looked at 16 GiB at a time, with
//! one bit for each and, while seeds are looked through, 8 bytes for each missing one (later some 10, and 8, for those alone that
//! others are equal to); buffers come from a pool.
//!
//! Trust comes from the manifest alone: the seek table has its digest there, the hash tree leads up to the root hash
//! there. What a mirror sends can delay an installation or end it with [`Code::Corrupt`], but not reach the disk.
//!
//! [`Code::Corrupt`]: crate::failure::Code::Corrupt

mod ahead;
mod blocks;
mod budget;
mod connection;
mod expected;
mod fill;
mod frames;
mod goal;
mod index;
mod needed;
mod output;
mod read_back;
mod repeats;
mod round;
mod scan;
mod seed;
mod streamed;
mod sweep;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tree;
mod worker;

use std::fmt::Debug;
use std::sync::Arc;

use anyhow::{Result, ensure};
use metalstrap_release::manifest::Payload;
use metalstrap_release::verity::{BLOCK, BlockStore, Tree};

use crate::disk::Region;
use crate::fetch::Mirrors;
use crate::progress::Progress;
pub use ahead::ahead;
pub use blocks::BlockSet;
use expected::Expected;
use fill::fill;
use frames::Frames;
use goal::Goal;
pub use read_back::{ReadBack, damaged, flush, read_back};
pub(crate) use read_back::{check_file, each_piece};
pub use seed::Seed;
pub use tree::{TreeOf, hash_tree};

/// What it took to bring a content to its place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes that came from the mirrors, seek tables included.
    pub fetched_bytes: u64,
    /// Blocks that were right in their place.
    pub kept: u64,
    /// Blocks made of zeroes.
    pub zero: u64,
    /// Blocks copied from elsewhere on the disk, or from another place of the content.
    pub copied: u64,
    /// Blocks that were fetched.
    pub fetched: u64,
}

impl Tally {
    /// Blocks in their place.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.kept.saturating_add(self.written())
    }

    /// The blocks as an event has them.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let Self { kept, zero, copied, fetched, .. } = self;
        serde_json::json!({"kept": kept, "zero": zero, "copied": copied, "fetched": fetched})
    }

    /// Blocks written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.zero.saturating_add(self.copied).saturating_add(self.fetched)
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.fetched_bytes += other.fetched_bytes;
        self.kept += other.kept;
        self.zero += other.zero;
        self.copied += other.copied;
        self.fetched += other.fetched;
    }
}

/// Where a content is fetched from.
#[derive(Debug, Clone, Copy)]
pub struct Payloads<'a> {
    /// In frames of the usual size.
    pub data: &'a Payload,
    /// The same content in smaller frames, for when little of it is missing.
    pub fine: Option<&'a Payload>,
}

/// Makes `region` start with the content that `tree` describes. Gives the blocks that the device itself has returned right,
/// before or since: all others were written, and want to be read back. The caller flushes.
///
/// # Errors
/// [`Code::Corrupt`](crate::failure::Code::Corrupt) with payload, mirror, block and byte offset when no mirror has a
/// block, [`Code::DiskIo`](crate::failure::Code::DiskIo) when the disk or the tree on it fails, and the mirrors'.
pub async fn data<S: BlockStore + Debug + 'static>(
    mirrors: &Arc<Mirrors>,
    payloads: Payloads<'_>,
    tree: &Arc<Tree<S>>,
    region: &Region,
    seeds: &[Seed],
    read_back: ReadBack,
    progress: &Progress,
) -> Result<(Tally, Arc<BlockSet>)> {
    let blocks = tree.geometry().data_blocks();
    for payload in [Some(payloads.data), payloads.fine].into_iter().flatten() {
        ensure!(
            blocks.checked_mul(BLOCK) == Some(payload.content_size),
            "the hash tree is over {blocks} blocks, but the payload has {} bytes",
            payload.content_size
        );
    }
    let expected: Arc<dyn Expected> = Arc::<Tree<S>>::clone(tree);
    let goal = Goal::new(Frames::new(payloads.data, mirrors), region, expected, 0..blocks, progress)?;
    let goal = Goal { reads_back: read_back == ReadBack::Meanwhile, ..goal };
    let fine = payloads.fine.map(|payload| Frames::new(payload, mirrors));
    let proven = Arc::new(BlockSet::new(0..blocks));
    let tally = fill(&goal, fine.as_ref(), seeds, &proven).await?;
    Ok((tally, proven))
}

/// Fetches and checks a payload's seek table and nothing more: whether the payload is there, and as long as it should be.
///
/// # Errors
/// [`Code::Corrupt`](crate::failure::Code::Corrupt) when it is another one, and the mirrors'.
pub async fn check_seek_table(mirrors: &Arc<Mirrors>, payload: &Payload, progress: &Progress) -> Result<()> {
    Frames::new(payload, mirrors).table(progress).await.map(drop)
}
