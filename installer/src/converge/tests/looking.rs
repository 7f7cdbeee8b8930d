//! What is looked at, how it is told, and where looking at all of a place is left out.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::*;
use crate::disk::Disk as _;

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// What a seed without use, of 256 blocks, costs: bytes looked at, and how far the counter was at each of its reads.
fn look_at_useless_seed(fails: bool) -> (u64, BTreeSet<u64>) {
    let content = bytes(27, 64 * 4096);
    let repository = Repository::new();
    let payload = repository.publish(&content);
    let progress = Progress::default();
    let (watched, seen) = (progress.clone(), Arc::new(Mutex::new(BTreeSet::new())));
    let told = Arc::clone(&seen);
    let judge = move |operation| {
        if matches!(operation, Operation::Read(..)) {
            told.lock().unwrap().insert(watched.stirred());
        }
        fails.then(|| io::Error::from_raw_os_error(5))
    };
    let memory = Memory::new(1 << 20, 512);
    memory.write_at(0, &bytes(28, 1 << 20)).unwrap();
    let seeds = [Seed {
        region: Region { disk: Arc::new(Faulty::new(Arc::new(memory), judge)), start: 0, size: 1 << 20 },
        tree: None,
    }];
    let (_, region) = recording(1 << 20);
    let payloads = Payloads { data: &payload, fine: None };
    let mirrors = repository.mirrors();
    let tree = open_tree(&content);
    let brought = data(&mirrors, payloads, &tree, &region, &seeds, ReadBack::Later, &progress);
    assert_eq!(block_on(brought).unwrap().0.fetched, 64);
    assert_eq!(progress.look(), None);
    let (done, _, fetched) = progress.snapshot();
    let seen = seen.lock().unwrap().clone();
    (progress.stirred() - done - fetched, seen)
}

#[test]
fn what_is_looked_at_in_vain_is_counted() {
    // The place itself and the seed.
    assert_eq!(look_at_useless_seed(false).0, (64 + 256) * 4096);
    // A drive that fails each read is told of block by block: that can take it half a minute each.
    let (looked, seen) = look_at_useless_seed(true);
    assert_eq!(looked, (64 + 256) * 4096);
    assert_eq!(seen.len(), 256, "one step a block");
}

/// A content of 70 MiB, of which a sample is tried before all of its place is looked at; every block is another one.
fn large() -> Vec<u8> {
    (1..=70 * 256_u64).flat_map(|number| number.to_le_bytes().repeat(512)).collect()
}

/// Brings a large content to a place that holds `there` already: the tally, and how many blocks were read.
fn bring_large(there: impl FnOnce(&Region, &[u8])) -> (Tally, u64) {
    let content = large();
    let repository = Repository::new();
    let payload = repository.publish_in(&content, 1 << 20);
    let memory = Arc::new(Memory::new(START + content.len() as u64, 512));
    there(&region_on(Arc::clone(&memory) as Arc<_>, content.len() as u64), &content);
    let read = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counter = Arc::clone(&read);
    let judge = move |operation| {
        if let Operation::Read(_, length) = operation {
            counter.fetch_add(length / 4096, std::sync::atomic::Ordering::Relaxed);
        }
        None
    };
    let region = region_on(Arc::new(Faulty::new(memory, judge)), content.len() as u64);
    let tally = block_on(bring(&repository.mirrors(), &payload, &open_tree(&content), &region, &[])).unwrap();
    let read = read.load(std::sync::atomic::Ordering::Relaxed);
    assert!(on_disk(&region, content.len()) == content);
    (tally, read)
}

#[test]
fn a_large_content_in_its_place_is_kept_whole() {
    let (tally, _) = bring_large(|region, content| region.write_at(0, content).unwrap());
    assert_eq!(tally, Tally { kept: 70 * 256, ..Tally::default() });
}

#[test]
fn of_a_large_content_that_is_half_there_that_half_is_kept() {
    // From its start on, as a run that was cut leaves it; cut so early that little is there; and the end only.
    for (from, to) in [(0, 35 * 256), (0, 512), (65 * 256, 70 * 256)] {
        let bytes = from * 4096..to * 4096;
        let (tally, _) = bring_large(|region, content| region.write_at(bytes.start as u64, &content[bytes]).unwrap());
        let kept = (to - from) as u64;
        assert_eq!((tally.kept, tally.fetched), (kept, 70 * 256 - kept), "{from} to {to}");
    }
}

#[test]
fn a_large_place_with_nothing_of_it_is_not_read_through() {
    let (tally, read) = bring_large(|_, _| ());
    assert_eq!((tally.kept, tally.fetched), (0, 70 * 256));
    assert!((1..=64 + 256).contains(&read), "{read} blocks were read");
}
