//! The tree against known vectors and `veritysetup`, and against every lie a hash file can hold.

use std::io::Cursor;
use std::process::Command;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::digest::{Digest, to_hex};

const UUID: Uuid = Uuid::from_u128(0x1111_1111_2222_3333_4444_5555_5555_5555);

fn salt() -> Vec<u8> {
    (0..32).collect()
}

/// Data of the vectors: block i holds the little-endian number i over and over.
fn numbered(blocks: u64) -> Vec<u8> {
    (0..u32::try_from(blocks).unwrap()).flat_map(|i| i.to_le_bytes().repeat(BLOCK_SIZE / 4)).collect()
}

fn hash_file(data: &[u8], salt: &[u8]) -> (Digest, Vec<u8>) {
    let mut out = Cursor::new(Vec::new());
    let blocks = data.len() as u64 / BLOCK;
    let root_hash = build(&mut &*data, blocks, salt, UUID, &mut out).unwrap();
    (root_hash, out.into_inner())
}

fn open(bytes: Vec<u8>, root_hash: Digest, blocks: u64) -> Result<Tree<MemoryStore>, TreeError> {
    Tree::open(MemoryStore::new(bytes), root_hash, salt(), blocks)
}

fn flip(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

#[test]
fn known_vectors() {
    for (blocks, root, size, hash) in [
        (1, "4ce3ecf32c133bf6321901b6092219474b6ac91a19d0304621d629e6bb9987dc", 4096, "d5eb5a8fbce38bc2"),
        (2, "2a324e94048f1b195c1a95c1a8a2aadeaca051dbf22f8d70524f34a54312dd1e", 8192, "6bdf7e2a730d8da5"),
        (129, "a631d09d288077d69a662e74788789b2494093c15687d050203f71c6b6757f6d", 16384, "ea7ade85a9428a90"),
        (16385, "b439e96c0c64d937c58d3703498b6ab3c5eb12e418d7d895fbca032e243c0ed4", 544768, "db014214600a9782"),
    ] {
        let data = numbered(blocks);
        let (root_hash, bytes) = hash_file(&data, &salt());
        assert_eq!(root_hash.to_string(), root, "{blocks} blocks");
        assert_eq!(bytes.len(), size, "{blocks} blocks");
        assert_eq!(Digest::of(&bytes).to_string().get(..16), Some(hash), "{blocks} blocks");

        let opened = open(bytes.clone(), root_hash, blocks).unwrap();
        for (index, block) in data.chunks(BLOCK_SIZE).enumerate() {
            opened.check(index as u64, block).unwrap();
        }
    }
}

/// What `veritysetup format` makes of the same data.
fn veritysetup(data: &[u8], salt: &[u8]) -> (String, Vec<u8>) {
    let directory = tempfile::tempdir().unwrap();
    let [data_path, hash_path] = ["data", "hash"].map(|name| directory.path().join(name));
    std::fs::write(&data_path, data).unwrap();
    let output = Command::new("veritysetup")
        .args(["format", "--data-block-size=4096", "--hash-block-size=4096"])
        .arg(format!("--salt={}", if salt.is_empty() { "-".to_owned() } else { to_hex(salt) }))
        .arg(format!("--uuid={UUID}"))
        .args([&data_path, &hash_path])
        .output()
        .expect("veritysetup, of Debian's package cryptsetup-bin");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let root_hash = text.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim().to_owned();
    (root_hash, std::fs::read(&hash_path).unwrap())
}

/// Data without a pattern: each block the digest of seed and number, over and over.
fn arbitrary(blocks: u64, seed: u64) -> Vec<u8> {
    let block = |index| Digest::of(format!("{seed} {index}").as_bytes()).0.repeat(BLOCK_SIZE / 32);
    (0..blocks).flat_map(block).collect()
}

fn same_as_veritysetup(blocks: u64, seed: u64, salt: &[u8]) {
    let data = arbitrary(blocks, seed);
    let (root_hash, bytes) = hash_file(&data, salt);
    let (expected_root, expected_bytes) = veritysetup(&data, salt);
    assert_eq!(root_hash.to_string(), expected_root, "{blocks} blocks, seed {seed}");
    assert!(bytes == expected_bytes, "the hash files over {blocks} blocks, seed {seed}, differ");
    Tree::open(MemoryStore::new(expected_bytes), root_hash, salt.to_vec(), blocks).unwrap();
}

#[test]
fn level_boundaries_are_as_veritysetup_has_them() {
    for blocks in [1, 2, 127, 128, 129, 256, 257, 16383, 16384, 16385] {
        same_as_veritysetup(blocks, 0, &salt());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_tree_is_as_veritysetup_makes_it(
        blocks in 1_u64..700,
        seed: u64,
        salt in prop::collection::vec(any::<u8>(), 0..=256),
    ) {
        same_as_veritysetup(blocks, seed, &salt);
    }

    #[test]
    fn any_flipped_bit_of_a_level_is_refused(bit in 0_usize..3 * BLOCK_SIZE * 8) {
        let (root_hash, bytes) = hash_file(&numbered(129), &salt());
        let damaged = flip(&bytes, BLOCK_SIZE * 8 + bit);
        let index = 1 + (bit / 8 / BLOCK_SIZE) as u64;
        let error = open(damaged, root_hash, 129).unwrap_err();
        prop_assert!(matches!(error, TreeError::Tree { index: found, .. } if found == index), "{}", error);
    }

    #[test]
    fn any_block_as_superblock_never_panics(bytes in prop::collection::vec(any::<u8>(), BLOCK_SIZE), prefix in 0_usize..512) {
        let valid = Superblock::new(UUID, 129, &salt()).unwrap().encode();
        let mut block = [0; BLOCK_SIZE];
        block.copy_from_slice(&bytes);
        block[..prefix].copy_from_slice(&valid[..prefix]);
        prop_assert!(Superblock::parse(&block).is_err());
    }

    #[test]
    fn a_superblock_reads_back(data_blocks in 1..=MAX_DATA_BLOCKS, salt in prop::collection::vec(any::<u8>(), 0..=MAX_SALT)) {
        let superblock = Superblock::new(UUID, data_blocks, &salt).unwrap();
        prop_assert_eq!(Superblock::parse(&superblock.encode()), Ok(superblock));
    }
}

#[test]
fn every_bit_of_the_superblock_is_checked_but_those_of_its_uuid() {
    let (root_hash, bytes) = hash_file(&numbered(2), &salt());
    for bit in 0..BLOCK_SIZE * 8 {
        let uuid = (16 * 8..32 * 8).contains(&bit);
        assert_eq!(open(flip(&bytes, bit), root_hash, 2).is_ok(), uuid, "bit {bit}");
    }
}

#[test]
fn each_refusal_of_a_tree_says_what_and_where() {
    let (root_hash, bytes) = hash_file(&numbered(16385), &salt());
    let digest = |block: usize, bit| {
        let damaged = flip(&bytes, (block * BLOCK_SIZE) * 8 + bit);
        Digest::salted(&salt(), &damaged[block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE])
    };
    let true_digest = |block: usize| Digest::salted(&salt(), &bytes[block * BLOCK_SIZE..(block + 1) * BLOCK_SIZE]);
    for (block, above) in [(1_usize, "root hash"), (2, "block above"), (3, "block above"), (132, "block above")] {
        let expected = format!(
            "hash tree block {block} has digest {}, but the {above} says {}",
            digest(block, 5),
            true_digest(block)
        );
        let damaged = flip(&bytes, block * BLOCK_SIZE * 8 + 5);
        assert_eq!(open(damaged, root_hash, 16385).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_foreign_superblock_is_refused_by_field() {
    let (root_hash, bytes) = hash_file(&numbered(2), &salt());
    let with = |offset: usize, field: &[u8]| {
        let mut bytes = bytes.clone();
        bytes[offset..offset + field.len()].copy_from_slice(field);
        open(bytes, root_hash, 2).unwrap_err().to_string()
    };
    let prefix = "the hash tree's superblock has";
    assert_eq!(with(0, b"V"), format!("{prefix} signature 5665726974790000, not 7665726974790000"));
    assert_eq!(with(8, &[2]), format!("{prefix} version 2, not 1"));
    assert_eq!(with(12, &[0]), format!("{prefix} hash type 0, not 1"));
    assert_eq!(with(32, b"sha512"), format!("{prefix} algorithm sha512, not sha256"));
    assert_eq!(with(64, &[0, 2]), format!("{prefix} data block size 512, not 4096"));
    assert_eq!(with(68, &[0, 2]), format!("{prefix} hash block size 512, not 4096"));
    assert_eq!(with(72, &[3]), format!("{prefix} data blocks 3, not 2"));
    assert_eq!(with(72, &[0xff; 8]), format!("{prefix} data blocks 18446744073709551615, not 1 to 4294967296"));
    assert_eq!(with(80, &[1, 1]), format!("{prefix} salt size 257, not 256 at most"));
    assert_eq!(with(82, &[1]), format!("{prefix} padding bytes other than zero, not zero"));
    assert_eq!(with(4095, &[1]), format!("{prefix} padding bytes other than zero, not zero"));
    let salt = to_hex(&salt());
    assert_eq!(with(88, &[9]), format!("{prefix} salt 09{}, not {salt}", &salt[2..]));
}

#[test]
fn a_wrong_block_is_refused_with_both_digests() {
    let data = numbered(129);
    let (root_hash, bytes) = hash_file(&data, &salt());
    let tree = open(bytes, root_hash, 129).unwrap();
    let (right, wrong) = (&data[17 * BLOCK_SIZE..18 * BLOCK_SIZE], &data[..BLOCK_SIZE]);
    assert_eq!(tree.leaf_digest(17).unwrap(), Digest::salted(&salt(), right));
    assert_eq!(
        tree.check(17, wrong).unwrap_err().to_string(),
        format!(
            "block 17 has digest {}, but the hash tree says {}",
            Digest::salted(&salt(), wrong),
            Digest::salted(&salt(), right)
        )
    );
    assert_eq!(tree.check(17, &right[1..]).unwrap_err().to_string(), "block 17 has 4095 bytes, not 4096");
    assert_eq!(tree.check(129, right).unwrap_err().to_string(), "there is no block 129 among 129");
    assert_eq!(
        tree.leaf_digest(u64::MAX).unwrap_err().to_string(),
        format!("there is no block {} among 129", u64::MAX)
    );
}

#[test]
fn a_store_that_changes_later_is_not_believed() {
    let data = numbered(16385);
    let (root_hash, bytes) = hash_file(&data, &salt());
    let tree = open(bytes, root_hash, 16385).unwrap();
    tree.leaf_digest(0).unwrap();
    tree.store().write_block(132, &[7; BLOCK_SIZE]).unwrap();
    // Block 132 holds the digest of data block 16384; the cache holds that of block 0 now.
    let found = Digest::salted(&salt(), &[7; BLOCK_SIZE]);
    let error = tree.leaf_digest(16384).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("hash tree block 132 has digest {found}, but the block above says ")),
        "{error}"
    );
}

#[test]
fn sizes_are_exact() {
    let (root_hash, bytes) = hash_file(&numbered(129), &salt());
    assert_eq!(
        open(bytes[..3 * BLOCK_SIZE].to_vec(), root_hash, 129).unwrap_err().to_string(),
        "reading hash tree block 3"
    );
    assert_eq!(open(bytes, root_hash, 0).unwrap_err().to_string(), "no hash tree has 0 data blocks");
}

#[test]
fn building_refuses_what_cannot_be() {
    let build = |data: &[u8], blocks, salt: &[u8]| {
        build(&mut &*data, blocks, salt, UUID, &mut Cursor::new(Vec::new())).unwrap_err().to_string()
    };
    assert_eq!(build(&[0; 8191], 2, &[]), "reading data block 1");
    assert_eq!(build(&[], 0, &[]), "no hash tree has 0 data blocks");
    assert_eq!(build(&[0; 4096], 1, &[0; 257]), "a salt has at most 256 bytes, not 257");
}

#[test]
fn a_file_is_a_store() {
    let data = numbered(129);
    let (root_hash, bytes) = hash_file(&data, &salt());
    let mut file = tempfile::tempfile().unwrap();
    assert_eq!(build(&mut &*data, 129, &salt(), UUID, &mut file).unwrap(), root_hash);
    let tree = Tree::open(file, root_hash, salt(), 129).unwrap();
    tree.check(128, &data[128 * BLOCK_SIZE..]).unwrap();
    let copy = std::sync::Arc::new(tempfile::tempfile().unwrap());
    (0..).zip(bytes.as_chunks().0).for_each(|(index, block)| copy.write_block(index, block).unwrap());
    let reader = Reader::new(copy, root_hash, salt(), 129).unwrap();
    reader.finish().unwrap().check(128, &data[128 * BLOCK_SIZE..]).unwrap();
}
