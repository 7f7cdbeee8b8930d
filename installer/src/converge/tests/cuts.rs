//! What a cut costs: no more is asked for in vain than the budget has bytes, wherever it happens and whatever of what was not
//! flushed is lost.

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::super::fill::fill;
use super::*;
use crate::disk::{Disk, replay};
use crate::fetch::{DirectorySource, Fetching, Finding, Getting};

/// A mirror that counts the bytes it is asked for: as if a cut came when all of them are on their way.
#[derive(Debug)]
struct Counting {
    source: DirectorySource,
    asked: Arc<AtomicU64>,
}

impl Source for Counting {
    fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a> {
        self.asked.fetch_add(range.end - range.start, Ordering::SeqCst);
        self.source.fetch(path, range, sink)
    }

    fn get<'a>(&'a self, path: &'a str, limit: usize) -> Getting<'a> {
        self.source.get(path, limit)
    }

    fn find<'a>(&'a self, path: &'a str, limit: usize) -> Finding<'a> {
        self.source.find(path, limit)
    }

    fn describe(&self) -> String {
        self.source.describe()
    }
}

/// A release, and what a cut of its installation may cost.
struct Case {
    content: Vec<u8>,
    repository: Repository,
    payload: Payload,
    at_risk: u64,
}

impl Case {
    fn new(content: Vec<u8>, frame_size: u64, at_risk: u64) -> Self {
        let repository = Repository::new();
        let payload = repository.publish_in(&content, frame_size);
        Self { content, repository, payload, at_risk }
    }

    /// Brings the content to a disk; `asked` counts the bytes that are asked for.
    fn bring(&self, disk: Arc<dyn Disk>, asked: &Arc<AtomicU64>) {
        let mirror = Counting { source: self.repository.source.clone(), asked: Arc::clone(asked) };
        let (tree, region) = (open_tree(&self.content), region_on(disk, 8 << 20));
        let goal = goal_of(&self.payload, &only(mirror), &tree, &region, &Progress::default());
        let goal = Goal { at_risk: self.at_risk, ..goal };
        let proven = Arc::new(BlockSet::new(goal.blocks.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let tally = runtime.block_on(fill(&goal, None, &[], &proven)).unwrap();
        assert_eq!(tally.blocks(), self.content.len() as u64 / BLOCK);
        assert!(on_disk(&region, self.content.len()) == self.content);
    }
}

fn written(log: &[Recorded]) -> u64 {
    let length = |what: &Recorded| if let Recorded::Write { bytes, .. } = what { bytes.len() as u64 } else { 0 };
    log.iter().map(length).sum()
}

#[test]
fn between_two_flushes_no_more_is_written_than_a_cut_may_cost() {
    // It does not compress: what is written of it is what was fetched.
    let case = Case::new(bytes(61, 8 << 20), 64 << 10, 2 << 20);
    let (disk, _) = recording(8 << 20);
    case.bring(Arc::clone(&disk) as Arc<_>, &Arc::default());
    let log = disk.log();
    let unflushed: Vec<u64> = log.split(|what| *what == Recorded::Flush).map(written).collect();
    assert_eq!((written(&log), unflushed.last()), (8 << 20, Some(&0)));
    assert!(unflushed.iter().all(|bytes| *bytes <= 2 << 20), "{unflushed:?}");
}

/// How things stand when the plug is pulled: the bytes asked for, and what was done to the disk.
type Moment = (u64, Vec<Recorded>);

/// A run from a blank disk: how things stand before so many writes and flushes, or at its end.
fn run_until(case: &Case, operation: usize) -> Moment {
    let (disk, _) = recording(8 << 20);
    let asked = Arc::new(AtomicU64::new(0));
    let moment = Arc::new(Mutex::new(None));
    let look = {
        let (disk, asked) = (Arc::clone(&disk), Arc::clone(&asked));
        // What is asked for between the two looks is not counted, and what it makes room for is known to be written.
        move || (asked.load(Ordering::SeqCst), disk.log())
    };
    let (count, now, seen) = (AtomicUsize::new(0), look.clone(), Arc::clone(&moment));
    let judge = move |what| {
        if matches!(what, Operation::Write(..) | Operation::Flush) && count.fetch_add(1, Ordering::SeqCst) == operation
        {
            *seen.lock().unwrap() = Some(now());
        }
        None
    };
    case.bring(Arc::new(Faulty::new(disk, judge)), &asked);
    let seen = moment.lock().unwrap().take();
    seen.unwrap_or_else(look)
}

/// What is left of a disk: all up to the last flush, and of what came after it whatever `kept` has a bit for.
fn after_the_cut(log: &[Recorded], kept: u64) -> Arc<dyn Disk> {
    let disk = Memory::new(START + (8 << 20), 512);
    let stable = log.iter().rposition(|what| *what == Recorded::Flush).map_or(0, |last| last + 1);
    replay(&log[..stable], &disk).unwrap();
    let survives = |number: &usize| kept >> (number % 64) & 1 == 1;
    let rest: Vec<_> = log[stable..].iter().enumerate().filter(|(number, _)| survives(number)).collect();
    rest.into_iter().for_each(|(_, what)| replay(std::slice::from_ref(what), &disk).unwrap());
    Arc::new(disk)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn a_cut_costs_no_more_than_it_may(
        seed in any::<u64>(), blocks in 700..1500_usize, mask in prop_oneof![Just(0xFF_u8), Just(0x11)],
        frame_size in prop_oneof![Just(16_u64 << 10), Just(128 << 10)], at_risk in (1_u64 << 19)..(3 << 19),
        operation in 0..120_usize, kept in prop_oneof![Just(0), any::<u64>()],
    ) {
        let mut content = bytes(seed, blocks * 4096);
        content.iter_mut().for_each(|byte| *byte &= mask);
        let case = Case::new(content, frame_size, at_risk);
        let (before, log) = run_until(&case, operation);
        let after = Arc::new(AtomicU64::new(0));
        case.bring(after_the_cut(&log, kept), &after);
        // Both runs want the seek table.
        let (table, once) = (case.payload.seek_table_size, case.payload.size);
        let twice = (before + after.load(Ordering::SeqCst)).saturating_sub(once);
        prop_assert!(twice <= table + at_risk, "{twice} bytes were fetched twice");
    }
}
