//! Any schedule of faults ends with the image in its place, or with an error and nothing in it that was not checked.

use std::sync::atomic::{AtomicUsize, Ordering};

use metalstrap_release::verity::build;
use uuid::Uuid;

use super::super::fill::fill;
use super::unreliable::{Fault, Unreliable, any_fault};
use super::*;
use crate::fetch::Mirrors;

/// What a person wants to install, what lies there, and what will go wrong.
#[derive(Debug, Clone)]
struct Case {
    seed: u64,
    blocks: usize,
    /// Blocks of the image that lie in the slot already.
    there: Vec<prop::sample::Index>,
    mirrors: Vec<Vec<Fault>>,
    /// What the disk fails, if anything: which read, write or flush.
    bad: Option<(Failing, usize)>,
    /// How many different blocks the image has, one of them zeroes; else all are different.
    kinds: Option<u64>,
    /// Blocks of the image that lie in another slot, somewhere else than they should.
    elsewhere: Vec<prop::sample::Index>,
    /// The tree of that slot.
    hint: Hint,
    /// Whether there is a payload in small frames too.
    fine: bool,
    /// Bytes that a cut may cost: with few of them the disk is flushed again and again.
    at_risk: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failing {
    Read,
    Write,
    /// A write, half of which is on the disk then.
    Tear,
    Flush,
}

/// What an old tree says of the blocks below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hint {
    /// There is none.
    None,
    Right,
    OtherSalt,
    /// Something else than what is there.
    Lying,
}

impl Case {
    fn content(&self) -> Vec<u8> {
        let Some(kinds) = self.kinds else { return bytes(self.seed, self.blocks * 4096) };
        let kind = |block: usize| (block as u64).wrapping_mul(self.seed | 1) % kinds;
        let block = |block: usize| match kind(block) {
            0 => vec![0; 4096],
            kind => bytes(self.seed.wrapping_add(kind), 4096),
        };
        (0..self.blocks).flat_map(block).collect()
    }

    /// Another slot with blocks of the image in another order.
    fn seeds(&self, content: &[u8]) -> Vec<Seed> {
        let region = Region { disk: Arc::new(Memory::new(1 << 20, 512)), start: 0, size: 1 << 20 };
        for (place, at) in (0..256).zip(&self.elsewhere) {
            let at = at.index(content.len() / 4096) * 4096;
            region.write_at(place * 4096, &content[at..at + 4096]).unwrap();
        }
        let mut below = on_disk(&region, 1 << 20);
        let salt = if self.hint == Hint::OtherSalt { [8; 32] } else { SALT };
        if self.hint == Hint::Lying {
            // All it has is said to be elsewhere.
            below.rotate_left(17 * 4096);
        }
        let tree = (self.hint != Hint::None).then(|| {
            let mut file = io::Cursor::new(Vec::new());
            build(&mut &below[..], 256, &salt, Uuid::nil(), &mut file).unwrap();
            let tree = Region { disk: Arc::new(Memory::new(1 << 20, 512)), start: 0, size: 1 << 20 };
            tree.write_at(0, file.get_ref()).unwrap();
            tree
        });
        vec![Seed { region, tree }]
    }

    /// Whether nothing may keep the run from ending well: the disk is sound, and there is a mirror that does no more than
    /// break off, stall, be busy or know no ranges, and that not as often as it is asked again.
    fn must_end_well(&self) -> bool {
        self.bad.is_none() && self.mirrors.iter().any(|faults| !faults.iter().any(Fault::lies))
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let mirrors = proptest::collection::vec(proptest::collection::vec(any_fault(), 0..8), 1..4);
    let places = || proptest::collection::vec(any::<prop::sample::Index>(), 0..50);
    let failing = prop_oneof![Just(Failing::Read), Just(Failing::Write), Just(Failing::Tear), Just(Failing::Flush)];
    let hint = prop_oneof![Just(Hint::None), Just(Hint::Right), Just(Hint::OtherSalt), Just(Hint::Lying)];
    let bad = proptest::option::weighted(0.3, (failing, 0..10_usize));
    let kinds = proptest::option::weighted(0.4, 1..60_u64);
    let at_risk = prop_oneof![Just(128_u64 << 10), Just(1 << 20), Just(56 << 20)];
    (any::<u64>(), 1..300_usize, places(), mirrors, bad, kinds, places(), hint, (any::<bool>(), at_risk)).prop_map(
        |(seed, blocks, there, mirrors, bad, kinds, elsewhere, hint, (fine, at_risk))| Case {
            seed,
            blocks,
            there,
            mirrors,
            bad,
            kinds,
            elsewhere,
            hint,
            fine,
            at_risk,
        },
    )
}

/// A disk with a part of the content in its place.
fn disk_with(case: &Case, content: &[u8], size: u64) -> (Arc<Recording>, Region) {
    let (disk, region) = recording(size);
    for at in &case.there {
        let at = at.index(content.len() / 4096) * 4096;
        region.write_at(at as u64, &content[at..at + 4096]).unwrap();
    }
    let _before = disk.take();
    let Some((failing, bad)) = case.bad else { return (Arc::clone(&disk), region) };
    let count = AtomicUsize::new(0);
    let faulty = Faulty::new(Arc::clone(&disk) as Arc<_>, move |operation| {
        let is_meant = match operation {
            Operation::Read(..) => failing == Failing::Read,
            Operation::Write(..) => matches!(failing, Failing::Write | Failing::Tear),
            Operation::Flush => failing == Failing::Flush,
            Operation::Forget => false,
        };
        let fails = is_meant && count.fetch_add(1, Ordering::Relaxed) == bad;
        fails.then(|| io::Error::from_raw_os_error(5))
    });
    let faulty = if failing == Failing::Tear { faulty.tearing() } else { faulty };
    (disk, region_on(Arc::new(faulty), size))
}

fn mirrors_of(case: &Case, repository: &Arc<Repository>) -> Vec<Arc<Unreliable>> {
    let mirror = |(number, faults): (usize, &Vec<Fault>)| Arc::new(Unreliable::new(repository, number, faults));
    case.mirrors.iter().enumerate().map(mirror).collect()
}

fn together(list: &[Arc<Unreliable>]) -> Arc<Mirrors> {
    Arc::new(Mirrors::new(list.iter().map(|mirror| Arc::clone(mirror) as Arc<dyn Source>).collect()))
}

/// Whoever was dropped has sent something wrong.
fn only_liars_are_dropped(mirrors: &Mirrors, list: &[Arc<Unreliable>]) -> bool {
    let lied = |name: &str| list.iter().any(|mirror| mirror.name == name && mirror.has_lied());
    mirrors.dropped().iter().all(|(name, _)| lied(name))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_slot_is_the_image_or_nothing_unchecked_was_written(case in any_case()) {
        let content = case.content();
        let repository = Arc::new(Repository::new());
        let payload = repository.publish_in(&content, 32 << 10);
        let fine = case.fine.then(|| repository.publish_in(&content, 8 << 10));
        let (disk, region) = disk_with(&case, &content, 2 << 20);
        let tree = open_tree(&content);
        let list = mirrors_of(&case, &repository);
        let mirrors = together(&list);
        let (seeds, progress) = (case.seeds(&content), Progress::default());
        let bring = |mirrors: &Arc<Mirrors>, region: &Region| {
            run(async {
                let goal = goal_of(&payload, mirrors, &tree, region, &progress);
                let goal = Goal { reads_back: true, at_risk: case.at_risk, ..goal };
                let fine = fine.as_ref().map(|payload| Frames::new(payload, mirrors));
                let proven = Arc::new(BlockSet::new(goal.blocks.clone()));
                let tally = fill(&goal, fine.as_ref(), &seeds, &proven).await?;
                read_back(region, &tree, &proven, &progress).await.map(|()| tally)
            })
        };
        let done = bring(&mirrors, &region);
        assert_only_verified(&disk.log(), &content);
        prop_assert!(only_liars_are_dropped(&mirrors, &list), "{:?}", mirrors.dropped());
        match done {
            Ok(tally) => {
                let region = region_on(disk, 2 << 20);
                prop_assert!(on_disk(&region, content.len()) == content);
                prop_assert_eq!(tally.blocks(), case.blocks as u64);
            }
            Err(error) => {
                prop_assert!(!case.must_end_well(), "{:#}", error);
                // Whatever it was, the next run finds what is there and ends well.
                let region = region_on(disk, 2 << 20);
                let tally = bring(&repository.mirrors(), &region).unwrap();
                prop_assert!(on_disk(&region, content.len()) == content);
                prop_assert_eq!(tally.blocks(), case.blocks as u64);
            }
        }
    }

    #[test]
    fn the_hash_tree_is_the_right_one_or_nothing_unchecked_was_written(case in any_case()) {
        let content = bytes(case.seed, case.blocks * 4096);
        let (root_hash, file) = tree_over(&content);
        let repository = Arc::new(Repository::new());
        let payload = repository.publish_in(&file, 4096);
        let (disk, region) = disk_with(&case, &file, 1 << 20);
        let list = mirrors_of(&case, &repository);
        let mirrors = together(&list);
        let data_blocks = case.blocks as u64;
        let of = TreeOf { payload: &payload, root_hash, salt: &SALT, data_blocks, uuid: Some(UUID) };
        let done = run(hash_tree(&mirrors, of.clone(), &region, &[], &Progress::default()));
        assert_only_verified(&disk.log(), &file);
        prop_assert!(only_liars_are_dropped(&mirrors, &list), "{:?}", mirrors.dropped());
        match done {
            Ok((tree, tally)) => {
                prop_assert!(on_disk(&region_on(disk, 1 << 20), file.len()) == file);
                prop_assert_eq!(tally.blocks(), file.len() as u64 / 4096);
                let last = content.len() - 4096;
                prop_assert_eq!(tree.leaf_digest(case.blocks as u64 - 1).unwrap(), Digest::salted(&SALT, &content[last..]));
            }
            Err(error) => {
                prop_assert!(!case.must_end_well(), "{:#}", error);
                let region = region_on(disk, 1 << 20);
                run(hash_tree(&repository.mirrors(), of, &region, &[], &Progress::default())).unwrap();
                prop_assert!(on_disk(&region, file.len()) == file);
            }
        }
    }
}
