//! A file that the ESP is to have, and its hash tree.

use std::sync::Arc;

use anyhow::Result;
use metalstrap_release::manifest::{Artifact, Manifest};
use metalstrap_release::verity::BLOCK;

use super::{FileTree, check_tree, place};
use crate::converge::{self, Payloads, ReadBack, Seed, Tally, TreeOf};
use crate::disk::{Memory, Region};
use crate::failure::{Code, coded};
use crate::fetch::Mirrors;
use crate::progress::Progress;

/// Two files have a hash tree, and all three are brought to their places and read back.
pub(super) fn expect(manifest: &Manifest, progress: &Progress) {
    let (loader, uki) = (&manifest.boot.loader, &manifest.boot.uki);
    let trees = loader.hash_tree.content_size.saturating_add(uki.hash_tree.content_size);
    let files = loader.data.content_size.saturating_mul(2).saturating_add(uki.data.content_size);
    progress.expect(trees.saturating_add(files.saturating_mul(2)));
}

/// A file, and where it lies or is to lie.
pub(super) struct Wanted<'a> {
    pub path: String,
    pub place: Region,
    pub artifact: &'a Artifact,
    pub tree: FileTree,
}

impl Wanted<'_> {
    /// Brings it to its place.
    pub async fn bring(&self, mirrors: &Arc<Mirrors>, seeds: &[Seed], progress: &Progress) -> Result<Tally> {
        let payloads = Payloads { data: &self.artifact.data, fine: self.artifact.fine.as_ref() };
        let brought =
            converge::data(mirrors, payloads, &self.tree, &self.place, seeds, ReadBack::Later, progress).await;
        brought.map(|(tally, _)| tally)
    }

    /// Reads it back. The tree says nothing of the digest that is measured and that kexec asks for.
    pub async fn check(&self, progress: &Progress) -> Result<()> {
        let found = converge::check_file(&self.place, &self.tree, self.artifact.size, progress).await?;
        if found != self.artifact.sha256 {
            let text = format!("{} has SHA-256 {found}, but the manifest says {}", self.path, self.artifact.sha256);
            return Err(coded(Code::Corrupt, text));
        }
        Ok(())
    }
}

/// The hash tree of a file, in memory. Where the file is in its place already, its own tree is the one: nothing is fetched.
pub(super) async fn tree(
    mirrors: &Arc<Mirrors>,
    artifact: &Artifact,
    place: Option<&Region>,
    tally: &mut Tally,
    progress: &Progress,
) -> Result<FileTree> {
    check_tree(artifact)?;
    let payload = &artifact.hash_tree;
    let memory = Arc::new(Memory::new(payload.content_size, 512));
    let region = Region { disk: memory, start: 0, size: payload.content_size };
    if let Some(place) = place {
        place::build_tree(artifact, place, &region).await?;
    }
    let of = TreeOf {
        payload,
        root_hash: artifact.root_hash,
        salt: &artifact.salt.0,
        data_blocks: artifact.data.content_size / BLOCK,
        uuid: None,
    };
    let (tree, cost) = converge::hash_tree(mirrors, of, &region, &[], progress).await?;
    tally.fetched_bytes += cost.fetched_bytes;
    Ok(Arc::new(tree))
}
