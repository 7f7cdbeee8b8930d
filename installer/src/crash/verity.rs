//! Whether a root file system verifies, as veritysetup and dm-verity find it (`struct verity_sb` in cryptsetup's
//! lib/verity/verity.c; Documentation/admin-guide/device-mapper/verity.rst of Linux). It shares no code with what writes it.

use metalstrap_release::digest::Digest;

use crate::disk::Region;

const BLOCK: usize = 4096;
/// Digests in a block.
const DIGESTS: u64 = 128;

/// Looks at the whole hash tree, up to the root hash, and at every block of data.
///
/// # Errors
/// What is not as it should be.
pub fn verify(data: &Region, hashes: &Region, root_hash: &Digest) -> Result<(), String> {
    let (blocks, salt) = superblock(&block(hashes, 0)?)?;
    // Blocks of each level, the one above the data first.
    let mut levels = vec![blocks.div_ceil(DIGESTS)];
    while let Some(count) = levels.last().copied().filter(|count| *count > 1) {
        levels.push(count.div_ceil(DIGESTS));
    }
    let salted = |bytes: &[u8]| Digest::of(&[salt.as_slice(), bytes].concat()).0;
    // On the disk the top comes first, behind the superblock.
    let (mut at, mut wanted) = (1, vec![root_hash.0]);
    for count in levels.into_iter().rev() {
        let mut below = Vec::new();
        for (index, digest) in (at..at + count).zip(&wanted) {
            let bytes = block(hashes, index)?;
            if salted(&bytes) != *digest {
                return Err(format!("block {index} of the hash tree is damaged"));
            }
            below.extend_from_slice(bytes.as_chunks::<32>().0);
        }
        (at, wanted) = (at + count, below);
    }
    for (index, digest) in (0..blocks).zip(&wanted) {
        if salted(&block(data, index)?) != *digest {
            return Err(format!("block {index} of the root file system is damaged"));
        }
    }
    Ok(())
}

fn block(region: &Region, index: u64) -> Result<[u8; BLOCK], String> {
    let mut bytes = [0; BLOCK];
    region.read_at(index * 4096, &mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Blocks of data, and the salt.
fn superblock(bytes: &[u8; BLOCK]) -> Result<(u64, Vec<u8>), String> {
    let word = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    let is_ours = bytes.starts_with(b"verity\0\0")
        && (word(8), word(12), word(64), word(68)) == (1, 1, 4096, 4096)
        && bytes[32..64].starts_with(b"sha256\0");
    let blocks = u64::from_le_bytes(*bytes[72..].first_chunk().unwrap());
    let salt = usize::from(u16::from_le_bytes([bytes[80], bytes[81]]));
    if !is_ours || salt > 256 || blocks < 2 || blocks > u64::from(u32::MAX) {
        return Err("the superblock of the hash tree is damaged".to_owned());
    }
    Ok((blocks, bytes[88..88 + salt].to_vec()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;
    use std::process::Command;
    use std::sync::Arc;

    use super::*;
    use crate::converge::testing::bytes;
    use crate::disk::{Disk as _, Memory};

    fn region(content: &[u8]) -> Region {
        let size = content.len().next_multiple_of(BLOCK) as u64;
        let disk = Memory::new(size, 4096);
        let mut padded = content.to_vec();
        padded.resize(content.len().next_multiple_of(BLOCK), 0);
        disk.write_at(0, &padded).unwrap();
        Region { disk: Arc::new(disk), start: 0, size }
    }

    /// The hash file and the root hash that veritysetup makes.
    fn format(folder: &Path, data: &[u8]) -> (Vec<u8>, Digest) {
        let [image, hashes] = ["data", "hashes"].map(|name| folder.join(name));
        fs::write(&image, data).unwrap();
        let output = Command::new("veritysetup").arg("format").args([&image, &hashes]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap();
        (fs::read(&hashes).unwrap(), line.trim().parse().unwrap())
    }

    #[test]
    fn what_veritysetup_makes_verifies_and_any_damage_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        // One block, two and three of hashes above them.
        for blocks in [100, 130, 257] {
            let data = bytes(5, blocks * BLOCK);
            let (hashes, root_hash) = format(folder.path(), &data);
            assert_eq!(verify(&region(&data), &region(&hashes), &root_hash), Ok(()));
            let damaged = |bytes: &[u8], at: usize| {
                let mut bytes = bytes.to_vec();
                bytes[at] ^= 1;
                region(&bytes)
            };
            for block in [0, blocks / 2, blocks - 1] {
                let found = verify(&damaged(&data, block * BLOCK + 77), &region(&hashes), &root_hash);
                assert_eq!(found, Err(format!("block {block} of the root file system is damaged")));
            }
            for block in 1..hashes.len().div_ceil(BLOCK) {
                let found = verify(&region(&data), &damaged(&hashes, block * BLOCK + 5), &root_hash);
                assert_eq!(found, Err(format!("block {block} of the hash tree is damaged")));
            }
            let found = verify(&region(&data), &damaged(&hashes, 3), &root_hash);
            assert_eq!(found, Err("the superblock of the hash tree is damaged".to_owned()));
            assert!(verify(&region(&data), &damaged(&hashes, 90), &root_hash).is_err(), "another salt");
        }
    }
}
