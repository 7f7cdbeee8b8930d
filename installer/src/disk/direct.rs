//! One open file with two descriptors: one through the page cache, and one past it (`O_DIRECT`, open(2)).
//!
//! Both may be used side by side, because the kernel keeps them coherent. A direct write writes back and drops the
//! cached pages of its range before (`kiocb_invalidate_pages`) and, when it is synchronous, once more after it
//! (`kiocb_invalidate_post_direct_write`); a direct read first writes dirty pages of its range back
//! (`kiocb_write_and_wait`): all in mm/filemap.c, called by `blkdev_direct_write` and `blkdev_read_iter` in block/fops.c
//! for devices and by fs/iomap/direct-io.c for file systems. So a direct read always gets the bytes of the device.
//!
//! One gap is the kernel's: an *asynchronous* direct write to a block device (`blkdev_direct_write` sees
//! `-EIOCBQUEUED`) is not followed by the second drop, so a buffered read of the same range at the same time could leave
//! old bytes in the page cache. [`forget`] narrows it for whoever writes like that: a page that is being read at that moment
//! stays. Nobody here asks for a range that is being written, but the kernel's readahead may run into one, from what lies before
//! it. That happens to a hash tree, of which a level is read through the cache while the next one is written: those writes are
//! synchronous (`Goal::read_beside`). What else is read through the cache is small and far away, and file contents are not.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};

use super::buffer::ALIGNMENT;
use super::{aligned, as_u64};
use crate::sys;

/// How many bytes are zeroed in one call: the kernel holds the inode's lock meanwhile.
const ZEROED_AT_ONCE: u64 = 256 << 20;

/// An open file and its way past the page cache.
#[derive(Debug)]
pub(super) struct Descriptors {
    /// Holds the lock, and on a block device the exclusive claim.
    buffered: File,
    direct: Option<Arc<File>>,
    /// The file system takes `O_DIRECT` at open(2) and refuses the request all the same.
    refused: AtomicBool,
}

impl Descriptors {
    /// Opens the second descriptor of what `file` is; without one where that cannot be.
    pub(super) fn new(file: File) -> Self {
        let direct = open_direct(&file, true).ok().flatten().map(Arc::new);
        Self { buffered: file, direct, refused: AtomicBool::new(false) }
    }

    /// The same of a file that is open for reading only.
    pub(super) fn read_only(file: File) -> Self {
        let direct = open_direct(&file, false).ok().flatten().map(Arc::new);
        Self { buffered: file, direct, refused: AtomicBool::new(false) }
    }

    /// The descriptor that holds the lock.
    pub(super) fn file(&self) -> &File {
        &self.buffered
    }

    /// The direct descriptor, if `offset` and `length` are right for it.
    pub(super) fn direct(&self, offset: u64, length: u64) -> Option<&Arc<File>> {
        let usable = aligned(offset) && aligned(length) && !self.refused.load(Ordering::Relaxed);
        self.direct.as_ref().filter(|_| usable)
    }

    /// Fills `buffer` from `offset`, from the device itself where the request is aligned.
    pub(super) fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = self.direct(offset, as_u64(buffer.len())).filter(|_| address_is_aligned(buffer)) {
            match direct.read_exact_at(buffer, offset) {
                Err(error) if refuses(&error) => self.refused.store(true, Ordering::Relaxed),
                other => return other,
            }
        }
        self.buffered.read_exact_at(buffer, offset)
    }

    /// Writes all of `bytes` at `offset`, past the page cache where the request is aligned.
    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = self.direct(offset, as_u64(bytes.len())).filter(|_| address_is_aligned(bytes)) {
            match direct.write_all_at(bytes, offset) {
                Err(error) if refuses(&error) => self.refused.store(true, Ordering::Relaxed),
                other => return other,
            }
        }
        self.buffered.write_all_at(bytes, offset)
    }

    /// Has the range read as zeroes without writing them, where the kernel can; `false` if it can not, and then the
    /// range holds anything.
    ///
    /// For a plain file `PUNCH_HOLE` makes a hole, which reads as zeroes (fallocate(2)), and `ZERO_RANGE` unwritten
    /// extents. For a block device `blkdev_fallocate` (block/fops.c) drops the cached pages and calls
    /// `blkdev_issue_zeroout` (block/blk-lib.c): zeroes are its contract, with every flag.
    ///
    /// * `PUNCH_HOLE` adds `BLKDEV_ZERO_NOFALLBACK`: the device's own command or nothing. It may unmap, but only by a
    ///   command after which the range reads as zeroes: `REQ_OP_WRITE_ZEROES` without `REQ_NOUNMAP` is Write Zeroes with
    ///   the deallocate bit in NVMe (`nvme_setup_write_zeroes`), and WRITE SAME with UNMAP in SCSI, used where the drive
    ///   promises zeroes (`LBPRZ`, `sd_config_write_same`). A thin drive gets its space back and an SSD its spare blocks.
    /// * `ZERO_RANGE` is what the ioctl `BLKZEROOUT` does (`blk_ioctl_zeroout`, block/ioctl.c): without such a command
    ///   the kernel writes zero pages itself (`blkdev_issue_zero_pages`), with more under way than we could have.
    /// * `BLKDISCARD` is no way to get zeroes: what a discarded sector reads as is up to the drive, and the kernel has
    ///   said so for every drive since Linux 4.12 (`BLKDISCARDZEROES` is always 0).
    ///
    /// Both need the descriptor that holds the claim: for any other, `truncate_bdev_range` (block/bdev.c) refuses to
    /// drop dirty pages. On a device, direct writes of other ranges go on meanwhile: they take no lock of the inode.
    pub(super) fn zero(&self, offset: u64, length: u64) -> io::Result<bool> {
        let hole = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let range = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let end = offset.saturating_add(length);
        let mut start = offset;
        while start < end {
            let here = ZEROED_AT_ONCE.min(end - start);
            // Whatever the fast way fails with, the thorough one decides: SCSI drives are found not to know a command
            // by its failure, and kernels have called that EREMOTEIO.
            let zeroed = self.allocate(hole, start, here).or_else(|_| self.allocate(range, start, here));
            match zeroed {
                Err(Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::ENODEV) => return Ok(false),
                other => other?,
            }
            start += here;
        }
        Ok(true)
    }

    fn allocate(&self, mode: FallocateFlags, offset: u64, length: u64) -> nix::Result<()> {
        let (Ok(offset), Ok(length)) = (offset.try_into(), length.try_into()) else { return Err(Errno::EFBIG) };
        loop {
            match fallocate(&self.buffered, mode, offset, length) {
                Err(Errno::EINTR) => {}
                other => return other,
            }
        }
    }
}

/// Drops what the page cache has of a range; what is dirty, locked or mapped stays. For a range that was just written
/// by an asynchronous direct write, see above.
pub(super) fn forget(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (offset.try_into(), length.try_into()) else { return };
    // It is advice: where it cannot be given, as for a pipe, there is no page cache either.
    let _ = posix_fadvise(file.as_fd(), offset, length, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

fn address_is_aligned(bytes: &[u8]) -> bool {
    bytes.as_ptr().addr().is_multiple_of(ALIGNMENT)
}

/// `EINVAL` is how a file system says that direct I/O is not to be had in this form (open(2), NOTES).
pub(super) fn refuses(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

/// Opens what `file` is once more. By its descriptor, since the name may lead elsewhere by now; without `O_EXCL`, since
/// that claim is held by `file`, and the kernel lets any other claim fail.
fn open_direct(file: &File, write: bool) -> io::Result<Option<File>> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let direct = OpenOptions::new().read(true).write(write).custom_flags(libc::O_DIRECT).open(path)?;
    Ok(same_disk(file, &direct).then_some(direct))
}

/// A device number can be given to another disk when the first one is unplugged. The sequence number of a disk is
/// given once (`Documentation/ABI/testing/sysfs-block`, `diskseq`; kernels before 5.15 have none).
fn same_disk(one: &File, other: &File) -> bool {
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
    let (Ok(a), Ok(b)) = (one.metadata(), other.metadata()) else { return false };
    let same_file = (a.dev(), a.ino(), a.rdev()) == (b.dev(), b.ino(), b.rdev());
    let sequence = |file: &File| sys::disk_sequence(file.as_fd()).ok();
    same_file && (!a.file_type().is_block_device() || sequence(one) == sequence(other))
}
