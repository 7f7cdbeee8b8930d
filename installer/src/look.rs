//! `verify`: what of an installed release is not as it was signed. Nothing is written.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Result;
use metalstrap_release::manifest::Manifest;
use metalstrap_release::verity::BLOCK;
use serde::Serialize;

use crate::converge::{self, TreeOf};
use crate::credentials::Sealed;
use crate::disk::{Disk, Overlay, Region};
use crate::esp;
use crate::failure::{Code, WithCode as _};
use crate::fetch::Mirrors;
use crate::gpt;
use crate::plan::{Plan, Role};
use crate::progress::Progress;
use crate::report::Reporter;

/// Runs of damaged blocks that are listed one by one.
const LISTED: usize = 1000;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Findings {
    /// The release, by name and version.
    pub release: String,
    /// The disk, as messages call it.
    pub disk: String,
    /// Whether all of it is as it was signed.
    pub whole: bool,
    /// The parts of the release.
    pub parts: Vec<Part>,
    /// Whether both copies of the partition table are as they were written.
    pub partition_table: bool,
    /// Whether the ESP's file system names boot loader and UKI.
    pub boot_files_named: bool,
    /// Whether the ESP has the credentials of the host config, and no others that were those of an earlier one.
    pub credentials: bool,
    /// Mirrors that sent something wrong of what had to be fetched, each with the reason, as the run's report names them.
    pub mirrors_dropped: Vec<String>,
}

/// A part of a release on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Part {
    /// `hash-tree`, `root`, or a path on the ESP.
    pub name: String,
    /// Its blocks of 4096 bytes.
    pub blocks: u64,
    /// How many of them are not as they were signed, or cannot be read.
    pub damaged: u64,
    /// Which, from the first to the one behind the last: the first 1000 runs.
    pub runs: Vec<Range<u64>>,
}

impl Part {
    fn new(name: &str, blocks: u64, mut runs: Vec<Range<u64>>) -> Self {
        let damaged = runs.iter().map(|run| run.end.saturating_sub(run.start)).sum();
        runs.truncate(LISTED);
        Self { name: name.to_owned(), blocks, damaged, runs }
    }
}

/// Looks at the release of `manifest` on `disk`, where `plan` has it. Trees that are damaged are fetched, into memory; what
/// cannot be read is damaged too.
///
/// # Errors
/// A tree that is damaged cannot be fetched; the kernel does not let go of what it keeps of the disk.
pub async fn look(
    disk: Arc<dyn Disk>,
    plan: &Plan,
    (manifest, credentials): (&Manifest, &[Sealed]),
    mirrors: &Arc<Mirrors>,
    tell: &Reporter,
) -> Result<Findings> {
    disk.forget_cache().code(Code::DiskIo, || format!("dropping what the kernel keeps of {}", disk.describe()))?;
    // A copy that cannot be read is not as it was written.
    let partition_table = gpt::is_current(disk.as_ref(), plan).unwrap_or_default();
    let overlay = Arc::new(Overlay::new(Arc::clone(&disk)));
    let over: Arc<dyn Disk> = Arc::clone(&overlay) as Arc<_>;
    let root = manifest.root()?;
    let slot = plan.target;
    let place = plan.region(&over, Role::RootVerity { slot })?;
    let of = TreeOf {
        payload: &root.hash_tree,
        root_hash: root.root_hash,
        salt: &root.salt.0,
        data_blocks: root.data.content_size / BLOCK,
        uuid: Some(root.hash_tree_uuid),
    };
    let check = async |progress: Progress| {
        progress.expect(root.hash_tree.content_size);
        converge::hash_tree(mirrors, of, &place, &[], &progress).await
    };
    let (tree, tally) = tell.wait("hash-tree", "Checking the hash tree", check).await?;
    // What had to be made of it, in memory, is what is damaged.
    let damaged = overlay.written(place.start, root.hash_tree.content_size);
    let mut parts = vec![Part::new("hash-tree", tally.blocks(), damaged)];
    let (tree, region) = (Arc::new(tree), plan.region(&disk, Role::Root { slot })?);
    let check = async |progress: Progress| {
        progress.expect(root.data.content_size);
        converge::damaged(&region, &tree, &progress).await
    };
    let runs = tell.wait("root", "Checking the root file system", check).await?;
    parts.push(Part::new("root", tree.geometry().data_blocks(), runs));
    let region: Region = plan.region(&disk, Role::Esp)?;
    let check = async |progress: Progress| esp::damaged(mirrors, manifest, &region, &progress).await;
    let (boot_files_named, files) = tell.wait("esp", "Checking boot loader and UKI", check).await?;
    parts.extend(files.into_iter().map(|(path, blocks, runs)| Part::new(&path, blocks, runs)));
    let credentials = esp::has_credentials(&region, credentials).await;
    let whole = partition_table && boot_files_named && credentials && parts.iter().all(|part| part.damaged == 0);
    let release = format!("{} {}", manifest.name, manifest.version);
    Ok(Findings {
        release,
        disk: disk.describe(),
        whole,
        parts,
        partition_table,
        boot_files_named,
        credentials,
        mirrors_dropped: tell.mirrors_dropped(),
    })
}
