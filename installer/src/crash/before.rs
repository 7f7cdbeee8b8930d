//! The disk before the run.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use metalstrap_release::host::Mode;
use metalstrap_release::manifest::Manifest;

use super::foreign::Foreign;
use super::ghosts::Ghosts;
use super::judge::{FALLBACK, Judge, Which};
use super::lived::{Kept, live};
use super::releases::{Releases, sealed};
use super::runs::{Runs, pages};
use super::scenario::Before;
use super::sysupdated;
use super::tables::linux;
use crate::disk::{Disk, Memory, Recording, replay};
use crate::esp;
use crate::refusals::published::{ESP_BYTES, Published};
use crate::refusals::trial::DISK_BYTES;

/// Where the ESP begins.
pub const ESP_START: u64 = 1 << 20;
const PAGE: u64 = 4096;
/// Blocks that rot, of the hash file and of the root file system.
const ROTTEN_HASHES: [u64; 2] = [1, 3];
const ROTTEN_DATA: Range<u64> = 45..95;

/// A disk, what is on it, and who knows.
#[derive(Debug)]
pub struct Start {
    pub disk: Memory,
    /// Pages that are other than zero.
    pub pages: BTreeSet<u64>,
    pub judge: Judge,
    pub kept: Option<Kept>,
    /// What must not be found once the new system runs, beside what a foreign one has.
    pub ghosts: Ghosts,
}

impl Start {
    pub fn new(releases: &Releases, sector_size: u32) -> Self {
        let recording = Arc::new(Recording::memory(DISK_BYTES, sector_size));
        let disk = Arc::clone(&recording) as Arc<dyn Disk>;
        let (scenario, new) = (&releases.scenario, &releases.new);
        let mut judge = Judge { releases: vec![(Which::New, new.manifest.clone())], foreign: None };
        judge.releases.extend(releases.next.iter().map(|next| (Which::Next, next.manifest.clone())));
        let (mut kept, mut ghosts) = (None, Ghosts::default());
        match scenario.before {
            Before::Nothing => {}
            Before::Old => {
                let old = releases.old.as_ref().unwrap();
                install(old, &recording);
                kept = Some(live(&disk, &old.manifest));
                if scenario.has_ghosts {
                    ghosts = Ghosts::raise(disk.as_ref());
                }
                judge.releases.push((Which::Old, old.manifest.clone()));
            }
            Before::Sysupdated { cut } => {
                let (first, second) = (releases.first.as_ref().unwrap(), releases.old.as_ref().unwrap());
                install(first, &recording);
                kept = Some(live(&disk, &first.manifest));
                sysupdated::update(&disk, second, cut);
                // The other one starts never again: it goes first.
                let starts = if cut { first } else { second };
                judge.releases.push((Which::Old, starts.manifest.clone()));
            }
            Before::Remembered => {
                let (first, second) = (releases.first.as_ref().unwrap(), releases.old.as_ref().unwrap());
                install(first, &recording);
                kept = Some(live(&disk, &first.manifest));
                install(second, &recording);
                // The other one is the older: it goes first.
                judge.releases.push((Which::Old, second.manifest.clone()));
            }
            Before::Damaged => {
                install(new, &recording);
                kept = Some(live(&disk, &new.manifest));
                damage(disk.as_ref(), &new.manifest);
                if !releases.for_machines {
                    damage_boot_files(disk.as_ref(), &new.manifest);
                }
            }
            Before::Foreign => judge.foreign = Some(Foreign::new(disk.as_ref())),
        }
        let (log, memory) = (recording.log(), Memory::new(DISK_BYTES, sector_size));
        replay(&log, &memory).unwrap();
        Self { disk: memory, pages: pages(&log), judge, kept: kept.filter(|_| scenario.keeps), ghosts }
    }
}

fn install(published: &Published, recording: &Arc<Recording>) {
    let disk = Arc::clone(recording) as Arc<dyn Disk>;
    let outcome = Runs::new(published.clone(), Mode::Install).run(&disk, &pages(&recording.log()));
    outcome.result.unwrap();
}

/// Flips a bit in some blocks of the installed slot, and in the partition table at the end of the disk.
fn damage(disk: &dyn Disk, manifest: &Manifest) {
    let parts = linux(disk, "").unwrap();
    let hash = manifest.root().unwrap().root_hash;
    let start = |half: &[u8]| parts.iter().find(|part| part.uuid.as_bytes()[..] == *half).unwrap().start;
    let (data, hashes) = (start(&hash.0[..16]), start(&hash.0[16..]));
    ROTTEN_HASHES.into_iter().for_each(|block| flip(disk, hashes + block * PAGE + 700));
    ROTTEN_DATA.for_each(|block| flip(disk, data + block * PAGE + 700));
    flip(disk, DISK_BYTES - u64::from(disk.sector_size()) + 20);
}

/// The same in a block of the UKI and of the boot loader.
fn damage_boot_files(disk: &dyn Disk, manifest: &Manifest) {
    for path in [FALLBACK.to_owned(), format!("EFI/Linux/{}", manifest.uki_name())] {
        flip(disk, place_of(manifest, disk.sector_size(), &path) + 7 * PAGE);
    }
}

/// Where a file of the ESP lies on the disk.
pub fn place_of(manifest: &Manifest, sector_size: u32, path: &str) -> u64 {
    let order = esp::Order { credentials: &sealed(&manifest.version), ..esp::Order::of(manifest) };
    let layout = esp::layout(order, ESP_BYTES, sector_size).unwrap();
    ESP_START + layout.extents().iter().find(|extent| extent.path == path).unwrap().offset
}

/// Makes a bit of the byte at `place` another one.
pub fn flip(disk: &dyn Disk, place: u64) {
    let (mut block, start) = ([0; 4096], place - place % PAGE);
    disk.read_at(start, &mut block).unwrap();
    block[usize::try_from(place % PAGE).unwrap()] ^= 1;
    disk.write_at(start, &block).unwrap();
}
