//! Turns files into the artifacts of a manifest: their payloads and those of their hash trees.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::{Artifact, Designator, FileSystem, MAX_BOOT_BYTES, Salt, data_uuid};
use metalstrap_release::verity::{BLOCK, BLOCK_SIZE, MemoryStore, Superblock, Tree, build};
use sha2::{Digest as _, Sha256};

use crate::checked::Checked;
use crate::payloads::Payloads;

/// Publishes a root file system image and its hash tree, after checking the one by the other and both by
/// `root_hash`. Both files may go on behind their end, as partitions do.
///
/// # Errors
/// When a block of the image or of the tree is not what the root hash vouches for.
pub fn publish_root(payloads: &Payloads<'_>, image: &Path, verity: &Path, root_hash: Digest) -> Result<FileSystem> {
    let (superblock, tree) = open_tree(verity, root_hash)?;
    let data_size = superblock.data_blocks * BLOCK;
    let data_file = open(image)?;
    let length = data_file.metadata().with_context(|| format!("reading {}", image.display()))?.len();
    ensure!(
        length >= data_size,
        "the root image {} has {length} bytes, but its hash tree is over {data_size}",
        image.display()
    );
    let checked = |file| Checked::new(BufReader::with_capacity(1 << 20, file), &tree);
    drop(data_file);
    let content = || Ok(checked(open(image)?));
    let (data, fine) = payloads.add_both("root image", content, data_size)?;
    let tree_size = tree.geometry().total_blocks() * BLOCK;
    let mut hash_file = open(verity)?.take(tree_size);
    let hash_tree = payloads.add_tree("root hash tree", &mut hash_file, tree_size)?;
    let (salt, hash_tree_uuid) = (Salt(superblock.salt), superblock.uuid);
    Ok(FileSystem { designator: Designator::Root, root_hash, salt, data, fine, hash_tree, hash_tree_uuid })
}

/// Opens a hash tree, after checking it by its root hash down to the blocks above the data.
///
/// # Errors
/// When it is not what the root hash vouches for.
pub fn open_tree(verity: &Path, root_hash: Digest) -> Result<(Superblock, Tree<File>)> {
    let checking = || format!("checking the hash tree {}", verity.display());
    let mut block = [0; BLOCK_SIZE];
    let mut hash_file = open(verity)?;
    hash_file.read_exact(&mut block).with_context(checking)?;
    let superblock = Superblock::parse(&block).with_context(checking)?;
    let tree = Tree::open(hash_file, root_hash, superblock.salt.clone(), superblock.data_blocks);
    let tree = tree.with_context(|| format!("{} against the root hash of the UKI", checking()))?;
    Ok((superblock, tree))
}

/// Publishes a file that the ESP will hold, padded to whole blocks, and builds its hash tree. The salt stays the same
/// from release to release, so that equal blocks have equal digests; the tree's UUID follows from the file.
///
/// # Errors
/// When the file is none for an ESP, cannot be read, or changes meanwhile.
pub fn publish_file(payloads: &Payloads<'_>, what: &str, path: &Path, name: &str) -> Result<Artifact> {
    let reading = || format!("reading the {what} {}", path.display());
    let (size, sha256) = measure(path).with_context(reading)?;
    let content_size = size.next_multiple_of(BLOCK);
    let salt = Digest::of(name.as_bytes()).0.to_vec();
    let mut hash_file = Cursor::new(Vec::new());
    let blocks = content_size / BLOCK;
    let root_hash = build(&mut padded(path, size)?, blocks, &salt, data_uuid(&sha256), &mut hash_file);
    let root_hash = root_hash.with_context(reading)?;
    let hash_file = hash_file.into_inner();
    let tree =
        Tree::open(MemoryStore::new(hash_file.clone()), root_hash, salt.clone(), blocks).with_context(reading)?;
    let content = || Ok(Checked::new(padded(path, size)?, &tree));
    let (data, fine) = payloads.add_both(what, content, content_size)?;
    let hash_tree =
        payloads.add_tree(&format!("{what} hash tree"), &mut hash_file.as_slice(), hash_file.len() as u64)?;
    Ok(Artifact { size, sha256, root_hash, salt: Salt(salt), data, fine, hash_tree })
}

/// Opens an input.
///
/// # Errors
/// When that fails, with its path.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("opening {}", path.display()))
}

/// Size and digest of a file that the firmware can start.
///
/// # Errors
/// When it cannot be read or started.
pub fn measure(path: &Path) -> Result<(u64, Digest)> {
    let mut file = open(path)?;
    let size = file.metadata()?.len();
    if size == 0 || size > MAX_BOOT_BYTES {
        bail!("it has {size} bytes, not 1 to {MAX_BOOT_BYTES}");
    }
    let mut start = [0; 2];
    file.read_exact(&mut start)?;
    ensure!(start == *b"MZ", "it is no EFI program");
    let mut hasher = Sha256::new_with_prefix(start);
    io::copy(&mut file.take(size - 2), &mut hasher)?;
    Ok((size, Digest(hasher.finalize().into())))
}

/// The first `size` bytes of a file, then zeroes up to a whole block.
fn padded(path: &Path, size: u64) -> Result<impl Read + use<>> {
    let file = BufReader::with_capacity(1 << 20, open(path)?.take(size));
    let padding = size.next_multiple_of(BLOCK) - size;
    Ok(file.chain(io::repeat(0).take(padding)))
}
