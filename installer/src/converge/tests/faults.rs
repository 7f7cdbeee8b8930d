//! Any schedule of faults ends with the image in its place, or with an error and nothing in it that was not checked.

use std::ops::Range;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::fetch::{Fetching, Finding, Getting, Mirrors, NoRanges};

/// What goes wrong with one request.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// Nothing.
    None,
    /// A byte is another one.
    Corrupt(prop::sample::Index, u8),
    /// The connection ends after a part.
    Reset(prop::sample::Index),
    /// Other bytes of the file come.
    WrongRange(prop::sample::Index),
    /// The server takes no ranges.
    NoRanges,
}

fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        6 => Just(Fault::None),
        2 => (any::<prop::sample::Index>(), 1..=255_u8).prop_map(|(at, flip)| Fault::Corrupt(at, flip)),
        2 => any::<prop::sample::Index>().prop_map(Fault::Reset),
        1 => any::<prop::sample::Index>().prop_map(Fault::WrongRange),
        1 => Just(Fault::NoRanges),
    ]
}

/// A mirror that goes through a list of faults, and is good from then on.
#[derive(Debug)]
struct Unreliable {
    repository: Arc<Repository>,
    faults: Mutex<Vec<Fault>>,
}

impl Unreliable {
    async fn send(&self, path: &str, range: Range<u64>, sink: &mpsc::Sender<Bytes>) -> Result<()> {
        let fault = self.faults.lock().unwrap().pop().unwrap_or(Fault::None);
        let file = fs::read(self.repository.directory.path().join(path))?;
        let (start, end) = (usize::try_from(range.start)?, usize::try_from(range.end)?);
        let mut bytes = file[start..end].to_vec();
        let mut error = None;
        match fault {
            Fault::None => {}
            Fault::Corrupt(at, flip) => {
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
            }
            Fault::Reset(at) => {
                bytes.truncate(at.index(bytes.len()));
                error = Some(anyhow::anyhow!("connection reset"));
            }
            Fault::WrongRange(at) => {
                let from = at.index(file.len() - bytes.len() + 1);
                bytes = file[from..from + bytes.len()].to_vec();
            }
            Fault::NoRanges if range.start > 0 => return Err(NoRanges.into()),
            Fault::NoRanges => {}
        }
        for piece in bytes.chunks(10_000) {
            if sink.send(Bytes::copy_from_slice(piece)).await.is_err() {
                return Ok(());
            }
        }
        error.map_or(Ok(()), Err)
    }
}

impl Source for Unreliable {
    fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a> {
        Box::pin(async move { self.send(path, range, &sink).await })
    }

    fn get<'a>(&'a self, path: &'a str, limit: usize) -> Getting<'a> {
        self.repository.source.get(path, limit)
    }

    fn find<'a>(&'a self, path: &'a str, limit: usize) -> Finding<'a> {
        self.repository.source.find(path, limit)
    }

    fn describe(&self) -> String {
        "https://unreliable".to_owned()
    }
}

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
    /// Whether there is a payload in small frames too.
    fine: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Failing {
    Read,
    Write,
    Flush,
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
        vec![Seed { region, tree: None }]
    }

    fn is_faulty(&self) -> bool {
        self.bad.is_some() || self.mirrors.iter().flatten().any(|fault| !matches!(fault, Fault::None))
    }
}

fn any_case() -> impl Strategy<Value = Case> {
    let mirrors = proptest::collection::vec(proptest::collection::vec(any_fault(), 0..8), 1..4);
    let places = || proptest::collection::vec(any::<prop::sample::Index>(), 0..50);
    let failing = prop_oneof![Just(Failing::Read), Just(Failing::Write), Just(Failing::Flush)];
    let bad = proptest::option::weighted(0.3, (failing, 0..10_usize));
    let kinds = proptest::option::weighted(0.4, 1..60_u64);
    (any::<u64>(), 1..300_usize, places(), mirrors, bad, kinds, places(), any::<bool>()).prop_map(
        |(seed, blocks, there, mirrors, bad, kinds, elsewhere, fine)| Case {
            seed,
            blocks,
            there,
            mirrors,
            bad,
            kinds,
            elsewhere,
            fine,
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
    let count = std::sync::atomic::AtomicUsize::new(0);
    let failing = Faulty::new(Arc::clone(&disk) as Arc<_>, move |operation| {
        let is_meant = match operation {
            Operation::Read(..) => failing == Failing::Read,
            Operation::Write(..) => failing == Failing::Write,
            Operation::Flush => failing == Failing::Flush,
        };
        let fails = is_meant && count.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == bad;
        fails.then(|| io::Error::from_raw_os_error(5))
    });
    (disk, region_on(Arc::new(failing), size))
}

fn mirrors_of(case: &Case, repository: &Arc<Repository>) -> Arc<Mirrors> {
    let mirror = |faults: &Vec<Fault>| -> Arc<dyn Source> {
        Arc::new(Unreliable { repository: Arc::clone(repository), faults: Mutex::new(faults.clone()) })
    };
    Arc::new(Mirrors::new(case.mirrors.iter().map(mirror).collect()))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_slot_is_the_image_or_nothing_unchecked_was_written(case in any_case()) {
        let content = case.content();
        let repository = Arc::new(Repository::new());
        let payload = repository.publish_in(&content, 32 << 10);
        let fine = case.fine.then(|| repository.publish_in(&content, 8 << 10));
        let payloads = Payloads { data: &payload, fine: fine.as_ref() };
        let (disk, region) = disk_with(&case, &content, 2 << 20);
        let tree = open_tree(&content);
        let mirrors = mirrors_of(&case, &repository);
        let (seeds, progress) = (case.seeds(&content), Progress::default());
        let bring = |mirrors: &Arc<Mirrors>, region: &Region| {
            run(async {
                let (tally, proven) =
                    super::data(mirrors, payloads, &tree, region, &seeds, ReadBack::Meanwhile, &progress).await?;
                read_back(region, &tree, &proven, &progress).await.map(|()| tally)
            })
        };
        let done = bring(&mirrors, &region);
        assert_only_verified(&disk.log(), &content);
        match done {
            Ok(tally) => {
                let region = region_on(disk, 2 << 20);
                prop_assert!(on_disk(&region, content.len()) == content);
                prop_assert_eq!(tally.blocks(), case.blocks as u64);
            }
            Err(error) => {
                prop_assert!(case.is_faulty(), "{:#}", error);
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
        let mirrors = mirrors_of(&case, &repository);
        let of = TreeOf { payload: &payload, root_hash, salt: &SALT, data_blocks: case.blocks as u64 };
        let done = run(hash_tree(&mirrors, of.clone(), &region, &[], &Progress::default()));
        assert_only_verified(&disk.log(), &file);
        match done {
            Ok((tree, tally)) => {
                prop_assert!(on_disk(&region_on(disk, 1 << 20), file.len()) == file);
                prop_assert_eq!(tally.blocks(), file.len() as u64 / 4096);
                let last = content.len() - 4096;
                prop_assert_eq!(tree.leaf_digest(case.blocks as u64 - 1).unwrap(), Digest::salted(&SALT, &content[last..]));
            }
            Err(error) => {
                prop_assert!(case.is_faulty(), "{:#}", error);
                let region = region_on(disk, 1 << 20);
                run(hash_tree(&repository.mirrors(), of, &region, &[], &Progress::default())).unwrap();
                prop_assert!(on_disk(&region, file.len()) == file);
            }
        }
    }
}
