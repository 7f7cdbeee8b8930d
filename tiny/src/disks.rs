//! Finds partitions on the machine's disks by reading each partition table.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use metalstrap_release::verity::{BLOCK, Block, BlockStore};
use uuid::Uuid;

/// A partition: a range of bytes of a disk, read only.
#[derive(Debug)]
pub struct Partition {
    disk: File,
    start: u64,
    length: u64,
}

impl Partition {
    /// The first `buffer.len()` bytes from `offset` on.
    ///
    /// # Errors
    ///
    /// Also when they do not lie in the partition.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let end = u64::try_from(buffer.len()).ok().and_then(|length| offset.checked_add(length));
        match (end, self.start.checked_add(offset)) {
            (Some(end), Some(place)) if end <= self.length => self.disk.read_exact_at(buffer, place),
            _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "behind the end of the partition")),
        }
    }
}

impl BlockStore for Partition {
    fn read_block(&self, index: u64, block: &mut Block) -> io::Result<()> {
        self.read_at(index.saturating_mul(BLOCK), block)
    }

    fn write_block(&self, _: u64, _: &Block) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }
}

/// The partition with this PARTUUID on any of `disks`; a disk without a table has none.
#[must_use]
pub fn find(disks: &[(PathBuf, u64)], uuid: Uuid) -> Option<Partition> {
    disks.iter().find_map(|(disk, sector)| partition(disk, *sector, uuid).ok().flatten())
}

fn partition(disk: &Path, sector: u64, uuid: Uuid) -> Result<Option<Partition>> {
    let reading = || format!("reading GPT of {}", disk.display());
    let sector = LogicalBlockSize::try_from(sector).with_context(reading)?;
    let table = GptConfig::new().logical_block_size(sector).open(disk).with_context(reading)?;
    let Some(found) = table.partitions().values().find(|partition| partition.part_guid == uuid) else {
        return Ok(None);
    };
    let (start, length) = (found.bytes_start(sector)?, found.bytes_len(sector)?);
    Ok(Some(Partition { disk: table.take_device(), start, length }))
}

/// Device nodes and logical sector sizes of all disks that hold something, from the directory `/sys/block`.
#[must_use]
pub fn all(sys: &Path) -> Vec<(PathBuf, u64)> {
    let number = |path: PathBuf| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let mut disks: Vec<(PathBuf, u64)> = std::fs::read_dir(sys)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| number(entry.path().join("size")).is_some_and(|sectors| sectors > 0))
        .filter_map(|entry| {
            let sector = number(entry.path().join("queue/logical_block_size"))?;
            Some((Path::new("/dev").join(entry.file_name()), sector))
        })
        .collect();
    disks.sort();
    disks
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// A disk of 8 MiB whose one partition, made by sfdisk, starts at 1 MiB and has 2 MiB.
    fn disk(dir: &Path, uuid: &str) -> PathBuf {
        let path = dir.join("disk");
        let file = File::create(&path).unwrap();
        file.set_len(8 << 20).unwrap();
        file.write_all_at(b"first", 1 << 20).unwrap();
        file.write_all_at(b"last", (3 << 20) - 4).unwrap();
        let mut sfdisk = Command::new("/usr/sbin/sfdisk");
        sfdisk.arg("--quiet").arg(&path).stdin(Stdio::piped());
        let mut child = sfdisk.spawn().unwrap();
        let script = format!("label: gpt\nstart=1MiB, size=2MiB, uuid={uuid}\n");
        io::Write::write_all(&mut child.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        path
    }

    #[test]
    fn the_partition_of_a_root_hash_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = disk(dir.path(), "00112233-4455-6677-8899-aabbccddeeff");
        let empty = dir.path().join("empty");
        std::fs::write(&empty, vec![0; 1 << 16]).unwrap();
        let disks = [(empty, 512), (path, 512)];
        // The UUID's text has the bytes of the root hash in their order.
        let uuid = Uuid::from_bytes([
            0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
        ]);
        let found = find(&disks, uuid).unwrap();
        let mut buffer = [0; 5];
        found.read_at(0, &mut buffer).unwrap();
        assert_eq!(&buffer, b"first");
        found.read_at((2 << 20) - 5, &mut buffer).unwrap();
        assert_eq!(&buffer, b"\0last");
        let error = found.read_at((2 << 20) - 4, &mut buffer).unwrap_err();
        assert_eq!(error.to_string(), "behind the end of the partition");
        assert!(find(&disks, Uuid::nil()).is_none());
    }
}
