//! Cases for the property tests: an image, what lies there, and what goes wrong.

use std::sync::atomic::{AtomicUsize, Ordering};

use metalstrap_release::verity::{MemoryStore, build};
use uuid::Uuid;

use super::super::fill::fill;
use super::super::scan::Sampling;
use super::unreliable::{Fault, Unreliable, any_fault};
use super::*;
use crate::disk::Disk;
use crate::fetch::Mirrors;

/// What a person wants to install, what lies there, and what will go wrong.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub seed: u64,
    pub blocks: usize,
    /// What lies in the slot already, block by block; all others are zeroes.
    pub old: Vec<(prop::sample::Index, Old)>,
    pub mirrors: Vec<Vec<Fault>>,
    /// What the disk fails, if anything: which read, write or flush.
    pub bad: Option<(Failing, usize)>,
    /// How many different blocks the image has, one of them zeroes; else all are different.
    pub kinds: Option<u64>,
    /// Blocks of the image that lie in another slot, somewhere else than they should.
    pub elsewhere: Vec<prop::sample::Index>,
    /// The tree of that slot.
    pub hint: Hint,
    /// Whether there is a payload in small frames too.
    pub fine: bool,
    /// Bytes that a cut may cost: with few of them the disk is flushed again and again.
    pub at_risk: u64,
    /// Whether a few blocks are tried before all are looked at.
    pub tries: bool,
}

/// A block of the slot as it was before.
#[derive(Debug, Clone, Copy)]
pub(super) enum Old {
    /// As the image has it there.
    Right,
    /// As the image has it somewhere.
    Moved(prop::sample::Index),
    /// As no image has it.
    Foreign(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failing {
    Read,
    Write,
    /// A write, half of which is on the disk then.
    Tear,
    Flush,
}

/// What an old tree says of the blocks below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
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

    /// Makes the slot what it was before.
    pub fn fill_slot(&self, content: &[u8], region: &Region) {
        let block = |at: &prop::sample::Index| at.index(content.len() / 4096) * 4096;
        for (place, old) in &self.old {
            let place = block(place);
            let bytes = match old {
                Old::Right => content[place..place + 4096].to_vec(),
                Old::Moved(from) => content[block(from)..block(from) + 4096].to_vec(),
                Old::Foreign(seed) => bytes(seed ^ 0xF0_F0F0, 4096),
            };
            region.write_at(place as u64, &bytes).unwrap();
        }
    }

    /// A goal with the bounds of this case.
    fn goal(&self, goal: Goal) -> Goal {
        let few = Sampling { small: 16, samples: 12, early_samples: 6, early: 2 };
        let sampling = if self.tries { few } else { Sampling::default() };
        Goal { reads_back: true, at_risk: self.at_risk, sampling, ..goal }
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
    pub fn must_end_well(&self) -> bool {
        self.bad.is_none() && self.mirrors.iter().any(|faults| !faults.iter().any(Fault::lies))
    }
}

pub(super) fn any_case() -> impl Strategy<Value = Case> {
    let mirrors = proptest::collection::vec(proptest::collection::vec(any_fault(), 0..8), 1..4);
    let index = any::<prop::sample::Index>;
    let places = proptest::collection::vec(index(), 0..50);
    let old = prop_oneof![
        3 => Just(Old::Right),
        1 => index().prop_map(Old::Moved),
        1 => any::<u64>().prop_map(Old::Foreign),
    ];
    let slot = proptest::collection::vec((index(), old), 0..80);
    let failing = prop_oneof![Just(Failing::Read), Just(Failing::Write), Just(Failing::Tear), Just(Failing::Flush)];
    let hint = prop_oneof![Just(Hint::None), Just(Hint::Right), Just(Hint::OtherSalt), Just(Hint::Lying)];
    let bad = proptest::option::weighted(0.3, (failing, 0..10_usize));
    let kinds = proptest::option::weighted(0.4, 1..60_u64);
    let at_risk = prop_oneof![Just(128_u64 << 10), Just(1 << 20), Just(56 << 20)];
    let flags = (any::<bool>(), any::<bool>());
    (any::<u64>(), 1..300_usize, slot, mirrors, bad, kinds, places, hint, (flags, at_risk)).prop_map(
        |(seed, blocks, old, mirrors, bad, kinds, elsewhere, hint, ((fine, tries), at_risk))| Case {
            seed,
            blocks,
            old,
            mirrors,
            bad,
            kinds,
            elsewhere,
            hint,
            fine,
            at_risk,
            tries,
        },
    )
}

/// A disk with what the case has in the slot, which fails as it says.
pub(super) fn disk_with(case: &Case, content: &[u8], size: u64) -> (Arc<Recording>, Region) {
    let (disk, region) = recording(size);
    case.fill_slot(content, &region);
    let _before = disk.take();
    let Some(bad) = case.bad else { return (Arc::clone(&disk), region) };
    let faulty = failing(Arc::clone(&disk) as Arc<_>, bad);
    let faulty = if bad.0 == Failing::Tear { faulty.tearing() } else { faulty };
    (disk, region_on(Arc::new(faulty), size))
}

/// A disk that fails one of its operations.
pub(super) fn failing(disk: Arc<dyn Disk>, (failing, bad): (Failing, usize)) -> Faulty {
    let count = AtomicUsize::new(0);
    Faulty::new(disk, move |operation| {
        let is_meant = match operation {
            Operation::Read(..) => failing == Failing::Read,
            Operation::Write(..) => matches!(failing, Failing::Write | Failing::Tear),
            Operation::Flush => failing == Failing::Flush,
            Operation::Forget => false,
        };
        let fails = is_meant && count.fetch_add(1, Ordering::Relaxed) == bad;
        fails.then(|| io::Error::from_raw_os_error(5))
    })
}

pub(super) fn mirrors_of(case: &Case, repository: &Arc<Repository>) -> Vec<Arc<Unreliable>> {
    let mirror = |(number, faults): (usize, &Vec<Fault>)| Arc::new(Unreliable::new(repository, number, faults));
    case.mirrors.iter().enumerate().map(mirror).collect()
}

pub(super) fn together(list: &[Arc<Unreliable>]) -> Arc<Mirrors> {
    Arc::new(Mirrors::new(list.iter().map(|mirror| Arc::clone(mirror) as Arc<dyn Source>).collect()))
}

/// Whoever was dropped has sent something wrong.
pub(super) fn only_liars_are_dropped(mirrors: &Mirrors, list: &[Arc<Unreliable>]) -> bool {
    let lied = |name: &str| list.iter().any(|mirror| mirror.name == name && mirror.has_lied());
    mirrors.dropped().iter().all(|(name, _)| lied(name))
}

pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// What a case publishes, and has elsewhere on the disk.
pub(super) struct Published {
    pub content: Vec<u8>,
    pub repository: Arc<Repository>,
    payload: Payload,
    fine: Option<Payload>,
    tree: Arc<Tree<MemoryStore>>,
    seeds: Vec<Seed>,
}

impl Published {
    pub fn new(case: &Case) -> Self {
        let (content, repository) = (case.content(), Arc::new(Repository::new()));
        let payload = repository.publish_in(&content, 32 << 10);
        let fine = case.fine.then(|| repository.publish_in(&content, 8 << 10));
        let (tree, seeds) = (open_tree(&content), case.seeds(&content));
        Self { content, repository, payload, fine, tree, seeds }
    }

    /// Brings the image to its place and reads it back.
    pub fn bring(&self, case: &Case, mirrors: &Arc<Mirrors>, region: &Region) -> Result<Tally> {
        let progress = Progress::default();
        run(async {
            let goal = case.goal(goal_of(&self.payload, mirrors, &self.tree, region, &progress));
            let fine = self.fine.as_ref().map(|payload| Frames::new(payload, mirrors));
            let proven = Arc::new(BlockSet::new(goal.blocks.clone()));
            let tally = fill(&goal, fine.as_ref(), &self.seeds, &proven).await?;
            read_back(region, &self.tree, region, &proven, &progress).await.map(|()| tally)
        })
    }
}
