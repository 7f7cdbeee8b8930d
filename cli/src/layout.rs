//! The layout of a disk, with defaults that leave room for the next releases.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use metalstrap_release::manifest::{Artifact, DataPartition, FileSystem, Layout, parse_partitions};
use metalstrap_release::verity::{BLOCK, Geometry};

use crate::size::{self, MIB};

/// Least size of a data partition.
const LEAST_ROOT: u64 = 256 * MIB;
/// Least size of an ESP.
const LEAST_ESP: u64 = 512 * MIB;
/// What stays free where the layout has no partitions behind the slots: the OS makes them.
const FREE: u64 = 256 * MIB;

/// Sizes of the partitions: whole MiB.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Layout of the disk")]
pub struct LayoutArgs {
    /// Partitions behind the slots: a JSON list, each with `type` and `label`, and, as in repart.d(5), `size_min`,
    /// `size_max`, `weight`, `padding_min`, `padding_max`, `padding_weight` (sizes in bytes); `keep`, if its content stays
    /// when another release is installed
    #[arg(long, value_name = "FILE")]
    layout: Option<PathBuf>,
    /// EFI system partition [default: 512M, or more where one UKI a slot and one more need it]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    layout_esp_size: Option<u64>,
    /// Data partition of a slot [default: the image and a quarter more, at least 256M]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    layout_root_size: Option<u64>,
    /// Hash-tree partition of a slot [default: what a full data partition needs]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    layout_root_verity_size: Option<u64>,
    /// Slots; systemd-sysupdate needs two
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    layout_slots: u32,
    /// What must stay free at the end for the OS's own partitions [default: 256M, or 0 with --layout]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    layout_free_size: Option<u64>,
}

impl LayoutArgs {
    /// The partitions behind the slots.
    ///
    /// # Errors
    /// When the file cannot be read, or something in it cannot hold.
    pub fn partitions(&self) -> Result<Vec<DataPartition>> {
        let Some(path) = &self.layout else { return Ok(Vec::new()) };
        let reading = || format!("reading the layout {}", path.display());
        parse_partitions(&fs::read(path).with_context(reading)?).with_context(reading)
    }

    /// The layout for these artifacts. Whether it holds them is for the manifest to check.
    ///
    /// # Errors
    /// As [`LayoutArgs::partitions`].
    pub fn layout(&self, root: &FileSystem, uki: &Artifact, loader: &Artifact) -> Result<Layout> {
        let content = root.data.content_size;
        let root_size = self.layout_root_size.unwrap_or_else(|| mib_up(content + content / 4).max(LEAST_ROOT));
        let verity_size = || {
            let blocks = Geometry::new(root_size / BLOCK).map_or(1, |geometry| geometry.total_blocks());
            mib_up(blocks * BLOCK).max(mib_up(root.hash_tree.content_size))
        };
        let esp_size = || {
            // While an update is written there is one UKI more than slots. The loader lies there twice; a sixteenth
            // and 16 MiB are for FATs, directories and what the OS adds.
            let files = uki.size * (u64::from(self.layout_slots) + 1) + loader.size * 2;
            mib_up(files + files / 16 + 16 * MIB).max(LEAST_ESP)
        };
        Ok(Layout {
            esp_size: self.layout_esp_size.unwrap_or_else(esp_size),
            root_size,
            root_verity_size: self.layout_root_verity_size.unwrap_or_else(verity_size),
            slots: self.layout_slots,
            free_size: self.layout_free_size.unwrap_or_else(|| if self.layout.is_some() { 0 } else { FREE }),
            partitions: self.partitions()?,
        })
    }
}

fn mib_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(MIB)
}
