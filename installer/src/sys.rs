//! Being written.

mod block {
    //! The ioctls of linux/fs.h.
    #![allow(missing_docs, reason = "nix's macros make undocumented functions; the safe ones below have the docs")]
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), nix::libc::c_int);
    nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
    nix::ioctl_none!(blkflsbuf, 0x12, 97);
    nix::ioctl_none!(blkrrpart, 0x12, 95);
}

/// Bytes of a block device (`BLKGETSIZE64`).
///
/// # Errors
/// The kernel's; `ENOTTY` for what is no block device.
#[allow(unsafe_code, reason = "an ioctl")]
pub fn block_device_size(device: std::os::fd::BorrowedFd<'_>) -> std::io::Result<u64> {
    use std::os::fd::AsRawFd as _;
    let mut bytes: usize = 0;
    // SAFETY: the descriptor is open while it is borrowed, and BLKGETSIZE64 writes one u64 (usize on this architecture,
    // as linux/fs.h declares it) to the valid, exclusively borrowed place it is given.
    unsafe { block::blkgetsize64(device.as_raw_fd(), &raw mut bytes) }?;
    u64::try_from(bytes).map_err(std::io::Error::other)
}

/// Logical sector size of a block device in bytes (`BLKSSZGET`).
///
/// # Errors
/// The kernel's; `ENOTTY` for what is no block device.
#[allow(unsafe_code, reason = "an ioctl")]
pub fn logical_sector_size(device: std::os::fd::BorrowedFd<'_>) -> std::io::Result<u32> {
    use std::os::fd::AsRawFd as _;
    let mut bytes: nix::libc::c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed, and BLKSSZGET writes one int to the valid, exclusively
    // borrowed place it is given.
    unsafe { block::blksszget(device.as_raw_fd(), &raw mut bytes) }?;
    u32::try_from(bytes).map_err(std::io::Error::other)
}

/// Writes what the kernel caches of a block device and drops it (`BLKFLSBUF`), so that reads come from the drive.
///
/// # Errors
/// The kernel's.
#[allow(unsafe_code, reason = "an ioctl")]
pub fn flush_buffers(device: std::os::fd::BorrowedFd<'_>) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the descriptor is open while it is borrowed, and BLKFLSBUF takes no argument.
    unsafe { block::blkflsbuf(device.as_raw_fd()) }?;
    Ok(())
}

/// Has the kernel read the partition table of a block device anew (`BLKRRPART`).
///
/// # Errors
/// The kernel's; `EBUSY` while a partition is in use.
#[allow(unsafe_code, reason = "an ioctl")]
pub fn reread_partition_table(device: std::os::fd::BorrowedFd<'_>) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the descriptor is open while it is borrowed, and BLKRRPART takes no argument.
    unsafe { block::blkrrpart(device.as_raw_fd()) }?;
    Ok(())
}
