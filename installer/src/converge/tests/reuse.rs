//! What the disk has already is not fetched, wherever it is; and of the rest no more frames than needed.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Mutex;

use bytes::Bytes;
use metalstrap_release::manifest::Payload;
use metalstrap_release::seek_table::SeekTable;
use metalstrap_release::verity::build;
use tokio::sync::mpsc;
use uuid::Uuid;

use super::*;
use crate::fetch::Fetching;

/// A source that remembers what it was asked for.
#[derive(Debug, Clone)]
struct Counting(Arc<Repository>, Arc<Mutex<Vec<Range<u64>>>>);

impl Counting {
    fn new(repository: Repository) -> Self {
        Self(Arc::new(repository), Arc::default())
    }

    /// The frames of `payload` that were fetched, by number; each only once.
    fn frames(&self, payload: &Payload) -> BTreeSet<usize> {
        let file = fs::read(self.0.path(payload)).unwrap();
        let start = usize::try_from(payload.size - payload.seek_table_size).unwrap();
        let table = SeekTable::parse(&file[start..], payload).unwrap();
        let mut found = BTreeSet::new();
        for range in self.1.lock().unwrap().iter().filter(|range| range.end <= start as u64) {
            let inside = |frame: &metalstrap_release::payload::Frame| {
                range.start <= frame.offset && frame.offset + frame.size <= range.end
            };
            let frames: Vec<_> = (0..).zip(table.frames()).filter(|(_, frame)| inside(frame)).collect();
            assert_eq!(
                frames.iter().map(|(_, frame)| frame.size).sum::<u64>(),
                range.end - range.start,
                "whole frames"
            );
            frames.into_iter().for_each(|(number, _)| assert!(found.insert(number), "frame {number} twice"));
        }
        found
    }
}

impl Source for Counting {
    fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a> {
        self.1.lock().unwrap().push(range.clone());
        self.0.source.fetch(path, range, sink)
    }

    small_files_from!(self, self.0.source);

    fn describe(&self) -> String {
        self.0.source.describe()
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// A content made of a few kinds of blocks, the first of which is zero.
fn blocks_of(kinds: &[u8]) -> Vec<u8> {
    let kind = |kind: &u8| if *kind == 0 { vec![0; 4096] } else { bytes(u64::from(*kind), 4096) };
    kinds.iter().flat_map(kind).collect()
}

/// Blocks of a frame in these tests.
const FRAME: usize = 4;

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    /// Whatever lies in the slot and in another one: the slot becomes the image, no frame is fetched that is not needed,
    /// and none twice.
    #[test]
    fn no_frame_is_fetched_that_could_be_left_out(
        image in proptest::collection::vec(0..40_u8, 1..120),
        old in proptest::collection::vec(0..60_u8, 0..120),
        other in proptest::collection::vec(20..60_u8, 0..40),
    ) {
        let content = blocks_of(&image);
        let source = Counting::new(Repository::new());
        let payload = source.0.publish_in(&content, 4096 * FRAME as u64);
        let (disk, region) = recording(1 << 20);
        region.write_at(0, &blocks_of(&old)).unwrap();
        let seed = Region { disk: Arc::new(Memory::new(1 << 20, 512)), start: 0, size: 1 << 20 };
        seed.write_at(0, &blocks_of(&other)).unwrap();
        let _before = disk.take();
        let tree = open_tree(&content);
        let seeds = [Seed { region: seed, tree: None }];
        let tally = block_on(bring(&only(source.clone()), &payload, &tree, &region, &seeds)).unwrap();
        prop_assert!(on_disk(&region, content.len()) == content);
        assert_only_verified(&disk.log(), &content);

        // An oracle that knows the kinds.
        let at = |index: usize| old.get(index).copied().unwrap_or(0);
        let right = |index: &usize| at(*index) == image[*index];
        let kept: BTreeSet<u8> = (0..image.len()).filter(right).map(|index| image[index]).collect();
        let local = |kind: u8| kind == 0 || kept.contains(&kind) || other.contains(&kind);
        let missing: Vec<usize> = (0..image.len()).filter(|index| !right(index) && !local(image[*index])).collect();
        let frames = source.frames(&payload);
        let brings = |frames: &BTreeSet<usize>| {
            let kinds: BTreeSet<u8> = missing.iter().filter(|index| frames.contains(&(**index / FRAME))).map(|index| image[*index]).collect();
            missing.iter().all(|index| kinds.contains(&image[*index]))
        };
        prop_assert!(brings(&frames));
        for frame in &frames {
            let without: BTreeSet<usize> = frames.iter().copied().filter(|other| other != frame).collect();
            prop_assert!(!brings(&without), "frame {} was not needed", frame);
        }
        // Where no content is wanted twice there is nothing to choose.
        let all: BTreeSet<usize> = missing.iter().map(|index| index / FRAME).collect();
        let kinds: BTreeSet<u8> = missing.iter().map(|index| image[*index]).collect();
        if kinds.len() == missing.len() {
            prop_assert_eq!(frames, all);
        }
        prop_assert_eq!(tally.kept, (0..image.len()).filter(right).count() as u64);
        prop_assert_eq!(tally.blocks(), image.len() as u64);
        prop_assert_eq!(tally.zero, (0..image.len()).filter(|index| !right(index) && image[*index] == 0).count() as u64);
    }
}

#[test]
fn a_frame_that_has_more_of_what_repeats_is_taken_before_those_that_have_less() {
    // Each of two contents is in a frame of its own too, and both are in the last one.
    let content = blocks_of(&[1, 0, 0, 0, 2, 0, 0, 0, 1, 2, 0, 0]);
    let source = Counting::new(Repository::new());
    let payload = source.0.publish_in(&content, 4096 * FRAME as u64);
    let (_, region) = recording(1 << 20);
    region.write_at(0, &bytes(29, content.len())).unwrap();
    let tally = block_on(bring(&only(source.clone()), &payload, &open_tree(&content), &region, &[])).unwrap();
    assert!(on_disk(&region, content.len()) == content);
    assert_eq!((source.frames(&payload), tally.fetched, tally.copied), (BTreeSet::from([2]), 2, 2));
}

#[test]
fn what_is_there_is_neither_fetched_nor_written() {
    let content = bytes(20, 1 << 20);
    let source = Counting::new(Repository::new());
    let payload = source.0.publish(&content);
    let (disk, region) = recording(2 << 20);
    region.write_at(0, &content).unwrap();
    let _before = disk.take();
    let tree = open_tree(&content);
    let tally = block_on(bring(&only(source.clone()), &payload, &tree, &region, &[])).unwrap();
    assert_eq!(tally, Tally { kept: 256, ..Tally::default() });
    assert_eq!((disk.log(), source.1.lock().unwrap().len()), (vec![], 0));
}

#[test]
fn an_old_tree_with_the_same_salt_says_where_to_look() {
    let (old, mut content) = (bytes(21, 1 << 20), bytes(21, 1 << 20));
    // Everything moves by a block, and one block is new.
    content.rotate_right(4096);
    content[..4096].copy_from_slice(&bytes(22, 4096));
    let source = Counting::new(Repository::new());
    let payload = source.0.publish(&content);
    let reads = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&reads);
    let memory = Memory::new(2 << 20, 512);
    let watched = Faulty::new(Arc::new(memory), move |operation| {
        if let Operation::Read(offset, length) = operation {
            told.lock().unwrap().push((offset, length));
        }
        None
    });
    let (_, old_tree) = tree_over(&old);
    let seed = Region { disk: Arc::new(watched), start: 0, size: 1 << 20 };
    let tree_region = Region { disk: Arc::new(Memory::new(1 << 20, 512)), start: 0, size: 1 << 20 };
    seed.write_at(0, &old).unwrap();
    tree_region.write_at(0, &old_tree).unwrap();
    let (_, region) = recording(2 << 20);
    let tree = open_tree(&content);
    let seeds = [Seed { region: seed, tree: Some(tree_region) }];
    let tally = block_on(bring(&only(source.clone()), &payload, &tree, &region, &seeds)).unwrap();
    assert!(on_disk(&region, content.len()) == content);
    assert_eq!((tally.copied, tally.fetched, source.frames(&payload)), (255, 1, BTreeSet::from([0])));
    // The last block of the old content is not in the new one: nobody read it.
    assert_eq!(*reads.lock().unwrap(), [(0, 255 * 4096)]);
}

#[test]
fn an_old_tree_that_lies_costs_a_fetch_and_nothing_else() {
    let content = bytes(23, 1 << 20);
    let (_, tree_file) = tree_over(&content);
    let source = Counting::new(Repository::new());
    let payload = source.0.publish(&content);
    let seed = Region { disk: Arc::new(Memory::new(1 << 20, 512)), start: 0, size: 1 << 20 };
    let tree_region = Region { disk: Arc::new(Memory::new(1 << 20, 512)), start: 0, size: 1 << 20 };
    seed.write_at(0, &bytes(24, 1 << 20)).unwrap();
    tree_region.write_at(0, &tree_file).unwrap();
    let (disk, region) = recording(2 << 20);
    let tree = open_tree(&content);
    let seeds = [Seed { region: seed, tree: Some(tree_region) }];
    let tally = block_on(bring(&only(source), &payload, &tree, &region, &seeds)).unwrap();
    assert!(on_disk(&region, content.len()) == content);
    assert_only_verified(&disk.log(), &content);
    assert_eq!((tally.copied, tally.fetched), (0, 256));
}

#[test]
fn an_old_tree_with_another_salt_says_nothing_and_all_is_looked_at() {
    let (old, mut content) = (bytes(30, 1 << 20), bytes(30, 1 << 20));
    content.rotate_right(4096);
    let source = Counting::new(Repository::new());
    let payload = source.0.publish(&content);
    let mut tree_file = io::Cursor::new(Vec::new());
    build(&mut &old[..], 256, &[8; 32], Uuid::nil(), &mut tree_file).unwrap();
    let place = || Region { disk: Arc::new(Memory::new(2 << 20, 512)), start: 0, size: 1 << 20 };
    let (seed, tree_region) = (place(), place());
    seed.write_at(0, &old).unwrap();
    tree_region.write_at(0, tree_file.get_ref()).unwrap();
    let (_, region) = recording(2 << 20);
    let seeds = [Seed { region: seed, tree: Some(tree_region) }];
    let tally = block_on(bring(&only(source), &payload, &open_tree(&content), &region, &seeds)).unwrap();
    assert!(on_disk(&region, content.len()) == content);
    assert_eq!((tally.copied, tally.fetched_bytes), (256, 0));
}

#[test]
fn an_old_tree_that_hides_what_is_there_costs_a_fetch_and_nothing_else() {
    let content = bytes(31, 1 << 20);
    let source = Counting::new(Repository::new());
    let payload = source.0.publish(&content);
    // The seed has all of the content, but its tree is over something else.
    let (_, tree_file) = tree_over(&bytes(32, 1 << 20));
    let place = || Region { disk: Arc::new(Memory::new(2 << 20, 512)), start: 0, size: 1 << 20 };
    let (seed, tree_region) = (place(), place());
    seed.write_at(0, &content).unwrap();
    tree_region.write_at(0, &tree_file).unwrap();
    let (disk, region) = recording(2 << 20);
    let seeds = [Seed { region: seed, tree: Some(tree_region) }];
    let tally = block_on(bring(&only(source), &payload, &open_tree(&content), &region, &seeds)).unwrap();
    assert!(on_disk(&region, content.len()) == content);
    assert_only_verified(&disk.log(), &content);
    assert_eq!((tally.copied, tally.fetched), (0, 256));
}

#[test]
fn small_frames_are_fetched_where_little_is_missing() {
    let content = bytes(25, 4 << 20);
    let source = Counting::new(Repository::new());
    let (data, fine) = (source.0.publish_in(&content, 1 << 20), source.0.publish_in(&content, 64 << 10));
    let payloads = Payloads { data: &data, fine: Some(&fine) };
    let (_, region) = recording(8 << 20);
    let tree = open_tree(&content);
    let bring = || {
        let progress = Progress::default();
        block_on(super::data(&only(source.clone()), payloads, &tree, &region, &[], ReadBack::Meanwhile, &progress))
            .unwrap()
            .0
    };
    assert_eq!(bring().fetched_bytes, data.size);
    region.write_at(5 * 4096, &[0xEE; 4096]).unwrap();
    let tally = bring();
    assert_eq!((tally.kept, tally.fetched), (1023, 1));
    let least = (64 << 10)..(80 << 10);
    let tables = data.seek_table_size + fine.seek_table_size;
    assert!(least.contains(&(tally.fetched_bytes - tables)), "{} bytes", tally.fetched_bytes);
}

#[test]
fn an_unreadable_block_is_fetched_again() {
    let content = bytes(26, 1 << 20);
    let source = Counting::new(Repository::new());
    let payload = source.0.publish(&content);
    let memory = Arc::new(Memory::new(START + (2 << 20), 512));
    region_on(Arc::clone(&memory) as Arc<_>, 2 << 20).write_at(0, &content).unwrap();
    let bad = START + 100 * 4096 + 512;
    let disk = Faulty::new(memory, move |operation| match operation {
        Operation::Read(offset, length) if (offset..offset + length).contains(&bad) => {
            Some(io::Error::from_raw_os_error(5))
        }
        _ => None,
    });
    let region = region_on(Arc::new(disk), 2 << 20);
    let tree = open_tree(&content);
    let tally = block_on(bring(&only(source.clone()), &payload, &tree, &region, &[])).unwrap();
    assert_eq!((tally.kept, tally.fetched, source.frames(&payload)), (255, 1, BTreeSet::from([6])));
}
