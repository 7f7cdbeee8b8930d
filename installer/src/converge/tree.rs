//! The hash tree: level by level from the top, so that every block of it is known before it is looked for.

use std::sync::Arc;

use anyhow::Result;
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::Payload;
use metalstrap_release::verity::{BLOCK, Reader, Tree};
use uuid::Uuid;

use super::Tally;
use super::blocks::BlockSet;
use super::expected::Level;
use super::fill::fill;
use super::frames::Frames;
use super::goal::{Goal, payload_path};
use super::read_back::lost_of_tree;
use super::seed::Seed;
use crate::disk::{Region, blocking};
use crate::failure::{Code, WithCode as _};
use crate::fetch::Mirrors;
use crate::progress::Progress;

/// Which tree.
#[derive(Debug, Clone)]
pub struct TreeOf<'a> {
    /// The payload that holds its hash file.
    pub payload: &'a Payload,
    /// Its root hash.
    pub root_hash: Digest,
    /// Its salt.
    pub salt: &'a [u8],
    /// Blocks of the data below it.
    pub data_blocks: u64,
    /// The UUID in its superblock; `None` for a tree that is not written to a disk, whose UUID is of no matter.
    pub uuid: Option<Uuid>,
}

/// Makes `region` start with the hash file of a tree: blocks that check up to the root hash stay, those that `seeds` have
/// are copied, the others are fetched. Nothing is written for which root hash, salt, size and UUID do not vouch.
///
/// # Errors
/// [`Code::Corrupt`] when no mirror has the tree, [`Code::DiskIo`] when the disk fails, and the mirrors'.
pub async fn hash_tree(
    mirrors: &Arc<Mirrors>,
    tree: TreeOf<'_>,
    region: &Region,
    seeds: &[Seed],
    progress: &Progress,
) -> Result<(Tree<Region>, Tally)> {
    let reader = Reader::new(region.clone(), tree.root_hash, tree.salt.to_vec(), tree.data_blocks);
    let reader = reader.code(Code::Corrupt, || payload_path(tree.payload))?;
    let reader = tree.uuid.map_or_else(|| reader.clone(), |uuid| reader.clone().with_uuid(uuid));
    let kept = Arc::new(BlockSet::new(0..tree.payload.content_size / BLOCK));
    let frames = Frames::new(tree.payload, mirrors);
    let levels: Vec<_> = reader.geometry().levels().to_vec();
    let mut stretches = vec![(None, 0..1)];
    stretches.extend(
        levels.iter().enumerate().map(|(level, at)| (Some(level), at.start..at.start.saturating_add(at.blocks))),
    );
    let mut tally = Tally::default();
    for (level, blocks) in stretches {
        let expected = Arc::new(Level { reader: reader.clone(), level });
        let goal = Goal::new(Arc::clone(&frames), region, expected, blocks, progress)?;
        // What each block must be is read from the level above, which ends where this one begins.
        let goal = Goal { read_beside: true, ..goal };
        tally += fill(&goal, None, seeds, &kept).await?;
    }
    let region = region.clone();
    let tree = blocking(move || reader.finish().or_else(|error| lost_of_tree(&region, error))).await?;
    Ok((tree, tally))
}
