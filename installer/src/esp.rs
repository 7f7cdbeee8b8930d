//! The EFI system partition: a fresh FAT with the boot loader and the UKI, written so that a power cut at any point
//! leaves either no file system, or one in which every file that has a name is whole.
//!
//! The order is: hash trees (nothing written yet), the old file system's boot sectors away, the files' blocks into
//! their places, FATs and directories, all of it read back, boot sectors, and last the one sector that names the UKI;
//! with a flush wherever a later write means something only with the earlier ones.

mod place;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use metalstrap_release::manifest::{Artifact, Manifest};
use metalstrap_release::verity::{BLOCK, Tree};

use crate::converge::{self, Payloads, ReadBack, Seed, Tally, TreeOf};
use crate::disk::{Memory, Region};
use crate::failure::{Code, coded};
use crate::fat::{File, Layout, Stage};
use crate::fetch::Mirrors;
use crate::progress::Progress;
use place::Place;

/// Where firmware looks when no boot entry works (UEFI specification, "Removable Media Boot Behavior").
pub const FALLBACK_LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
/// Where bootctl keeps systemd-boot, and what our boot entry names.
pub const LOADER: &str = "EFI/systemd/systemd-bootx64.efi";
/// Where systemd-boot looks for UKIs (Boot Loader Specification, type 2).
pub const UKI_DIRECTORY: &str = "EFI/Linux";
/// systemd-boot's configuration: start the newest entry that has attempts left, at once.
const LOADER_CONF: (&str, &[u8]) = ("loader/loader.conf", b"timeout 0\n");
/// Says which specification the entries follow, as bootctl writes it.
const ENTRIES_SREL: (&str, &[u8]) = ("loader/entries.srel", b"type1\n");
/// Entropy for the kernel, refreshed by systemd-boot and the OS at every boot.
const RANDOM_SEED: &str = "loader/random-seed";
const RANDOM_SEED_BYTES: usize = 32;
/// Volume label.
const LABEL: &str = "ESP";
/// The largest hash tree that is kept in memory: that of a file of [`metalstrap_release::manifest::MAX_BOOT_BYTES`]
/// has about 8 MiB.
const MOST_TREE_BYTES: u64 = 16 << 20;

/// The hash tree of a file on the ESP, in memory.
pub type FileTree = Arc<Tree<Region>>;

/// A written ESP, and what the handoff needs of it.
#[derive(Debug)]
pub struct Esp {
    /// The UKI's blocks on the disk, padding included.
    pub uki: Region,
    /// Bytes of the UKI itself.
    pub uki_size: u64,
    /// What each block of the UKI must be.
    pub uki_tree: FileTree,
    /// The UKI's path on the ESP, parts separated by `/`.
    pub uki_path: String,
    /// What it took to bring the files to their places.
    pub tally: Tally,
}

/// Whether the ESP of `manifest` can be written to a partition of `size` bytes: what the plan asks before the first
/// write to the disk.
///
/// # Errors
/// [`Code::DiskTooSmall`] when the files do not fit; [`Code::Manifest`] when a hash tree is too large for memory.
pub fn check(manifest: &Manifest, size: u64, sector_size: u32, volume_id: u32) -> Result<()> {
    [&manifest.boot.loader, &manifest.boot.uki].into_iter().try_for_each(check_tree)?;
    layout(manifest, size, sector_size, volume_id).map(drop)
}

/// Whether the hash tree of a file can be kept in memory.
fn check_tree(artifact: &Artifact) -> Result<()> {
    let size = artifact.hash_tree.content_size;
    if size > MOST_TREE_BYTES {
        let message = format!("a hash tree of {size} bytes, more than the {MOST_TREE_BYTES} allowed");
        return Err(coded(Code::Manifest, message));
    }
    Ok(())
}

/// The ESP's layout, computed without the disk.
///
/// # Errors
/// [`Code::DiskTooSmall`] when the files do not fit `size` bytes.
pub fn layout(manifest: &Manifest, size: u64, sector_size: u32, volume_id: u32) -> Result<Layout> {
    let boot = &manifest.boot;
    let file = |path: &str, size: u64| File { path: path.to_owned(), size };
    let length = |bytes: &[u8]| u64::try_from(bytes.len());
    let files = [
        file(FALLBACK_LOADER, boot.loader.size),
        file(LOADER, boot.loader.size),
        file(LOADER_CONF.0, length(LOADER_CONF.1)?),
        file(ENTRIES_SREL.0, length(ENTRIES_SREL.1)?),
        file(RANDOM_SEED, length(&[0; RANDOM_SEED_BYTES])?),
        file(&uki_path(manifest), boot.uki.size),
    ];
    Layout::new(size, sector_size, volume_id, LABEL, &files).context("laying out the EFI system partition")
}

fn uki_path(manifest: &Manifest) -> String {
    format!("{UKI_DIRECTORY}/{}", manifest.uki_name())
}

/// Writes the ESP of `manifest` to `region`, the whole partition. `volume_id` is the FAT's serial number. Files that are
/// right in their places stay; blocks that `seeds` have are copied.
///
/// # Errors
/// [`Code::Corrupt`] when a payload is not what the manifest says, [`Code::DiskTooSmall`], [`Code::DiskIo`], and the
/// mirrors'.
pub async fn write(
    mirrors: &Arc<Mirrors>,
    manifest: &Manifest,
    region: &Region,
    volume_id: u32,
    seeds: &[Seed],
    progress: &Progress,
) -> Result<Esp> {
    let layout = layout(manifest, region.size, region.disk.sector_size(), volume_id)?;
    let place = Place::new(region.clone(), layout);
    let mut tally = Tally::default();
    let files = wanted(mirrors, manifest, &place, &mut tally, progress).await?;

    // A file system that names them already keeps the names: boot counting and whatever else the OS has changed stay.
    let there = place.is_published(files.each_ref().map(|file| file.path.as_str())).await?;
    if !there {
        place.stage(Stage::Invalidate).await.context("removing the old file system")?;
    }
    let mut seeds = seeds.to_vec();
    for file in &files {
        tally += file.bring(mirrors, &seeds, progress).await?;
        // The second copy of the boot loader comes from the first.
        seeds.insert(0, Seed { region: file.place.clone(), tree: None });
    }
    if !there {
        place.small(LOADER_CONF.0, LOADER_CONF.1.to_vec()).await?;
        place.small(ENTRIES_SREL.0, ENTRIES_SREL.1.to_vec()).await?;
        place.small(RANDOM_SEED, random_seed()?).await?;
        place.stage(Stage::Tables).await.context("writing the FATs and directories")?;
    }

    // Before the UKI has a name: one that the drive did not keep never gets it.
    for file in &files {
        file.check(progress).await?;
    }
    if !there {
        place.stage(Stage::BootSectors).await.context("writing the boot sectors")?;
        place.stage(Stage::Publish).await.context("publishing the UKI")?;
    }
    let [_, _, uki] = files;
    Ok(Esp { uki: uki.place, uki_size: uki.artifact.size, uki_tree: uki.tree, uki_path: uki.path, tally })
}

/// A file that the ESP is to have.
struct Wanted<'a> {
    path: String,
    place: Region,
    artifact: &'a Artifact,
    tree: FileTree,
}

/// The boot loader at both its places, and the UKI.
async fn wanted<'a>(
    mirrors: &Arc<Mirrors>,
    manifest: &'a Manifest,
    place: &Place,
    tally: &mut Tally,
    progress: &Progress,
) -> Result<[Wanted<'a>; 3]> {
    let (loader, uki, uki_path) = (&manifest.boot.loader, &manifest.boot.uki, uki_path(manifest));
    let (fallback, uki_place) = (place.of(FALLBACK_LOADER)?, place.of(&uki_path)?);
    // Each file is brought to its place and read back.
    let trees = loader.hash_tree.content_size + uki.hash_tree.content_size;
    progress.expect(trees + 2 * (2 * loader.data.content_size + uki.data.content_size));
    let loader_tree = tree(mirrors, loader, &fallback, tally, progress).await;
    let loader_tree = loader_tree.context("fetching the boot loader's hash tree")?;
    let uki_tree = tree(mirrors, uki, &uki_place, tally, progress).await.context("fetching the UKI's hash tree")?;
    let of_loader = |path: &str, place: Region| Wanted {
        path: path.to_owned(),
        place,
        artifact: loader,
        tree: Arc::clone(&loader_tree),
    };
    Ok([
        of_loader(FALLBACK_LOADER, fallback),
        of_loader(LOADER, place.of(LOADER)?),
        Wanted { path: uki_path, place: uki_place, artifact: uki, tree: uki_tree },
    ])
}

impl Wanted<'_> {
    /// Brings it to its place.
    async fn bring(&self, mirrors: &Arc<Mirrors>, seeds: &[Seed], progress: &Progress) -> Result<Tally> {
        let payloads = Payloads { data: &self.artifact.data, fine: self.artifact.fine.as_ref() };
        let brought =
            converge::data(mirrors, payloads, &self.tree, &self.place, seeds, ReadBack::Later, progress).await;
        brought.map(|(tally, _)| tally)
    }

    /// Reads it back. The tree says nothing of the digest that is measured and that kexec asks for.
    async fn check(&self, progress: &Progress) -> Result<()> {
        let found = converge::check_file(&self.place, &self.tree, self.artifact.size, progress).await?;
        if found != self.artifact.sha256 {
            let text = format!("{} has SHA-256 {found}, but the manifest says {}", self.path, self.artifact.sha256);
            return Err(coded(Code::Corrupt, text));
        }
        Ok(())
    }
}

/// A file's path, its blocks, and the runs of those that are damaged.
pub type Damage = (String, u64, Vec<Range<u64>>);

/// Whether the ESP names the files of `manifest`, and which blocks of them are damaged. Nothing is written.
///
/// # Errors
/// The disk's; a hash tree that is needed cannot be fetched.
pub async fn damaged(
    mirrors: &Arc<Mirrors>,
    manifest: &Manifest,
    region: &Region,
    volume_id: u32,
    progress: &Progress,
) -> Result<(bool, Vec<Damage>)> {
    let layout = layout(manifest, region.size, region.disk.sector_size(), volume_id)?;
    let place = Place::new(region.clone(), layout);
    let (loader, uki) = (&manifest.boot.loader, &manifest.boot.uki);
    let uki_path = uki_path(manifest);
    let named = place.is_published([FALLBACK_LOADER, LOADER, &uki_path]).await?;
    let mut files = Vec::new();
    for (path, artifact) in [(FALLBACK_LOADER, loader), (LOADER, loader), (&uki_path, uki)] {
        let place = place.of(path)?;
        let tree = tree(mirrors, artifact, &place, &mut Tally::default(), progress).await?;
        let runs = converge::damaged(&place, &tree, progress).await?;
        files.push((path.to_owned(), tree.geometry().data_blocks(), runs));
    }
    Ok((named, files))
}

/// The hash tree of a file, in memory. Where the file is in its place already, its own tree is the one: nothing is fetched.
async fn tree(
    mirrors: &Arc<Mirrors>,
    artifact: &Artifact,
    place: &Region,
    tally: &mut Tally,
    progress: &Progress,
) -> Result<FileTree> {
    check_tree(artifact)?;
    let payload = &artifact.hash_tree;
    let memory = Arc::new(Memory::new(payload.content_size, 512));
    let region = Region { disk: memory, start: 0, size: payload.content_size };
    place::build_tree(artifact, place, &region).await?;
    let of = TreeOf {
        payload,
        root_hash: artifact.root_hash,
        salt: &artifact.salt.0,
        data_blocks: artifact.data.content_size / BLOCK,
    };
    let (tree, cost) = converge::hash_tree(mirrors, of, &region, &[], progress).await?;
    tally.fetched_bytes += cost.fetched_bytes;
    Ok(Arc::new(tree))
}

/// Fresh entropy, from the generator that TLS uses: the kernel's, which was seeded before the first connection.
fn random_seed() -> Result<Vec<u8>> {
    let mut seed = vec![0; RANDOM_SEED_BYTES];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut seed).map_err(|_| coded(Code::Internal, "no random numbers for the ESP's random seed"))?;
    Ok(seed)
}
