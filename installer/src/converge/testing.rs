//! What the tests of the data path need: payloads published into a directory.

use std::fs;
use std::io::Cursor;
use std::sync::Arc;

use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::{Artifact, Payload, Salt};
use metalstrap_release::payload::{CompressOptions, compress};
use metalstrap_release::verity::{BLOCK, MemoryStore, Tree, build};
use uuid::Uuid;

use super::expected::Expected;
use super::frames::Frames;
use super::goal::Goal;
use super::{Payloads, ReadBack, Seed, Tally};
use crate::disk::{Disk, Recorded, Recording, Region};
use crate::fetch::{DirectorySource, Mirrors, Source};
use crate::progress::Progress;

pub(crate) const SALT: [u8; 32] = [7; 32];

/// A repository in a temporary directory.
#[derive(Debug)]
pub(crate) struct Repository {
    pub directory: tempfile::TempDir,
    pub source: DirectorySource,
}

impl Repository {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("payloads")).unwrap();
        let source = DirectorySource::new(directory.path());
        Self { directory, source }
    }

    /// Publishes `content`, which must be whole blocks, in frames of 64 KiB.
    pub fn publish(&self, content: &[u8]) -> Payload {
        self.publish_in(content, 64 << 10)
    }

    /// The same in frames of `frame_size` bytes.
    pub fn publish_in(&self, content: &[u8], frame_size: u64) -> Payload {
        let options = CompressOptions { level: 1, frame_size, ..CompressOptions::default() };
        let mut bytes = Vec::new();
        let payload = compress(&mut &content[..], &mut bytes, &options, &mut |_| {}).unwrap();
        fs::write(self.path(&payload), bytes).unwrap();
        payload
    }

    /// Publishes a file and its tree.
    pub fn artifact(&self, file: &[u8]) -> Artifact {
        let mut padded = file.to_vec();
        padded.resize(file.len().next_multiple_of(4096), 0);
        let (root_hash, tree) = tree_over(&padded);
        let data = self.publish(&padded);
        let hash_tree = self.publish_in(&tree, 4096);
        let size = file.len() as u64;
        Artifact { size, sha256: Digest::of(file), root_hash, salt: Salt(SALT.to_vec()), data, fine: None, hash_tree }
    }

    /// It, as the only place to fetch from.
    pub fn mirrors(&self) -> Arc<Mirrors> {
        only(self.source.clone())
    }

    pub fn path(&self, payload: &Payload) -> std::path::PathBuf {
        self.directory.path().join(format!("payloads/{}.zst", payload.sha256))
    }

    /// Replaces the content of a payload by another one of the same length, under the same name, as a mirror that
    /// lies about everything but the seek table's digest would: the manifest comes to name the new seek table.
    pub fn replace(&self, payload: &Payload, content: &[u8]) -> Payload {
        let other = self.publish(content);
        fs::rename(self.path(&other), self.path(payload)).unwrap();
        Payload { sha256: payload.sha256, ..other }
    }
}

/// Bytes that do not compress to nothing, the same for the same seed.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |state: &mut u64| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    };
    (0..length.div_ceil(8)).flat_map(|_| next(&mut state).to_le_bytes()).take(length).collect()
}

/// The UUID of all trees here: not zeroes, of which a superblock is full.
pub(crate) const UUID: Uuid = Uuid::from_u128(0x6d65_7461_6c73_4472_8170_2d75_7569_6421);

/// Root hash and hash file over whole blocks.
pub(crate) fn tree_over(content: &[u8]) -> (Digest, Vec<u8>) {
    salted_tree_over(content, &SALT)
}

/// The same with another salt.
pub(crate) fn salted_tree_over(content: &[u8], salt: &[u8]) -> (Digest, Vec<u8>) {
    let mut file = Cursor::new(Vec::new());
    let root = build(&mut &content[..], content.len() as u64 / BLOCK, salt, UUID, &mut file).unwrap();
    (root, file.into_inner())
}

/// The tree itself, opened.
pub(crate) fn open_tree(content: &[u8]) -> Arc<Tree<MemoryStore>> {
    let (root, bytes) = tree_over(content);
    let tree = Tree::open(MemoryStore::new(bytes), root, SALT.to_vec(), content.len() as u64 / BLOCK);
    Arc::new(tree.unwrap())
}

/// One source, as the only place to fetch from.
pub(crate) fn only(source: impl Source + 'static) -> Arc<Mirrors> {
    Arc::new(Mirrors::new(vec![Arc::new(source)]))
}

/// Brings a content to its place.
pub(crate) async fn bring(
    mirrors: &Arc<Mirrors>,
    payload: &Payload,
    tree: &Arc<Tree<MemoryStore>>,
    region: &Region,
    seeds: &[Seed],
) -> anyhow::Result<Tally> {
    let payloads = Payloads { data: payload, fine: None };
    super::data(mirrors, payloads, tree, region, seeds, ReadBack::Meanwhile, &Progress::default())
        .await
        .map(|(tally, _)| tally)
}

/// The parts of a [`Source`] that a mirror of a test has from another one: all but payloads and its name.
macro_rules! small_files_from {
    ($self:ident, $source:expr) => {
        fn get<'a>(&'a $self, path: &'a str, limit: usize) -> crate::fetch::Getting<'a> {
            $source.get(path, limit)
        }

        fn find<'a>(&'a $self, path: &'a str, limit: usize) -> crate::fetch::Finding<'a> {
            $source.find(path, limit)
        }
    };
}
pub(super) use small_files_from;

/// A payload's content as a goal, for tests that set bounds of their own.
pub(super) fn goal_of(
    payload: &Payload,
    mirrors: &Arc<Mirrors>,
    tree: &Arc<Tree<MemoryStore>>,
    region: &Region,
    progress: &Progress,
) -> Goal {
    let expected: Arc<dyn Expected> = Arc::<Tree<MemoryStore>>::clone(tree);
    Goal::new(Frames::new(payload, mirrors), region, expected, 0..tree.geometry().data_blocks(), progress).unwrap()
}

/// Where regions of tests begin.
pub(crate) const START: u64 = 1 << 20;

pub(crate) fn region_on(disk: Arc<dyn Disk>, size: u64) -> Region {
    Region { disk, start: START, size }
}

/// An empty disk that remembers what is written to it.
pub(crate) fn recording(size: u64) -> (Arc<Recording>, Region) {
    let disk = Arc::new(Recording::memory(START + size, 512));
    (Arc::clone(&disk), region_on(disk, size))
}

pub(crate) fn on_disk(region: &Region, length: usize) -> Vec<u8> {
    let mut found = vec![0; length];
    region.read_at(0, &mut found).unwrap();
    found
}

/// Every byte that was ever written is the one that belongs there.
pub(crate) fn assert_only_verified(log: &[Recorded], content: &[u8]) {
    for what in log {
        let Recorded::Write { offset, bytes } = what else { continue };
        let start = usize::try_from(offset - START).unwrap();
        assert!(content[start..start + bytes.len()] == *bytes, "unverified bytes at {start}");
    }
}
