//! Writing a layout to its partition: files at their places, metadata stage by stage.

use std::io::{self, BufReader, Cursor, Read};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use metalstrap_release::manifest::{Artifact, data_uuid};
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE, build};

use crate::disk::{Region, blocking};
use crate::failure::{Code, WithCode as _};
use crate::fat::{Layout, Stage};

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
    pub async fn small(&self, path: &str, mut bytes: Vec<u8>) -> Result<()> {
        let (region, path) = (self.of(path)?, path.to_owned());
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

/// Puts into `region` the hash tree over what lies at `place`, if that looks like the file: whatever of it is wrong is found
/// and fetched like any other block.
pub(super) async fn build_tree(artifact: &Artifact, place: &Region, region: &Region) -> Result<()> {
    let (artifact, place, region) = (artifact.clone(), place.clone(), region.clone());
    blocking(move || {
        let mut block = [0; BLOCK_SIZE];
        // What cannot be read is not the file. Every EFI program begins so (PE format, MS-DOS stub).
        if place.read_at(0, &mut block).is_err() || !block.starts_with(b"MZ") {
            return Ok(());
        }
        let (blocks, uuid) = (artifact.data.content_size / BLOCK, data_uuid(&artifact.sha256));
        let mut tree = Cursor::new(Vec::new());
        let mut content = BufReader::with_capacity(1 << 20, Content { place, next: 0 });
        if build(&mut content, blocks, &artifact.salt.0, uuid, &mut tree).is_ok() {
            region.write_at(0, &tree.into_inner()).context("keeping a hash tree in memory")?;
        }
        Ok(())
    })
    .await
}

/// Reads a region from its start on.
struct Content {
    place: Region,
    next: u64,
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.place.size.saturating_sub(self.next);
        let length = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
        let part = buffer.get_mut(..length).unwrap_or_default();
        self.place.read_at(self.next, part)?;
        self.next = self.next.saturating_add(u64::try_from(length).unwrap_or(0));
        Ok(length)
    }
}
