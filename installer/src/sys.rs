//! System calls that no crate wraps safely: the only file with `unsafe`.
#![allow(unsafe_code, reason = "each function is a safe wrapper of one call; its unsafe block says what makes it safe")]

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
pub fn reread_partition_table(device: std::os::fd::BorrowedFd<'_>) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the descriptor is open while it is borrowed, and BLKRRPART takes no argument.
    unsafe { block::blkrrpart(device.as_raw_fd()) }?;
    Ok(())
}

/// Takes the immutable flag off a file, where it has one: efivarfs sets it on what the kernel does not know
/// (Linux `Documentation/filesystems/efivarfs.rst`).
///
/// # Errors
/// The file system's, except that it has no such flags.
pub fn clear_immutable(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    mod raw {
        nix::ioctl_read!(fs_ioc_getflags, b'f', 1, libc::c_long);
        nix::ioctl_write_ptr!(fs_ioc_setflags, b'f', 2, libc::c_long);
    }
    // FS_IMMUTABLE_FL of linux/fs.h.
    const IMMUTABLE: libc::c_long = 0x10;
    let mut flags: libc::c_long = 0;
    // SAFETY: the request writes an int, which is no larger than the long the pointer is to, a live local; the
    // descriptor is open for the whole call because the caller holds the file.
    match unsafe { raw::fs_ioc_getflags(file.as_raw_fd(), &raw mut flags) } {
        Err(nix::errno::Errno::ENOTTY | nix::errno::Errno::EOPNOTSUPP) => return Ok(()),
        other => other?,
    };
    if flags & IMMUTABLE != 0 {
        flags &= !IMMUTABLE;
        // SAFETY: as above; the request reads an int, on x86 the first half of the long.
        unsafe { raw::fs_ioc_setflags(file.as_raw_fd(), &raw const flags) }?;
    }
    Ok(())
}

/// Loads a kernel and its initrd for `reboot(LINUX_REBOOT_CMD_KEXEC)` (kexec_file_load(2)).
///
/// # Errors
/// The kernel's reason; nothing is loaded then.
pub fn kexec_file_load(
    kernel: &impl std::os::fd::AsFd,
    initrd: &impl std::os::fd::AsFd,
    cmdline: &std::ffi::CStr,
) -> nix::Result<()> {
    use std::os::fd::AsRawFd as _;
    let (kernel, initrd) = (kernel.as_fd().as_raw_fd(), initrd.as_fd().as_raw_fd());
    let bytes = cmdline.to_bytes_with_nul();
    let flags: libc::c_ulong = 0;
    // SAFETY: the call reads `bytes.len()` bytes at the pointer, which are borrowed for the whole call, and the two
    // files, whose descriptors are borrowed likewise. It replaces nothing that runs: only a later reboot(2) does.
    let result =
        unsafe { libc::syscall(libc::SYS_kexec_file_load, kernel, initrd, bytes.len(), bytes.as_ptr(), flags) };
    nix::errno::Errno::result(result).map(drop)
}

/// Sets or clears `IFF_UP` of a network interface (netdevice(7)).
///
/// # Errors
/// The kernel's: no such interface, no permission; `InvalidInput` for a name that cannot be one.
pub fn set_link(name: &str, up: bool) -> std::io::Result<()> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
    use std::os::fd::AsRawFd as _;
    mod raw {
        nix::ioctl_read_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
        nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);
    }
    // SAFETY: ifreq is plain integers and a union of plain values, for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() || name.is_empty() || name.contains('\0') {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from.cast_signed();
    }
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: the request reads the name, which ends with NUL by the length check, and writes the flags into the
    // union of the same live local.
    unsafe { raw::get_flags(socket.as_raw_fd(), &raw mut request) }?;
    // SAFETY: the call above set this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    let bit = libc::c_short::try_from(libc::IFF_UP).map_err(std::io::Error::other)?;
    request.ifr_ifru.ifru_flags = if up { flags | bit } else { flags & !bit };
    // SAFETY: the request only reads the live local.
    unsafe { raw::set_flags(socket.as_raw_fd(), &raw const request) }?;
    Ok(())
}

/// Sets a watchdog's timeout in seconds and returns what the driver made of it (`WDIOC_SETTIMEOUT`,
/// Linux `Documentation/watchdog/watchdog-api.rst`).
///
/// # Errors
/// The driver's: `EOPNOTSUPP` where the timeout is fixed, `EINVAL` where it cannot be that long.
pub fn watchdog_set_timeout(watchdog: std::os::fd::BorrowedFd<'_>, seconds: i32) -> std::io::Result<i32> {
    use std::os::fd::AsRawFd as _;
    mod raw {
        nix::ioctl_readwrite!(wdioc_settimeout, b'W', 6, libc::c_int);
    }
    let mut timeout: libc::c_int = seconds;
    // SAFETY: the request reads and writes one int through the pointer, which is to a live local of that type; the
    // descriptor is open while it is borrowed.
    unsafe { raw::wdioc_settimeout(watchdog.as_raw_fd(), &raw mut timeout) }?;
    Ok(timeout)
}
