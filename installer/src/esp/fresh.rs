//! A fresh file system. The order is: hash trees (nothing written yet), the old file system's boot sectors away, the files'
//! blocks into their places, FATs and directories, all of it read back, the name of the UKI, and last the boot sector, by which
//! all of it can be found; with a flush wherever a later write means something only with the earlier ones.

use std::sync::Arc;

use anyhow::{Context as _, Result};

use super::file::{Wanted, expect, tree};
use super::place::Place;
use super::{
    ENTRIES_SREL, Esp, FALLBACK_LOADER, LOADER, LOADER_CONF, Order, RANDOM_SEED, credentials, layout, random_seed,
    uki_path,
};
use crate::boot_files::{INTENTS, intents_file};
use crate::converge::{Seed, Tally};
use crate::credentials::DIRECTORY;
use crate::disk::Region;
use crate::fat::Stage;
use crate::fetch::Mirrors;
use crate::progress::Progress;

/// Lays out a file system in `region` and writes the files of `order`. What an interrupted run has left in their places
/// stays.
pub(super) async fn lay_out(
    mirrors: &Arc<Mirrors>,
    order: Order<'_>,
    region: &Region,
    seeds: &[Seed],
    progress: &Progress,
) -> Result<Esp> {
    let layout = layout(order, region.size, region.disk.sector_size())?;
    let place = Place::new(region.clone(), layout);
    let mut tally = Tally::default();
    let files = wanted(mirrors, order, &place, &mut tally, progress).await?;
    place.stage(Stage::Invalidate).await.context("removing the old file system")?;
    let mut seeds = seeds.to_vec();
    for file in &files {
        tally += file.bring(mirrors, &seeds, progress).await?;
        // The second copy of the boot loader comes from the first.
        seeds.insert(0, Seed { region: file.place.clone(), tree: None });
    }
    place.small(LOADER_CONF.0, LOADER_CONF.1.to_vec()).await?;
    place.small(ENTRIES_SREL.0, ENTRIES_SREL.1.to_vec()).await?;
    place.small(RANDOM_SEED, random_seed()?).await?;
    if !order.intents.is_empty() {
        place.small(INTENTS, intents_file(order.intents)).await?;
    }
    for (name, bytes) in credentials::files(order.credentials) {
        place.small(&format!("{DIRECTORY}/{name}"), bytes).await?;
    }
    place.stage(Stage::Tables).await.context("writing the FATs and directories")?;

    // Before the UKI has a name: one that the drive did not keep never gets it.
    for file in &files {
        file.check(progress).await?;
    }
    place.stage(Stage::Publish).await.context("publishing the UKI")?;
    place.stage(Stage::Reserved).await.context("writing the copies of the boot sector")?;
    // One sector: all of it can be found, or nothing. A boot loader without a UKI would wait for a person.
    place.stage(Stage::BootSector).await.context("writing the boot sector")?;
    let [_, _, uki] = files;
    let unnoted = Vec::new();
    Ok(Esp { uki: uki.place, uki_size: uki.artifact.size, uki_tree: uki.tree, uki_path: uki.path, tally, unnoted })
}

/// The boot loader at both its places, and the UKI.
async fn wanted<'a>(
    mirrors: &Arc<Mirrors>,
    order: Order<'a>,
    place: &Place,
    tally: &mut Tally,
    progress: &Progress,
) -> Result<[Wanted<'a>; 3]> {
    let (loader, uki) = (&order.manifest.boot.loader, &order.manifest.boot.uki);
    let uki_path = uki_path(order.manifest);
    let (fallback, uki_place) = (place.of(FALLBACK_LOADER)?, place.of(&uki_path)?);
    expect(order.manifest, progress);
    let loader_tree = tree(mirrors, loader, Some(&fallback), tally, progress).await;
    let loader_tree = loader_tree.context("fetching the boot loader's hash tree")?;
    let uki_tree = tree(mirrors, uki, Some(&uki_place), tally, progress).await;
    let uki_tree = uki_tree.context("fetching the UKI's hash tree")?;
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
