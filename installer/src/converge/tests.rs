use std::fs;
use std::io;

use proptest::prelude::*;

use metalstrap_release::digest::Digest;

use super::testing::{
    Repository, SALT, START, UUID, assert_only_verified, bring, bytes, goal_of, on_disk, only, open_tree, recording,
    region_on, small_files_from, tree_over,
};
use super::*;
use crate::disk::{Faulty, Memory, Operation, Recorded, Recording};
use crate::failure::{Code, code_of};
use crate::fetch::Source;

mod authors;
mod behind;
mod cases;
mod cuts;
mod faults;
mod looking;
mod narrow;
mod reuse;
mod streams;
mod unreliable;
mod windows;

/// Flips one bit of the published file.
fn flip(repository: &Repository, payload: &Payload, at: u64) {
    let path = repository.path(payload);
    let mut file = fs::read(&path).unwrap();
    file[usize::try_from(at).unwrap()] ^= 1;
    fs::write(path, file).unwrap();
}

#[tokio::test]
async fn a_payload_is_written_in_long_writes_and_counted() {
    let content = bytes(1, 5 * (1 << 19) + 4096);
    let repository = Repository::new();
    let payload = repository.publish(&content);
    let (disk, region) = recording(4 << 20);
    let progress = Progress::default();
    let payloads = Payloads { data: &payload, fine: None };
    let tree = open_tree(&content);
    let brought = data(&repository.mirrors(), payloads, &tree, &region, &[], ReadBack::Later, &progress).await;
    let (tally, _) = brought.unwrap();
    assert!(on_disk(&region, content.len()) == content);
    let length = content.len() as u64;
    assert_eq!(tally, Tally { fetched_bytes: payload.size, fetched: 641, ..Tally::default() });
    assert_eq!((progress.snapshot(), progress.parts()), ((length, 0, payload.size), [0, 0, 0, length]));
    let mut log = disk.log();
    assert_eq!(log.pop(), Some(Recorded::Flush));
    let mut writes: Vec<_> = log
        .into_iter()
        .map(|what| match what {
            Recorded::Write { offset, bytes } => (offset - START, bytes.len()),
            Recorded::Flush => panic!("so little is flushed once"),
        })
        .collect();
    // Whatever came together, frames are whole.
    writes.sort_unstable();
    let end = writes.iter().fold(0, |end, (offset, bytes)| {
        assert_eq!((*offset, offset % (64 << 10)), (end, 0));
        assert!(*bytes <= 1 << 20);
        end + *bytes as u64
    });
    assert_eq!(end, length);
}

#[tokio::test]
async fn a_wrong_block_is_refused_and_nothing_of_its_frame_written() {
    let content = bytes(2, 3 << 20);
    let mut wrong = content.clone();
    wrong[389 * 4096 + 17] ^= 1;
    let repository = Repository::new();
    let payload = repository.replace(&repository.publish(&content), &wrong);
    let (disk, region) = recording(4 << 20);
    let tree = open_tree(&content);
    let error = bring(&repository.mirrors(), &payload, &tree, &region, &[]).await.unwrap_err();
    assert_eq!(code_of(&error), Code::Corrupt);
    let text = format!(
        "payloads/{}.zst from {} is corrupt at byte 1593344 of its content: block 389 has digest {}, but the hash tree \
         says {}",
        payload.sha256,
        repository.source.describe(),
        Digest::salted(&SALT, &wrong[389 * 4096..390 * 4096]),
        Digest::salted(&SALT, &content[389 * 4096..390 * 4096]),
    );
    assert_eq!(format!("{error:#}"), text);
    // What was found right may be there; of its frame, which has blocks 384 to 399, nothing is.
    assert_only_verified(&disk.log(), &content);
    let frame = START + 384 * 4096..START + 400 * 4096;
    let inside = |what: &Recorded| matches!(what, Recorded::Write { offset, bytes } if *offset < frame.end && offset + bytes.len() as u64 > frame.start);
    assert!(!disk.log().iter().any(inside));
}

#[tokio::test]
async fn a_short_file_is_the_sources_error() {
    let content = bytes(3, 1 << 20);
    let repository = Repository::new();
    let payload = repository.publish(&content);
    let path = repository.path(&payload);
    let file = fs::read(&path).unwrap();
    let (_, region) = recording(4 << 20);
    let attempt = async || {
        let tree = open_tree(&content);
        let error = bring(&repository.mirrors(), &payload, &tree, &region, &[]).await.unwrap_err();
        (code_of(&error), format!("{error:#}"))
    };
    let cut = usize::try_from(payload.size - payload.seek_table_size).unwrap();
    fs::write(&path, &file[..cut]).unwrap();
    let text = format!("fetching {}: it ends {} bytes too early", path.display(), payload.seek_table_size);
    assert_eq!(attempt().await, (Code::Repository, text));
    fs::remove_file(&path).unwrap();
    let text = format!("fetching {}: opening it: No such file or directory (os error 2)", path.display());
    assert_eq!(attempt().await, (Code::Repository, text));
}

#[tokio::test]
async fn a_damaged_seek_table_is_refused() {
    let content = bytes(4, 1 << 20);
    let repository = Repository::new();
    let payload = repository.publish(&content);
    flip(&repository, &payload, payload.size - 20);
    let (disk, region) = recording(4 << 20);
    let tree = open_tree(&content);
    let error = bring(&repository.mirrors(), &payload, &tree, &region, &[]).await.unwrap_err();
    assert_eq!(code_of(&error), Code::Corrupt);
    let table = fs::read(repository.path(&payload)).unwrap();
    let table = &table[usize::try_from(payload.size - payload.seek_table_size).unwrap()..];
    let text = format!(
        "payloads/{}.zst from {} is corrupt: the seek table has digest {}, but the manifest says {}",
        payload.sha256,
        repository.source.describe(),
        Digest::of(table),
        payload.seek_table_sha256
    );
    assert_eq!(format!("{error:#}"), text);
    assert_eq!(disk.log(), []);
}

#[tokio::test]
async fn small_frames_in_a_row_are_one_write() {
    let content = bytes(6, 640 * 4096);
    let repository = Repository::new();
    let payload = repository.publish_in(&content, 4096);
    let (disk, region) = recording(4 << 20);
    bring(&repository.mirrors(), &payload, &open_tree(&content), &region, &[]).await.unwrap();
    assert!(on_disk(&region, content.len()) == content);
    let writes = disk.log().iter().filter(|what| matches!(what, Recorded::Write { .. })).count();
    // How many frames a piece from the mirror has is up to it: with 64 KiB, as a file is read, it is 15.
    assert!(writes <= 640 / 4, "{writes} writes of 640 frames");
}

#[tokio::test]
async fn a_hash_tree_is_checked_before_it_is_kept() {
    let content = bytes(5, 300 << 12);
    let (root, file) = tree_over(&content);
    let repository = Repository::new();
    let payload = repository.publish_in(&file, 4096);
    let fetch = async |payload: &Payload| {
        let (disk, region) = recording(1 << 20);
        let of = TreeOf { payload, root_hash: root, salt: &SALT, data_blocks: 300, uuid: Some(UUID) };
        let grown = hash_tree(&repository.mirrors(), of, &region, &[], &Progress::default()).await;
        (grown.map(|(tree, tally)| (tree.leaf_digest(299).unwrap(), tally)), region, disk)
    };
    let (grown, region, _) = fetch(&payload).await;
    let (digest, tally) = grown.unwrap();
    assert_eq!(digest, Digest::salted(&SALT, &content[299 * 4096..]));
    assert_eq!(tally, Tally { fetched_bytes: payload.size, fetched: 5, ..Tally::default() });
    assert!(on_disk(&region, file.len()) == file);

    // Superblock, top, three blocks of leaf digests: the last but one is wrong.
    let mut wrong = file.clone();
    wrong[3 * 4096] ^= 1;
    let other = repository.publish_in(&wrong, 4096);
    fs::rename(repository.path(&other), repository.path(&payload)).unwrap();
    let payload = Payload { sha256: payload.sha256, ..other };
    let (grown, _, disk) = fetch(&payload).await;
    let error = grown.unwrap_err();
    assert_eq!(code_of(&error), Code::Corrupt);
    let text = format!(
        "payloads/{}.zst from {} is corrupt at byte 12288 of its content: hash tree block 3 has digest {}, but the \
         block above says {}",
        payload.sha256,
        repository.source.describe(),
        Digest::salted(&SALT, &wrong[3 * 4096..4 * 4096]),
        Digest::salted(&SALT, &file[3 * 4096..4 * 4096]),
    );
    assert_eq!(format!("{error:#}"), text);
    assert_only_verified(&disk.log(), &file);
}

#[tokio::test]
async fn a_failing_disk_is_named() {
    let content = bytes(6, 3 << 20);
    let repository = Repository::new();
    let payload = repository.publish(&content);
    let judge = |operation| match operation {
        Operation::Write(offset, _) if offset >= START + (1 << 20) => Some(io::Error::from_raw_os_error(5)),
        _ => None,
    };
    let disk = Faulty::new(Arc::new(Memory::new(START + (4 << 20), 512)), judge);
    let region = region_on(Arc::new(disk), 4 << 20);
    let tree = open_tree(&content);
    let error = bring(&repository.mirrors(), &payload, &tree, &region, &[]).await.unwrap_err();
    assert_eq!(code_of(&error), Code::DiskIo);
    // Which write it was depends on what came together.
    let text = format!("{error:#}");
    let range = text.strip_prefix("writing verified blocks: writing bytes ");
    let range = range.and_then(|rest| rest.strip_suffix(" of memory: Input/output error (os error 5)")).unwrap();
    let start: u64 = range.split(" to ").next().unwrap().parse().unwrap();
    assert!(start >= START + (1 << 20) && start.is_multiple_of(64 << 10), "{text}");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_anything_is_fetched() {
    let content = bytes(7, 2 << 20);
    let repository = Repository::new();
    let payload = repository.publish(&content);
    let progress = Progress::default();
    let (disk, region) = recording(1 << 20);
    let error = bring(&repository.mirrors(), &payload, &open_tree(&content), &region, &[]).await.unwrap_err();
    assert_eq!(error.to_string(), "the payload has 2097152 bytes, but its place on the disk 1048576");
    let tree = open_tree(&content[..1 << 20]);
    let error = bring(&repository.mirrors(), &payload, &tree, &region, &[]).await.unwrap_err();
    assert_eq!(error.to_string(), "the hash tree is over 256 blocks, but the payload has 2097152 bytes");
    assert_eq!((disk.log(), progress.snapshot().2), (vec![], 0));
}

#[tokio::test]
async fn reading_back_finds_what_the_drive_lost() {
    let content = bytes(8, (2 << 20) + 8192);
    let (disk, region) = recording(4 << 20);
    let tree = open_tree(&content);
    region.write_at(0, &content).unwrap();
    let progress = Progress::default();
    read_back(&region, &tree, &region, &none(514), &progress).await.unwrap();
    assert_eq!(progress.snapshot(), (content.len() as u64, content.len() as u64, 0));
    assert_eq!(disk.log().last(), Some(&Recorded::Flush));
    let mut block = content[513 * 4096..].to_vec();
    block[4095] ^= 0x80;
    region.write_at(513 * 4096, &block).unwrap();
    let error = read_back(&region, &tree, &region, &none(514), &progress).await.unwrap_err();
    assert_eq!(code_of(&error), Code::DiskIo);
    let text = format!(
        "memory did not keep the 4096 bytes that were written to it at byte 3149824: block 513 has digest {}, but the hash \
         tree says {}",
        Digest::salted(&SALT, &block),
        Digest::salted(&SALT, &content[513 * 4096..]),
    );
    assert_eq!(format!("{error:#}"), text);
    read_back(&region, &tree, &region, &none(513), &progress).await.unwrap();
}

#[tokio::test]
async fn a_block_of_the_hash_tree_that_the_drive_lost_is_named_by_its_place() {
    let content = bytes(9, (2 << 20) + 8192);
    let (_, region) = recording(4 << 20);
    region.write_at(0, &content).unwrap();
    let tree_at = Region { start: START + (3 << 20), size: 1 << 20, ..region.clone() };
    let (root, file) = tree_over(&content);
    tree_at.write_at(0, &file).unwrap();
    let tree = Arc::new(Tree::open(tree_at.clone(), root, SALT.to_vec(), 514).unwrap());
    let progress = Progress::default();
    read_back(&region, &tree, &tree_at, &none(514), &progress).await.unwrap();
    // Superblock, root of the tree, and then its leaves.
    let mut block = file[3 * 4096..4 * 4096].to_vec();
    let right = Digest::salted(&SALT, &block);
    block[7] ^= 1;
    tree_at.write_at(3 * 4096, &block).unwrap();
    let error = read_back(&region, &tree, &tree_at, &none(514), &progress).await.unwrap_err();
    let text = format!(
        "memory did not keep the 4096 bytes that were written to it at byte 4206592: hash tree block 3 has digest {}, but \
         the block above says {right}",
        Digest::salted(&SALT, &block),
    );
    assert_eq!((code_of(&error), format!("{error:#}")), (Code::DiskIo, text));
}

#[tokio::test]
async fn a_cache_that_cannot_be_dropped_is_named_with_its_disk() {
    let content = bytes(10, 8192);
    let judge = |operation| (operation == Operation::Forget).then(|| io::Error::from_raw_os_error(5));
    let region = region_on(Arc::new(Faulty::new(Arc::new(Memory::new(START + 8192, 512)), judge)), 8192);
    region.write_at(0, &content).unwrap();
    let error = read_back(&region, &open_tree(&content), &region, &none(2), &Progress::default()).await.unwrap_err();
    let text = "dropping what the kernel keeps of memory: Input/output error (os error 5)";
    assert_eq!((code_of(&error), format!("{error:#}").as_str()), (Code::DiskIo, text));
}

/// Nothing of so many blocks was there before.
fn none(blocks: u64) -> Arc<BlockSet> {
    Arc::new(BlockSet::new(0..blocks))
}

/// A mirror that sends one byte and then waits for ever.
#[derive(Debug)]
struct Stalling(Repository, u64);

impl Source for Stalling {
    fn fetch<'a>(
        &'a self,
        path: &'a str,
        range: std::ops::Range<u64>,
        sink: tokio::sync::mpsc::Sender<bytes::Bytes>,
    ) -> crate::fetch::Fetching<'a> {
        if range.start > 0 {
            return self.0.source.fetch(path, range, sink);
        }
        Box::pin(async move {
            let garbage = vec![0; usize::try_from(self.1).unwrap()];
            sink.send(garbage.into()).await.unwrap();
            std::future::pending().await
        })
    }

    fn get<'a>(&'a self, path: &'a str, limit: usize) -> crate::fetch::Getting<'a> {
        self.0.source.get(path, limit)
    }

    fn find<'a>(&'a self, path: &'a str, limit: usize) -> crate::fetch::Finding<'a> {
        self.0.source.find(path, limit)
    }

    fn describe(&self) -> String {
        "https://stalling/".to_owned()
    }
}

#[tokio::test]
async fn a_refused_frame_ends_a_source_that_waits() {
    let content = bytes(9, 1 << 20);
    let repository = Repository::new();
    let payload = repository.publish(&content);
    let source = Stalling(repository, 70_000);
    let (disk, region) = recording(1 << 20);
    let tree = open_tree(&content);
    let error = bring(&only(source), &payload, &tree, &region, &[]).await.unwrap_err();
    let text = format!(
        "payloads/{}.zst from https://stalling/ is corrupt: the frame at 0 of the payload is no zstd frame: Unknown \
         frame descriptor",
        payload.sha256
    );
    assert_eq!((code_of(&error), format!("{error:#}")), (Code::Corrupt, text));
    // The other connections may have brought something by then.
    assert_only_verified(&disk.log(), &content);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever bytes of the file are damaged, what reaches the disk is verified, and all of it if there is no error.
    #[test]
    fn damage_never_reaches_the_disk(seed in any::<u64>(), blocks in 1..400_usize, compressible in any::<bool>(),
                                     damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3)) {
        let mut content = bytes(seed, blocks * 4096);
        if compressible {
            content.iter_mut().for_each(|byte| *byte &= 0x11);
        }
        let repository = Repository::new();
        let payload = repository.publish(&content);
        let path = repository.path(&payload);
        let mut file = fs::read(&path).unwrap();
        for (at, value) in &damage {
            let length = file.len();
            file[at.index(length)] = *value;
        }
        let damaged = file != fs::read(&path).unwrap();
        fs::write(&path, file).unwrap();
        let (disk, region) = recording(2 << 20);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let tree = open_tree(&content);
        let done = runtime.block_on(bring(&repository.mirrors(), &payload, &tree, &region, &[]));
        assert_only_verified(&disk.log(), &content);
        match done {
            Ok(tally) => {
                prop_assert_eq!(tally.blocks(), blocks as u64);
                prop_assert!(on_disk(&region, content.len()) == content);
            }
            Err(error) => {
                prop_assert!(damaged);
                prop_assert_eq!(code_of(&error), Code::Corrupt);
            }
        }
    }
}
