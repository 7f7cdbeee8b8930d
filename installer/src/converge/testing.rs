//! What the tests of the data path need: payloads published into a directory.

use std::fs;
use std::io::Cursor;
use std::sync::Arc;

use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::{Artifact, Payload, Salt};
use metalstrap_release::payload::{CompressOptions, compress};
use metalstrap_release::verity::{BLOCK, MemoryStore, Tree, build};
use uuid::Uuid;

use crate::fetch::DirectorySource;

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
        let options = CompressOptions { level: 1, frame_size: 64 << 10, ..CompressOptions::default() };
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
        let hash_tree = self.publish(&tree);
        let size = file.len() as u64;
        Artifact { size, sha256: Digest::of(file), root_hash, salt: Salt(SALT.to_vec()), data, hash_tree }
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

/// Root hash and hash file over whole blocks.
pub(crate) fn tree_over(content: &[u8]) -> (Digest, Vec<u8>) {
    let mut file = Cursor::new(Vec::new());
    let root = build(&mut &content[..], content.len() as u64 / BLOCK, &SALT, Uuid::nil(), &mut file).unwrap();
    (root, file.into_inner())
}

/// The tree itself, opened.
pub(crate) fn open_tree(content: &[u8]) -> Arc<Tree<MemoryStore>> {
    let (root, bytes) = tree_over(content);
    let tree = Tree::open(MemoryStore::new(bytes), root, SALT.to_vec(), content.len() as u64 / BLOCK);
    Arc::new(tree.unwrap())
}
