//! Points whose disks machines boot, to check the judge: `tests/tests/crash.rs` starts them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::chance::Chance;
use super::cut::Cut;
use super::judge::{Boot, Which};
use super::points::{Effort, points};
use super::prepared::Prepared;
use super::releases::Releases;
use super::scenario::{SECTOR_SIZES, Scenario};
use super::tables;
use crate::disk::Disk;

/// Those whose systems are more than signatures.
const SCENARIOS: [&str; 7] =
    ["fresh", "reimage", "downgrade", "sysupdate", "replace", "repair-in-place", "single-slot"];
/// Points of each, at each sector size: 28 in all.
const EACH: usize = 2;
/// What they are chosen from.
const FEW: Effort = Effort { singles: 4, subsets: 60, reruns: 0, resumes: false };

/// Writes disks and what is to become of them to `out/crash/machines`.
pub fn write(seed: u64) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../out/crash/machines");
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    let mut all: Vec<Value> = Vec::new();
    for (name, sector_size) in SCENARIOS.into_iter().flat_map(|name| SECTOR_SIZES.map(|size| (name, size))) {
        let prepared = Prepared::new(Releases::tiny(Scenario::named(name)), sector_size);
        for (cut, boot) in choose(&prepared, seed) {
            let image = format!("{}.img", all.len());
            prepared.write_image(prepared.left_by(&cut).as_ref(), &folder.join(&image));
            all.push(json!({
                "image": image, "point": format!("{name}/{sector_size}/{cut}"), "sector_size": sector_size,
                "judged": word(&boot), "root_hash": root_hash(&prepared, &boot),
            }));
        }
    }
    fs::write(folder.join("points.json"), serde_json::to_string_pretty(&all).unwrap()).unwrap();
}

/// Some points, of each kind of end as many as of the others where there are enough.
fn choose(prepared: &Prepared, seed: u64) -> Vec<(Cut, Boot)> {
    let mut chance = Chance::new(seed);
    let sector = usize::try_from(prepared.sector_size).unwrap();
    let points = points(&prepared.epochs, sector, FEW, &mut chance);
    let mut kinds = BTreeMap::<&str, Vec<(Cut, Boot)>>::new();
    let flushed = Arc::new(prepared.start.clone());
    for (epoch, points) in prepared.epochs.iter().zip(points) {
        for point in points {
            let boot = after_firmware(prepared, &point.cut.leave(&flushed, epoch));
            kinds.entry(word(&boot)).or_default().push((point.cut, boot));
        }
        epoch.apply(flushed.as_ref());
    }
    let mut chosen = Vec::new();
    while chosen.len() < EACH {
        for points in kinds.values_mut().filter(|points| !points.is_empty()).take(EACH - chosen.len()) {
            chosen.push(points.swap_remove(chance.below(points.len())));
        }
    }
    chosen
}

/// What the judge says of a machine whose firmware mends the partition table, as that of virtual machines does.
fn after_firmware(prepared: &Prepared, disk: &Arc<dyn Disk>) -> Boot {
    prepared.judge.boot(tables::mended(disk).as_ref().unwrap_or(disk))
}

fn word(boot: &Boot) -> &'static str {
    match boot {
        Boot::Starts(_) => "starts",
        Boot::Nothing(_) => "nothing",
        Boot::NoUki => "no-uki",
        Boot::Stuck(_) => "stuck",
    }
}

/// The root hash of the system that starts.
fn root_hash(prepared: &Prepared, boot: &Boot) -> Option<String> {
    let Boot::Starts(which) = boot else { return None };
    let (_, manifest) = prepared.judge.releases.iter().find(|(known, _): &&(Which, _)| known == which)?;
    Some(manifest.root().unwrap().root_hash.to_string())
}
