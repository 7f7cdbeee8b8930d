//! The judge is judged: on a whole disk, and with one thing damaged.

use std::sync::Arc;

use super::before::{ESP_START, flip, place_of};
use super::epoch::Epoch;
use super::files::Files;
use super::judge::{Boot, Which};
use super::mtools;
use super::points::Effort;
use super::prepared::Prepared;
use super::releases::Releases;
use super::scenario::{SECTOR_SIZES, Scenario};
use super::walk::walk;
use crate::disk::{Disk, Overlay, Region};
use crate::esp;
use crate::refusals::published::ESP_BYTES;
use crate::refusals::trial::DISK_BYTES;

const MIB: u64 = 1 << 20;
const ROOT_START: u64 = ESP_START + ESP_BYTES + MIB;
const UKI: &str = "EFI/Linux/tiny_2+3.efi";

fn installed(sector_size: u32) -> Prepared {
    Prepared::new(Releases::new(Scenario::named("fresh")), sector_size)
}

/// What the judge says when a bit at each of these bytes is another one.
fn flipped(prepared: &Prepared, places: &[u64]) -> Boot {
    let disk: Arc<dyn Disk> = Arc::new(Overlay::new(Arc::clone(&prepared.end)));
    places.iter().for_each(|place| flip(disk.as_ref(), *place));
    prepared.judge.boot(&disk)
}

#[test]
fn whatever_is_damaged_is_seen() {
    for sector_size in SECTOR_SIZES {
        let mut prepared = installed(sector_size);
        let sector = u64::from(sector_size);
        let (primary, backup) = (sector + 20, DISK_BYTES - sector + 20);
        let [uki, loader] =
            [UKI, esp::FALLBACK_LOADER].map(|path| place_of(&prepared.judge.releases[0].1, sector_size, path) + 5000);
        let stuck = |why: &str| Boot::Stuck(why.to_owned());
        assert_eq!(flipped(&prepared, &[]), Boot::Starts(Which::New));
        assert_eq!(flipped(&prepared, &[uki]), stuck("tiny_2+3.efi: the UKI is damaged"));
        assert_eq!(flipped(&prepared, &[loader]), stuck("a boot loader is damaged"));
        assert_eq!(flipped(&prepared, &[primary]), stuck("tiny_2+3.efi: Linux reads no partition table"));
        assert_eq!(flipped(&prepared, &[backup]), Boot::Starts(Which::New));
        assert_eq!(flipped(&prepared, &[primary, backup]), Boot::Nothing("no partition table"));
        assert_eq!(flipped(&prepared, &[510]), Boot::Nothing("no partition table"));
        assert_eq!(flipped(&prepared, &[ESP_START + 510]), Boot::Nothing("no file system that firmware reads"));
        let block = flipped(&prepared, &[ROOT_START + 299 * 4096]);
        assert_eq!(block, stuck("tiny_2+3.efi: block 299 of the root file system is damaged"));
        let block = flipped(&prepared, &[ROOT_START - MIB + 4096]);
        assert_eq!(block, stuck("tiny_2+3.efi: block 1 of the hash tree is damaged"));
        prepared.judge.releases[0].1.boot.cmdline.push_str(" gpt");
        assert_eq!(flipped(&prepared, &[primary]), Boot::Starts(Which::New));
    }
}

#[test]
fn the_files_of_an_esp_are_those_that_mtools_reads() {
    for sector_size in SECTOR_SIZES {
        let prepared = installed(sector_size);
        let region = Region { disk: Arc::clone(&prepared.end), start: ESP_START, size: ESP_BYTES };
        let image = mtools::Image::of(&region);
        let files = Files::open(region).unwrap();
        let paths =
            [UKI, esp::FALLBACK_LOADER, esp::LOADER, "loader/loader.conf", "loader/random-seed", "EFI/Linux/other.efi"];
        for path in paths {
            let copy = image.run("mcopy", &[&format!("::/{path}"), "-"]);
            let expected = copy.status.success().then_some(copy.stdout);
            assert!(files.find(path).and_then(|named| files.read(&named)) == expected, "{path}");
            assert_eq!(expected.is_some(), path != "EFI/Linux/other.efi", "{path}");
        }
    }
}

#[test]
fn an_installer_that_does_not_flush_would_lose_machines() {
    let mut prepared = installed(512);
    let writes = prepared.epochs.iter().flat_map(|epoch| epoch.writes.clone()).collect();
    prepared.epochs = vec![Epoch { writes }];
    let tally = walk(&prepared, Effort { singles: 100, subsets: 100, reruns: 1, resumes: false }, 1);
    assert!(tally.lost > 20, "{tally:?}");
}
