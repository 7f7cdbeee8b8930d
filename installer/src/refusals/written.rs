//! What a good run writes, and so the only bytes that a refused one may have written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use super::published::{ESP_BYTES, apart, good, loader, root_image, uki};
use super::trial::Trial;
use crate::disk::Recorded;
use crate::esp;

const SECTOR: usize = 512;
/// Where the ESP begins.
const ESP_START: u64 = 1 << 20;
/// Bytes of the ESP's random seed, the only ones that differ from run to run.
const SEED_BYTES: usize = 32;

type Sectors = BTreeMap<u64, Vec<u8>>;

/// A good run's writes, by sector number.
struct Golden {
    /// All that was ever in a sector.
    ever: BTreeMap<u64, BTreeSet<Vec<u8>>>,
    /// What was in it at the end.
    end: Sectors,
    /// The last write of all: the boot sector, by which the UKI is found.
    name: (u64, Vec<u8>),
    seed: u64,
}

static GOLDEN: LazyLock<Golden> = LazyLock::new(|| {
    let outcome = apart(async || Trial::of(&good()).run().await);
    outcome.result.as_ref().unwrap();
    let extent = extent("loader/random-seed");
    let mut golden =
        Golden { ever: BTreeMap::new(), end: BTreeMap::new(), name: (0, Vec::new()), seed: extent.0 / SECTOR as u64 };
    for (sector, bytes) in sectors(&outcome.log) {
        golden.name = (sector, bytes.clone());
        golden.end.insert(sector, bytes.clone());
        golden.ever.entry(sector).or_default().insert(bytes);
    }
    golden
});

/// Where a file of the ESP lies on the disk, and its bytes.
fn extent(path: &str) -> (u64, usize) {
    let layout = esp::layout(esp::Order::of(&good().manifest), ESP_BYTES, 512).unwrap();
    let extent = layout.extents().iter().find(|extent| extent.path == path).unwrap();
    (ESP_START + extent.offset, usize::try_from(extent.size).unwrap())
}

/// Every sector written, in order.
fn sectors(log: &[Recorded]) -> impl Iterator<Item = (u64, Vec<u8>)> {
    let writes = log.iter().filter_map(|what| match what {
        Recorded::Write { offset, bytes } => Some((*offset, bytes)),
        Recorded::Flush => None,
    });
    writes.flat_map(|(offset, bytes)| (offset / SECTOR as u64..).zip(bytes.chunks(SECTOR).map(<[u8]>::to_vec)))
}

impl Golden {
    /// The sector without what is random in it.
    fn settled(&self, sector: u64, mut bytes: Vec<u8>) -> Vec<u8> {
        if sector == self.seed && bytes[..SEED_BYTES] != [0; SEED_BYTES] {
            bytes[..SEED_BYTES].copy_from_slice(&self.end[&sector][..SEED_BYTES]);
        }
        bytes
    }

    /// Whether a good run has ever written that there; `bytes` are settled.
    fn knows(&self, sector: u64, bytes: &[u8]) -> bool {
        self.ever.get(&sector).is_some_and(|ever| ever.contains(bytes))
    }
}

/// Bytes of the sectors that were written with something that no good run writes there.
pub fn unverified(log: &[Recorded]) -> usize {
    let settled = sectors(log).map(|(sector, bytes)| (sector, GOLDEN.settled(sector, bytes)));
    settled.filter(|(sector, bytes)| !GOLDEN.knows(*sector, bytes)).map(|(_, bytes)| bytes.len()).sum()
}

/// Every sector written holds what a good run wrote there, and the UKI has no name.
#[track_caller]
pub fn assert_only_verified(log: &[Recorded]) {
    assert!(!log.is_empty(), "nothing was written at all");
    for (sector, bytes) in sectors(log) {
        let bytes = GOLDEN.settled(sector, bytes);
        assert!(GOLDEN.knows(sector, &bytes), "sector {sector} was written with bytes that no good run writes there");
        assert!((sector, bytes) != GOLDEN.name, "the UKI got its name");
    }
}

/// The disk ends as in any good run.
#[track_caller]
pub fn assert_whole(log: &[Recorded]) {
    let end: Sectors = sectors(log).map(|(sector, bytes)| (sector, GOLDEN.settled(sector, bytes))).collect();
    assert!(end == GOLDEN.end, "another disk than that of a good run");
}

/// The bytes at the end of a good run.
fn at_the_end(offset: u64, length: usize) -> Vec<u8> {
    let first = offset / SECTOR as u64;
    (first..).map_while(|sector| GOLDEN.end.get(&sector)).flatten().copied().take(length).collect()
}

#[test]
fn a_good_run_writes_the_release_and_lets_its_uki_be_found_last() {
    // 1 MiB, ESP and hash tree come before it.
    assert!(at_the_end(ESP_START + ESP_BYTES + (1 << 20), root_image().len()) == root_image());
    for (path, content) in
        [("EFI/Linux/tiny_1+3.efi", uki()), (esp::LOADER, loader()), (esp::FALLBACK_LOADER, loader())]
    {
        let (offset, size) = extent(path);
        assert!(size == content.len() && at_the_end(offset, size) == content, "{path}");
    }
    let (sector, bytes) = &GOLDEN.name;
    let boots = |bytes: &Vec<u8>| bytes.ends_with(&[0x55, 0xAA]);
    assert_eq!(*sector, ESP_START / SECTOR as u64);
    assert!(
        boots(bytes) && !GOLDEN.ever[sector].iter().all(boots),
        "the last write is the boot sector, and none before it"
    );
    assert!(at_the_end(extent("loader/random-seed").0, 32) != [0; 32]);
}

#[tokio::test]
async fn a_second_run_ends_with_the_same_disk() {
    Trial::of(&good()).run().await.installed();
}

#[test]
#[should_panic(expected = "bytes that no good run writes there")]
fn a_single_wrong_bit_is_noticed() {
    let sector = (ESP_START + ESP_BYTES + (1 << 20)) / SECTOR as u64;
    let mut bytes = GOLDEN.end[&sector].clone();
    bytes[511] ^= 1;
    assert_only_verified(&[Recorded::Write { offset: sector * SECTOR as u64, bytes }]);
}

#[test]
#[should_panic(expected = "the UKI got its name")]
fn a_named_uki_is_noticed() {
    let (sector, bytes) = GOLDEN.name.clone();
    assert_only_verified(&[Recorded::Write { offset: sector * SECTOR as u64, bytes }]);
}
