//! The EFI system partition: boot loader and UKI on a FAT, written so that a power cut at any point leaves either no file
//! system, or one in which every file that has a name is whole.
//!
//! A partition without a file system gets a [`fresh`] one; one that stays is [`update`]d: what is right is not written to,
//! what is not gets new clusters and then its name.

mod credentials;
mod file;
mod fresh;
mod loader_conf;
mod place;
#[cfg(test)]
mod tests;
mod there;
mod update;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use metalstrap_release::manifest::{Artifact, Manifest};
use metalstrap_release::verity::{BLOCK, Tree};

use crate::boot_files::{self, BootFiles, INTENTS, UKI_DIRECTORY};
use crate::converge::{self, Seed, Tally};
use crate::credentials::Sealed;
use crate::disk::Region;
use crate::failure::{Code, coded};
use crate::fat::{File, Layout, ReadAt, Volume};
use crate::fetch::Mirrors;
use crate::progress::Progress;
use there::There;
pub use update::unname;

/// Where firmware looks when no boot entry works (UEFI specification, "Removable Media Boot Behavior").
pub const FALLBACK_LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
/// Where bootctl keeps systemd-boot, and what our boot entry names.
pub const LOADER: &str = "EFI/systemd/systemd-bootx64.efi";
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

/// What an ESP is to hold.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The release.
    pub manifest: &'a Manifest,
    /// The serial number of a fresh file system.
    pub volume_id: u32,
    /// Whether a file system that is there stays.
    pub stays: bool,
    /// The intents that it remembers.
    pub intents: &'a [String],
    /// Paths of UKIs on one that stays, and their new names.
    pub renamed: &'a [(String, String)],
    /// The OS's credentials.
    pub credentials: &'a [Sealed],
}

impl<'a> Order<'a> {
    /// A fresh file system with the files of a release and no others.
    #[must_use]
    pub fn of(manifest: &'a Manifest) -> Self {
        Self { manifest, volume_id: 0, stays: false, intents: &[], renamed: &[], credentials: &[] }
    }
}

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
    /// Intents that its file of them does not have, and cannot get.
    pub unnoted: Vec<String>,
}

/// Whether an ESP as `order` says can be laid out on a partition of `size` bytes: what the plan asks before the first write
/// to the disk.
///
/// # Errors
/// [`Code::DiskTooSmall`] when the files do not fit; [`Code::Manifest`] when a hash tree is too large for memory.
pub fn check(order: Order<'_>, size: u64, sector_size: u32) -> Result<()> {
    [&order.manifest.boot.loader, &order.manifest.boot.uki].into_iter().try_for_each(check_tree)?;
    layout(order, size, sector_size).map(drop)
}

/// Whether an ESP that stays has room for the release's boot files, once the UKIs at `removed` are gone; `disk` is for the
/// message. One that has its UKI or the credentials already needs none for these; where what is there turns out to be damaged, and
/// there is no room for another one, the run ends with the same error later, and what is there stays. For the note of intents
/// nothing is refused.
///
/// # Errors
/// [`Code::Esp`] with what is needed, what there is, and what takes it.
pub fn check_room(order: Order<'_>, files: &BootFiles, removed: &[String], disk: &str) -> Result<()> {
    let Order { manifest, .. } = order;
    let gone = |uki: &boot_files::Uki| removed.contains(&uki.path());
    let label = manifest.root_label();
    let size = manifest.boot.uki.size;
    let is_there = files.ukis.iter().any(|uki| uki.is_called(&label) && uki.size == size && !gone(uki));
    let whole = |bytes: u64| bytes.div_ceil(files.cluster.max(1)).saturating_mul(files.cluster);
    let (uki, loader) = (whole(manifest.boot.uki.size), whole(manifest.boot.loader.size));
    // Both copies of the loader may have to be replaced, and are whole until the new ones are.
    let boot_files = if is_there { 0 } else { uki.saturating_add(loader.saturating_mul(2)) };
    let has_credentials = credentials::are_among(order.credentials, &files.credentials);
    let credentials = if has_credentials { 0 } else { credentials::room(order.credentials, files.cluster.max(1)) };
    let needed = boot_files.saturating_add(credentials);
    let freed: u64 = files.ukis.iter().filter(|uki| gone(uki)).map(|uki| uki.taken).sum();
    let free = files.free.saturating_add(freed);
    if needed <= free {
        return Ok(());
    }
    let others: Vec<String> = files.ukis.iter().filter(|uki| !gone(uki)).map(boot_files::Uki::path).collect();
    let text = format!(
        "disk {disk}: the EFI system partition has {free} bytes free, but the boot files need {needed}; it has {others:?}"
    );
    Err(coded(Code::Esp, text))
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
pub fn layout(order: Order<'_>, size: u64, sector_size: u32) -> Result<Layout> {
    let Order { manifest, volume_id, intents, .. } = order;
    let boot = &manifest.boot;
    let file = |path: &str, size: u64| File { path: path.to_owned(), size };
    let length = |bytes: &[u8]| u64::try_from(bytes.len());
    let mut files = vec![
        file(FALLBACK_LOADER, boot.loader.size),
        file(LOADER, boot.loader.size),
        file(LOADER_CONF.0, length(LOADER_CONF.1)?),
        file(ENTRIES_SREL.0, length(ENTRIES_SREL.1)?),
        file(RANDOM_SEED, length(&[0; RANDOM_SEED_BYTES])?),
    ];
    if !intents.is_empty() {
        files.push(file(INTENTS, length(&boot_files::intents_file(intents))?));
    }
    files.extend(credentials::placed(order.credentials)?);
    files.push(file(&uki_path(manifest), boot.uki.size));
    Layout::new(size, sector_size, volume_id, LABEL, &files).context("laying out the EFI system partition")
}

fn uki_path(manifest: &Manifest) -> String {
    format!("{UKI_DIRECTORY}/{}", manifest.uki_name())
}

/// Makes the ESP in `region`, the whole partition, hold what `order` says. Files that are right in their places stay;
/// blocks that `seeds` have are copied.
///
/// # Errors
/// [`Code::Corrupt`] when a payload is not what the manifest says, [`Code::DiskTooSmall`], [`Code::Esp`], [`Code::DiskIo`],
/// and the mirrors'.
pub async fn write(
    mirrors: &Arc<Mirrors>,
    order: Order<'_>,
    region: &Region,
    seeds: &[Seed],
    progress: &Progress,
) -> Result<Esp> {
    let there = if order.stays { There::open(region).await? } else { None };
    match there {
        Some(there) => update::update(mirrors, order, &there, progress).await,
        None => fresh::lay_out(mirrors, order, region, seeds, progress).await,
    }
}

/// A file's path, its blocks, and the runs of those that are damaged.
pub type Damage = (String, u64, Vec<Range<u64>>);

/// Whether the file system of the ESP is sound and names the files of `manifest`, and which blocks of them are damaged.
/// Nothing is written. What cannot be read is damaged.
///
/// # Errors
/// A hash tree that is needed cannot be fetched.
pub async fn damaged(
    mirrors: &Arc<Mirrors>,
    manifest: &Manifest,
    region: &Region,
    progress: &Progress,
) -> Result<(bool, Vec<Damage>)> {
    let there = if_readable(There::open(region).await);
    let mut sound = there.as_ref().is_some_and(There::is_sound);
    let (loader, uki, uki_path) = (&manifest.boot.loader, &manifest.boot.uki, uki_path(manifest));
    let mut places = Vec::new();
    for (path, artifact) in [(FALLBACK_LOADER, loader), (LOADER, loader), (uki_path.as_str(), uki)] {
        let place = match &there {
            Some(there) => if_readable(there.find(path, artifact.size).await),
            None => None,
        };
        places.push((path, artifact, place));
    }
    // Of each file that is there its tree, and then itself.
    let is_there = places.iter().filter(|(.., place)| place.is_some());
    let bytes = is_there.map(|(_, file, _)| file.hash_tree.content_size.saturating_add(file.data.content_size));
    progress.expect(bytes.fold(0, u64::saturating_add));
    let mut files = Vec::new();
    for (path, artifact, place) in places {
        let all = artifact.data.content_size / BLOCK;
        let Some((name, place)) = place else {
            sound = false;
            files.push((path.to_owned(), all, std::iter::once(0..all).collect()));
            continue;
        };
        let tree = file::tree(mirrors, artifact, Some(&place), &mut Tally::default(), progress).await?;
        let runs = converge::damaged(&place, &tree, progress).await?;
        files.push((name, all, runs));
    }
    Ok((sound, files))
}

/// Whether the ESP has these credentials, and of ours no others. Nothing is written. What cannot be read is not there.
pub async fn has_credentials(region: &Region, credentials: &[Sealed]) -> bool {
    let Some(there) = if_readable(There::open(region).await) else { return credentials.is_empty() };
    let credentials = credentials.to_vec();
    let look = move |volume: &mut Volume, read: ReadAt<'_>, _: &Region| {
        credentials::are_there(volume, read, credentials::LIST, &credentials).map(Some)
    };
    if_readable(there.with(look).await).unwrap_or_default()
}

/// What was found. For who only looks, an error is no more than that there is none.
fn if_readable<T>(found: Result<Option<T>>) -> Option<T> {
    found.unwrap_or_else(|error| {
        log::warn!("{error:#}");
        None
    })
}

/// Those of the credentials' files `names` that the ESP has and that can be read. Nothing is written.
///
/// # Errors
/// The disk's.
pub async fn credential_files(region: &Region, names: Vec<String>) -> Result<BTreeMap<String, Vec<u8>>> {
    let Some(there) = if_readable(There::open(region).await) else { return Ok(BTreeMap::new()) };
    there.with(move |volume, read, _| Ok(credentials::found(volume, read, names))).await
}

/// What a verifier has given for an attestation, as far as the ESP has it. Nothing is written.
///
/// # Errors
/// The disk's.
pub async fn attested(region: &Region) -> Result<Vec<Sealed>> {
    let Some(there) = There::open(region).await? else { return Ok(Vec::new()) };
    there.with(|volume, read, _| credentials::attested(volume, read)).await
}

/// Makes a written ESP hold what a verifier has given, and of what one has given before nothing else. It changes by one sector.
///
/// # Errors
/// [`Code::Esp`] if there is no room, [`Code::DiskIo`].
pub async fn hold_attested(region: &Region, attested: Vec<Sealed>) -> Result<()> {
    let there = There::open(region).await?.context("the EFI system partition has no file system")?;
    there.with(move |volume, read, region| update::hold_attested(volume, read, region, &attested)).await
}

/// Fresh entropy, from the generator that TLS uses: the kernel's, which was seeded before the first connection.
pub(crate) fn random_seed() -> Result<Vec<u8>> {
    let mut seed = vec![0; RANDOM_SEED_BYTES];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    random.fill(&mut seed).map_err(|_| coded(Code::Internal, "no random numbers for the ESP's random seed"))?;
    Ok(seed)
}
