//! Changing an ESP that stays: files that are right are not written to. Any other gets new clusters, is read back, and only
//! then takes over its name by one sector; the UKI comes last, or a boot loader that was not there. What was there before boots
//! until then.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use metalstrap_release::manifest::Artifact;

use super::file::{Wanted, expect, tree};
use super::there::{There, apply, coded, lay_out, look_up, open};
use super::{
    ENTRIES_SREL, Esp, FALLBACK_LOADER, FileTree, LOADER, LOADER_CONF, Order, RANDOM_SEED, credentials, loader_conf,
    random_seed, uki_path,
};
use crate::boot_files::{INTENTS, Noted, intents_file};
use crate::converge::{Seed, Tally};
use crate::credentials::Sealed;
use crate::disk::Region;
use crate::failure::{Code, WithCode as _, code_of};
use crate::fat::{ReadAt, Volume};
use crate::fetch::Mirrors;
use crate::progress::Progress;

/// A small file that comes from no payload: its path, and its bytes.
type Small = (&'static str, Vec<u8>);

/// A file whose clusters are written and wait for their name.
struct New {
    path: String,
    cluster: u32,
    size: u64,
}

/// Makes the file system hold the boot files of `order`.
pub(super) async fn update(
    mirrors: &Arc<Mirrors>,
    order: Order<'_>,
    there: &There,
    progress: &Progress,
) -> Result<Esp> {
    let (loader, uki) = (&order.manifest.boot.loader, &order.manifest.boot.uki);
    let uki_path = uki_path(order.manifest);
    let mut seeds = there.seeds([FALLBACK_LOADER, LOADER]).await?;
    expect(order.manifest, progress);
    let mut tally = Tally::default();
    let loader_tree = tree_of(mirrors, there, FALLBACK_LOADER, loader, &mut tally, progress).await?;
    let uki_tree = tree_of(mirrors, there, &uki_path, uki, &mut tally, progress).await?;
    let (mut files, mut new) = (Vec::new(), Vec::new());
    for (path, artifact, tree) in
        [(FALLBACK_LOADER, loader, &loader_tree), (LOADER, loader, &loader_tree), (&uki_path, uki, &uki_tree)]
    {
        let (file, cluster) = bring(mirrors, there, (path, artifact, tree), &seeds, &mut tally, progress).await?;
        // The second copy of the boot loader comes from the first.
        seeds.insert(0, Seed { region: file.place.clone(), tree: None });
        new.extend(cluster.map(|cluster| New { path: file.path.clone(), cluster, size: artifact.size }));
        files.push(file);
    }
    let (behind, intents, credentials) = (order.renamed.to_vec(), order.intents.to_vec(), order.credentials.to_vec());
    let unnoted = there
        .with(move |volume, read, region| {
            let small = settings(volume, read)?;
            publish(volume, read, region, (small, new), &behind, &credentials)?;
            note(volume, read, region, &intents)
        })
        .await?;
    let uki = files.pop().context("an ESP without a UKI")?;
    Ok(Esp { uki: uki.place, uki_size: uki.artifact.size, uki_tree: uki.tree, uki_path: uki.path, tally, unnoted })
}

/// The hash tree of a file, from the file itself where that is there.
async fn tree_of(
    mirrors: &Arc<Mirrors>,
    there: &There,
    path: &str,
    artifact: &Artifact,
    tally: &mut Tally,
    progress: &Progress,
) -> Result<FileTree> {
    let place = there.find(path, artifact.size).await?.map(|(_, place)| place);
    let tree = tree(mirrors, artifact, place.as_ref(), tally, progress).await;
    tree.with_context(|| format!("fetching the hash tree of {path}"))
}

/// The file at a path as it is, if it is right; else a new one, with its first cluster.
async fn bring<'a>(
    mirrors: &Arc<Mirrors>,
    there: &There,
    (path, artifact, tree): (&str, &'a Artifact, &FileTree),
    seeds: &[Seed],
    tally: &mut Tally,
    progress: &Progress,
) -> Result<(Wanted<'a>, Option<u32>)> {
    let found = there.find(path, artifact.size).await?;
    if let Some((path, place)) = found.clone() {
        let file = Wanted { path, place, artifact, tree: Arc::clone(tree) };
        if file.check(&Progress::default()).await.is_ok() {
            tally.kept = tally.kept.saturating_add(tree.geometry().data_blocks());
            // Brought to its place, and read back.
            progress.keeps(artifact.data.content_size);
            progress.advance(artifact.data.content_size);
            return Ok((file, None));
        }
    }
    let (cluster, place) = there.take(artifact.size).await?;
    let path = found.map_or_else(|| path.to_owned(), |(path, _)| path);
    let file = Wanted { path, place, artifact, tree: Arc::clone(tree) };
    *tally += file.bring(mirrors, seeds, progress).await?;
    file.check(progress).await?;
    Ok((file, Some(cluster)))
}

/// Gives the new files their names, in this order, and lets the others start later than the release. Nothing is written
/// where nothing is new. The credentials come before the UKI: it never starts with others than those of its host config.
fn publish(
    volume: &mut Volume,
    read: ReadAt<'_>,
    region: &Region,
    (settings, new): (Vec<Small>, Vec<New>),
    renamed: &[(String, String)],
    credentials: &[Sealed],
) -> Result<()> {
    let is_complete = settings.is_empty() && credentials::are_there(volume, read, credentials::LIST, credentials)?;
    if new.is_empty() && is_complete && renamed.is_empty() && !volume.is_dirty() {
        return Ok(());
    }
    // Who counts the free clusters does it anew from now on.
    apply(region, vec![coded(volume.uncount(read))?.into_iter().collect()])?;
    for (path, bytes) in settings {
        small(volume, read, region, path, bytes)?;
    }
    credentials::install(volume, read, region, credentials::LIST, credentials)?;
    for New { path, cluster, size } in in_order(volume, read, new)? {
        name(volume, read, region, &path, cluster, size).with_context(|| format!("giving {path} its name"))?;
    }
    for (path, name) in renamed {
        let steps = coded(volume.rename(path, name, read)).with_context(|| format!("renaming {path} to {name}"))?;
        apply(region, steps)?;
    }
    apply(region, vec![volume.fat_writes()])
}

/// Makes the file system hold what a verifier has given, beside all else.
pub(super) fn hold_attested(volume: &mut Volume, read: ReadAt<'_>, region: &Region, attested: &[Sealed]) -> Result<()> {
    if credentials::are_there(volume, read, credentials::ATTESTED, attested)? {
        return Ok(());
    }
    apply(region, vec![coded(volume.uncount(read))?.into_iter().collect()])?;
    credentials::install(volume, read, region, credentials::ATTESTED, attested)?;
    apply(region, vec![volume.fat_writes()])
}

/// Files that take over a name come first, the boot loaders before the UKI; then a UKI that has had no name; last boot loaders
/// that have had none, since they would have nothing to start.
fn in_order(volume: &Volume, read: ReadAt<'_>, mut new: Vec<New>) -> Result<Vec<New>> {
    let mut absent = Vec::new();
    for New { path, .. } in &new {
        if coded(look_up(volume, path, read))?.is_none() {
            absent.push(path.clone());
        }
    }
    let is_loader = |path: &str| [FALLBACK_LOADER, LOADER].contains(&path);
    new.sort_by_key(|New { path, .. }| (absent.contains(path), absent.contains(path) && is_loader(path)));
    Ok(new)
}

/// The small files beside boot loader and UKI that are missing, or that say something else.
fn settings(volume: &Volume, read: ReadAt<'_>) -> Result<Vec<Small>> {
    let mut wrong = Vec::new();
    for (path, bytes) in [LOADER_CONF, ENTRIES_SREL, (RANDOM_SEED, &[])] {
        if coded(look_up(volume, path, read))?.is_none() {
            wrong.push((path, if path == RANDOM_SEED { random_seed()? } else { bytes.to_vec() }));
        }
    }
    // What is no configuration for its size says nothing to systemd-boot either.
    if let Ok(Some(there)) = volume.read_file(LOADER_CONF.0, loader_conf::MOST_BYTES, read) {
        wrong.extend(loader_conf::without_choice(&there).map(|rest| (LOADER_CONF.0, rest)));
    }
    Ok(wrong)
}

/// Notes the intents, where the file says something else, and gives those that it does not say afterwards. It comes behind all
/// that a machine needs to start, and what keeps it from being written is no reason to end a run: others know of them too.
fn note(volume: &mut Volume, read: ReadAt<'_>, region: &Region, intents: &[String]) -> Result<Vec<String>> {
    let known = Noted::on(volume, read).unwrap_or_default().intents;
    if known == intents {
        return Ok(Vec::new());
    }
    let unnoted = || -> Vec<String> { intents.iter().filter(|intent| !known.contains(intent)).cloned().collect() };
    if !takes_note(volume, read)? {
        return Ok(unnoted());
    }
    apply(region, vec![coded(volume.uncount(read))?.into_iter().collect()])?;
    match small(volume, read, region, INTENTS, intents_file(intents)) {
        Ok(()) => apply(region, vec![volume.fat_writes()]).map(|()| Vec::new()),
        Err(error) if code_of(&error) == Code::Esp => {
            log::warn!("{error:#}");
            Ok(unnoted())
        }
        Err(error) => Err(error),
    }
}

/// Whether there is room for the file of intents: a cluster of its own, one for its directory, and one by which a directory may
/// have to grow. One that is there can be replaced only where its clusters are known.
fn takes_note(volume: &Volume, read: ReadAt<'_>) -> Result<bool> {
    let clusters = match coded(look_up(volume, INTENTS, read))? {
        Some((_, entry)) if volume.runs(entry.cluster, entry.size.into()).is_err() => return Ok(false),
        Some(_) => 1,
        None => 3,
    };
    Ok(volume.free_bytes() >= volume.cluster_bytes().saturating_mul(clusters))
}

/// Lets the clusters be found as the file at `path`, instead of what was found there before.
fn name(volume: &mut Volume, read: ReadAt<'_>, region: &Region, path: &str, cluster: u32, size: u64) -> Result<()> {
    let size = u32::try_from(size).context("a file of more than 4 GiB on a FAT")?;
    let mut parents: Vec<&str> = path.match_indices('/').filter_map(|(at, _)| path.get(..at)).collect();
    parents.retain(|parent| !parent.is_empty());
    for parent in parents {
        if coded(volume.directory(parent, read))?.is_none() {
            apply(region, coded(volume.make_directory(parent, read))?)?;
        }
    }
    let steps = match coded(look_up(volume, path, read))? {
        Some((path, _)) => volume.replace(&path, cluster, size, read),
        None => volume.add(path, cluster, size, read),
    };
    apply(region, coded(steps)?)
}

/// Writes a file that comes from no payload.
pub(super) fn small(volume: &mut Volume, read: ReadAt<'_>, region: &Region, path: &str, bytes: Vec<u8>) -> Result<()> {
    let size = u64::try_from(bytes.len())?;
    if size == 0 {
        // It has no clusters.
        return name(volume, read, region, path, 0, 0);
    }
    let (cluster, writes) = lay_out(volume, bytes)?;
    for write in writes {
        region.write_at(write.offset, &write.bytes).code(Code::DiskIo, || format!("writing {path}"))?;
    }
    name(volume, read, region, path, cluster, size)
}

/// Takes the names of the UKIs at `paths` away, so that the slot they start may be overwritten. A partition without a file
/// system has none.
///
/// # Errors
/// [`Code::Esp`] if the file system cannot be changed, [`Code::DiskIo`].
pub fn unname(region: &Region, paths: &[String]) -> Result<()> {
    if paths.is_empty() {
        return Ok(());
    }
    let Some((mut volume, _)) = open(region)? else { return Ok(()) };
    let read = |offset: u64, buffer: &mut [u8]| region.read_at(offset, buffer);
    apply(region, vec![coded(volume.uncount(&read))?.into_iter().collect()])?;
    for path in paths {
        let steps = coded(volume.remove(path, &read)).with_context(|| format!("removing {path}"))?;
        apply(region, steps)?;
    }
    Ok(())
}
