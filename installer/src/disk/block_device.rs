//! A block device, held exclusively for the whole run.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::direct::Descriptors;
use super::{DISCARDING, Disk, Identity, READING, WRITING, as_u64, at, check, sysfs_text, zeroes};
use crate::failure::{Code, WithCode as _, coded};
use crate::sys;

/// How long another holder of the lock is waited for: udev takes a shared one while it looks at a device
/// (<https://systemd.io/BLOCK_DEVICE_LOCKING/>).
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// A whole disk, opened exclusively (`O_EXCL`: nothing of it is mounted, swap, or part of md or dm, nor becomes so) and
/// locked (`flock`: udev and partitioning tools stay away).
#[derive(Debug)]
pub struct BlockDevice {
    files: Descriptors,
    sys: PathBuf,
    name: String,
    size: u64,
    sector_size: u32,
    expected: Identity,
    /// What the check right before the first write found: `Some` is the difference.
    checked: OnceLock<Option<String>>,
}

impl BlockDevice {
    /// Opens the block device at `path` (`/dev/…`), which must be the disk `expected`, for the whole run. `sys` is where
    /// sysfs is mounted.
    ///
    /// # Errors
    /// [`Code::DiskInUse`] if it is mounted, held or locked, or by now is another disk; [`Code::DiskIo`] otherwise.
    pub fn open(path: &Path, expected: &Identity, sys: &Path) -> Result<Self> {
        let name =
            path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
        let disk = match &expected.serial {
            Some(serial) => format!("{name} (serial {serial})"),
            None => name,
        };
        let file = open_exclusively(path, &disk)?;
        let fail = |doing: &str| format!("{doing} of disk {disk}");
        let size = sys::block_device_size(file.as_fd()).code(Code::DiskIo, || fail("asking the size"))?;
        let sector_size =
            sys::logical_sector_size(file.as_fd()).code(Code::DiskIo, || fail("asking the sector size"))?;
        let device = Self {
            files: Descriptors::new(file),
            sys: sys.to_owned(),
            name: disk,
            size,
            sector_size,
            expected: expected.clone(),
            checked: OnceLock::new(),
        };
        match device.difference().with_context(|| format!("checking the identity of disk {}", device.name))? {
            Some(difference) => Err(other_disk(&device.name, &difference)),
            None => Ok(device),
        }
    }

    /// The sysfs directory of the open file's device number, whatever the name in `/dev` has become.
    fn block(&self) -> io::Result<PathBuf> {
        let number = self.files.file().metadata()?.rdev();
        let (major, minor) = (nix::sys::stat::major(number), nix::sys::stat::minor(number));
        Ok(self.sys.join(format!("dev/block/{major}:{minor}")))
    }

    /// What is different about the disk behind the descriptor from the one that was chosen.
    fn difference(&self) -> io::Result<Option<String>> {
        let block = self.block()?;
        if block.join("partition").exists() {
            return Ok(Some("a partition, not a whole disk".to_owned()));
        }
        let found = Identity { size: sys::block_device_size(self.files.file().as_fd())?, ..Identity::read(&block) };
        Ok(self.expected.difference(&found))
    }

    /// Right before the first write: is it still the disk that was chosen?
    fn check_once(&self) -> io::Result<()> {
        let found = match self.checked.get() {
            Some(found) => found,
            None => {
                let found = self.difference()?;
                self.checked.get_or_init(|| found)
            }
        };
        match found {
            Some(difference) => Err(io::Error::other(format!("the disk is not the chosen one: it has {difference}"))),
            None => Ok(()),
        }
    }
}

fn other_disk(name: &str, difference: &str) -> anyhow::Error {
    coded(Code::DiskInUse, format!("disk {name} is not the one that was chosen: it has {difference}"))
}

fn open_exclusively(path: &Path, disk: &str) -> Result<File> {
    let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_EXCL).open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            let text = "it or a partition of it is mounted, used as swap, or held by md, dm or another program";
            return Err(coded(Code::DiskInUse, format!("disk {disk} is in use: {text}")));
        }
        other => other.code(Code::DiskIo, || format!("opening disk {disk}"))?,
    };
    let metadata = file.metadata().code(Code::DiskIo, || format!("opening disk {disk}"))?;
    if !metadata.file_type().is_block_device() {
        return Err(coded(Code::DiskIo, format!("{} is not a block device", path.display())));
    }
    lock(&file, disk, LOCK_PATIENCE)?;
    Ok(file)
}

/// Takes the exclusive BSD lock of a disk, and waits for another holder for as long as `patience`.
///
/// # Errors
/// [`Code::DiskInUse`] if somebody else has it and keeps it.
pub(super) fn lock(file: &File, disk: &str, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            // flock(2) knows no time-out, so the lock is asked for again and again.
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            Err(TryLockError::WouldBlock) => {
                return Err(coded(Code::DiskInUse, format!("disk {disk} is locked by another program")));
            }
            Err(TryLockError::Error(error)) => return Err(error).code(Code::DiskIo, || format!("locking disk {disk}")),
        }
    }
}

impl Disk for BlockDevice {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> u32 {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let length = as_u64(buffer.len());
        check(self, READING, offset, length)?;
        self.files.read_exact_at(buffer, offset).map_err(|error| at(READING, self, offset, length, error))
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let length = as_u64(bytes.len());
        check(self, WRITING, offset, length)?;
        let fail = |error| at(WRITING, self, offset, length, error);
        self.check_once().map_err(fail)?;
        self.files.write_all_at(bytes, offset).map_err(fail)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        check(self, WRITING, offset, length)?;
        let fail = |error| at(WRITING, self, offset, length, error);
        self.check_once().map_err(fail)?;
        match self.files.zero(offset, length).map_err(fail)? {
            true => Ok(()),
            false => zeroes::write(self, offset, length),
        }
    }

    fn direct_file(&self, offset: u64, length: u64) -> Option<Arc<File>> {
        let direct = self.files.direct(offset, length)?;
        let permitted = check(self, WRITING, offset, length).is_ok() && (length == 0 || self.check_once().is_ok());
        permitted.then(|| Arc::clone(direct))
    }

    /// fsync(2) on a block device writes its dirty pages and then has the drive empty its cache
    /// (`blkdev_fsync` in the kernel's block/fops.c). What the direct descriptor wrote is in that cache too. A write-back
    /// that failed while the direct descriptor had it done is not lost: each descriptor reports it once
    /// (`file_check_and_advance_wb_err` in mm/filemap.c).
    fn flush(&self) -> io::Result<()> {
        self.files.file().sync_all().map_err(|error| flushing(&self.name, error))
    }

    /// The kernel says what a drive can be told: `discard_max_bytes` is 0 for one that cannot
    /// (Documentation/ABI/stable/sysfs-block).
    fn discard(&self, offset: u64, length: u64) -> io::Result<bool> {
        check(self, DISCARDING, offset, length)?;
        let most = sysfs_text(&self.block()?.join("queue/discard_max_bytes"));
        if most.is_none_or(|most| most == "0") {
            return Ok(false);
        }
        if length > 0 {
            let fail = |error| at(DISCARDING, self, offset, length, error);
            self.check_once().map_err(fail)?;
            sys::discard(self.files.file().as_fd(), offset, length).map_err(fail)?;
        }
        Ok(true)
    }

    fn control(&self) -> io::Result<Option<File>> {
        self.check_once()?;
        self.files.file().try_clone().map(Some)
    }

    fn describe(&self) -> String {
        self.name.clone()
    }

    fn forget_cache(&self) -> io::Result<()> {
        sys::flush_buffers(self.files.file().as_fd())
    }

    fn reread_table(&self) -> io::Result<()> {
        sys::reread_partition_table(self.files.file().as_fd())
    }
}

/// An error of a flush with the disk's name; its kind stays.
pub(super) fn flushing(disk: &str, cause: io::Error) -> io::Error {
    io::Error::new(cause.kind(), FlushFailed { disk: disk.to_owned(), cause })
}

#[derive(Debug, thiserror::Error)]
#[error("flushing {disk}")]
struct FlushFailed {
    disk: String,
    #[source]
    cause: io::Error,
}
