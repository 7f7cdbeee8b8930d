//! Writing a layout to its partition: files at their places, metadata stage by stage.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use metalstrap_release::verity::BLOCK;

use super::FileTree;
use crate::converge::{Tally, each_piece};
use crate::disk::Region;
use crate::failure::{Code, WithCode as _};
use crate::fat::{Layout, Stage};
use crate::progress::Progress;

/// A partition and the file system that it gets.
#[derive(Debug, Clone)]
pub(super) struct Place {
    region: Region,
    layout: Arc<Layout>,
}

impl Place {
    pub fn new(region: Region, layout: Layout) -> Self {
        Self { region, layout: Arc::new(layout) }
    }

    /// Where the file at `path` lies, up to the end of its last block.
    pub fn of(&self, path: &str) -> Result<Region> {
        let extent = self.layout.extents().iter().find(|extent| extent.path == path);
        let extent = extent.with_context(|| format!("the ESP's layout has no {path}"))?;
        let start = self.region.start.checked_add(extent.offset).context("an ESP behind the end of all disks")?;
        Ok(Region { disk: Arc::clone(&self.region.disk), start, size: extent.size.next_multiple_of(BLOCK) })
    }

    /// Writes a file that comes from no payload, filled up to whole blocks with zeroes.
    pub async fn small(&self, path: &'static str, mut bytes: Vec<u8>) -> Result<()> {
        let region = self.of(path)?;
        blocking(move || {
            bytes.resize(usize::try_from(region.size)?, 0);
            region.write_at(0, &bytes).code(Code::DiskIo, || format!("writing {path}"))
        })
        .await
    }

    /// Writes the metadata of one stage; when it returns, that and all that was written before is on stable storage.
    pub async fn stage(&self, stage: Stage) -> Result<()> {
        let Self { region, layout } = self.clone();
        blocking(move || {
            for write in layout.writes(stage) {
                region
                    .write_at(write.offset, &write.bytes)
                    .code(Code::DiskIo, || "writing the EFI system partition".to_owned())?;
            }
            region.disk.flush().code(Code::DiskIo, || "flushing the EFI system partition".to_owned())
        })
        .await
    }
}

/// Copies a file from one place to another of the same size; each block is checked between the two.
pub(super) async fn copy(from: &Region, to: &Region, tree: &FileTree, progress: &Progress) -> Result<Tally> {
    let (from, to, tree, progress) = (from.clone(), to.clone(), Arc::clone(tree), progress.clone());
    blocking(move || {
        let blocks = from.size / BLOCK;
        each_piece(&from, &tree, blocks, |offset, bytes| {
            to.write_at(offset, bytes).code(Code::DiskIo, || "writing verified blocks".to_owned())?;
            progress.advance(u64::try_from(bytes.len())?);
            Ok(())
        })?;
        Ok(Tally { fetched_bytes: 0, written_bytes: from.size, blocks })
    })
    .await
}

/// Runs `work` on a thread that may wait for the disk.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("the thread that writes the ESP ended without a result")?
}
