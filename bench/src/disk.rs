//! The disk that tools write to: a loop device over a file, on tmpfs or on this machine's real disk.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::verity::BLOCK;
use nix::fcntl::{FallocateFlags, fallocate};

use crate::programs::{output, run};

/// What is compared and copied at once.
const PIECE: usize = 1 << 20;

/// What a disk lies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// tmpfs.
    Ram,
    /// The file system of `out`, by direct I/O.
    Real,
}

/// A disk's bytes.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    medium: Medium,
    size: u64,
}

/// The loop device of a disk. The kernel takes it away when this and every tool has closed it, however they end.
#[derive(Debug)]
pub struct Loop {
    /// `/dev/loopN`.
    pub path: PathBuf,
    _held: File,
}

impl Disk {
    /// A disk of zeroes with all its space allocated, in the directory of `out` that is of this medium.
    ///
    /// # Errors
    /// There is no room.
    pub fn blank(out: &Path, medium: Medium, size: u64) -> Result<Self> {
        let dir = out.join(if medium == Medium::Ram { "ram" } else { "disk" });
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        let disk = Self { path: dir.join("disk.raw"), medium, size };
        let making = || format!("making a disk of {size} bytes at {}", disk.path.display());
        let file = File::create(&disk.path).with_context(making)?;
        fallocate(&file, FallocateFlags::empty(), 0, i64::try_from(size)?).with_context(making)?;
        Ok(disk)
    }

    /// Makes the loop device.
    ///
    /// # Errors
    /// losetup's words.
    pub fn attach(&self) -> Result<Loop> {
        let direct = format!("--direct-io={}", if self.medium == Medium::Real { "on" } else { "off" });
        let words =
            ["--find".as_ref(), "--show".as_ref(), "--partscan".as_ref(), direct.as_ref(), self.path.as_os_str()];
        let path = PathBuf::from(output("losetup", words)?.trim());
        let held = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        // While it is open, detaching only marks it to go with the last close.
        run("losetup", ["--detach".as_ref(), path.as_os_str()])?;
        Ok(Loop { path, _held: held })
    }

    /// Checks that `image` lies at `offset`: on the medium, not only in the loop device's cache.
    ///
    /// # Errors
    /// It does not, or something cannot be read.
    pub fn check(&self, offset: u64, image: &Path) -> Result<()> {
        let comparing = || format!("comparing the disk with {}", image.display());
        let (disk, image) =
            (File::open(&self.path).with_context(comparing)?, File::open(image).with_context(comparing)?);
        let size = image.metadata().with_context(comparing)?.len();
        let (mut ours, mut theirs) = (vec![0; PIECE], vec![0; PIECE]);
        for at in (0..size).step_by(PIECE) {
            let length = usize::try_from(size - at).unwrap_or(PIECE).min(PIECE);
            let (ours, theirs) = (ours.get_mut(..length), theirs.get_mut(..length));
            let (Some(ours), Some(theirs)) = (ours, theirs) else { break };
            disk.read_exact_at(ours, offset + at).with_context(comparing)?;
            image.read_exact_at(theirs, at).with_context(comparing)?;
            let wrong = || ours.iter().zip(theirs.iter()).position(|(ours, theirs)| ours != theirs).unwrap_or_default();
            ensure!(ours == theirs, "the disk is wrong at byte {} of the image", at + wrong() as u64);
        }
        Ok(())
    }

    /// Keeps the bytes in the file `path`; holes for zeroes.
    ///
    /// # Errors
    /// There is no room.
    pub fn keep(&self, path: &Path) -> Result<()> {
        run("cp", ["--sparse=always".as_ref(), self.path.as_os_str(), path.as_os_str()])
    }

    /// Writes what [`Disk::keep`] has kept, where it differs; the disk has no loop device now.
    ///
    /// # Errors
    /// Something cannot be read or written.
    pub fn restore(&self, kept: &Path) -> Result<()> {
        let restoring = || format!("restoring {} from {}", self.path.display(), kept.display());
        let (from, to) = (File::open(kept), File::options().read(true).write(true).open(&self.path));
        let (from, to) = (from.with_context(restoring)?, to.with_context(restoring)?);
        let (mut old, mut now) = (vec![0; PIECE], vec![0; PIECE]);
        for at in (0..self.size).step_by(PIECE) {
            let length = usize::try_from(self.size - at).unwrap_or(PIECE).min(PIECE);
            let (Some(old), Some(now)) = (old.get_mut(..length), now.get_mut(..length)) else { break };
            from.read_exact_at(old, at).with_context(restoring)?;
            to.read_exact_at(now, at).with_context(restoring)?;
            if old != now {
                to.write_all_at(old, at).with_context(restoring)?;
            }
        }
        if self.medium == Medium::Real { to.sync_all().with_context(restoring) } else { Ok(()) }
    }

    /// Damages one byte of each block of `blocks`, counted from the byte `start`.
    ///
    /// # Errors
    /// Something cannot be read or written.
    pub fn damage(&self, start: u64, blocks: impl IntoIterator<Item = u64>) -> Result<()> {
        let damaging = || format!("damaging {}", self.path.display());
        let file = File::options().read(true).write(true).open(&self.path).with_context(damaging)?;
        for block in blocks {
            let at = start + block * BLOCK + block % BLOCK;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).with_context(damaging)?;
            file.write_all_at(&byte.map(|byte| !byte), at).with_context(damaging)?;
        }
        Ok(())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.path));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_found_and_what_was_kept_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let (image, kept) = (dir.path().join("image"), dir.path().join("kept"));
        let bytes: Vec<u8> = (0..=250).cycle().take(3 * PIECE / 2).collect();
        fs::write(&image, &bytes).unwrap();
        let disk = Disk::blank(dir.path(), Medium::Real, 4 << 20).unwrap();
        assert_eq!(disk.check(BLOCK, &image).unwrap_err().to_string(), "the disk is wrong at byte 1 of the image");
        File::options().write(true).open(&disk.path).unwrap().write_all_at(&bytes, BLOCK).unwrap();
        disk.check(BLOCK, &image).unwrap();
        disk.keep(&kept).unwrap();
        disk.damage(BLOCK, [0, 300]).unwrap();
        assert_eq!(disk.check(BLOCK, &image).unwrap_err().to_string(), "the disk is wrong at byte 0 of the image");
        disk.damage(BLOCK, [0]).unwrap();
        let wrong = 300 * BLOCK + 300;
        assert_eq!(
            disk.check(BLOCK, &image).unwrap_err().to_string(),
            format!("the disk is wrong at byte {wrong} of the image")
        );
        disk.restore(&kept).unwrap();
        disk.check(BLOCK, &image).unwrap();
    }
}
