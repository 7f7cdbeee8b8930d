//! System calls that no crate wraps safely: the only file with `unsafe`.
#![allow(unsafe_code, reason = "each function is a safe wrapper of one call; its unsafe block says what makes it safe")]

mod block {
    //! The ioctls of linux/fs.h.
    #![allow(missing_docs, reason = "nix's macros make undocumented functions; the safe ones below have the docs")]
    nix::ioctl_read_bad!(blksszget, nix::request_code_none!(0x12, 104), nix::libc::c_int);
    nix::ioctl_read!(blkgetsize64, 0x12, 114, usize);
    nix::ioctl_none!(blkflsbuf, 0x12, 97);
    nix::ioctl_none!(blkrrpart, 0x12, 95);
    nix::ioctl_read!(blkgetdiskseq, 0x12, 128, u64);
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
}

mod drive {
    //! What goes to drives and the device mapper beside reads and writes: linux/nvme_ioctl.h, scsi/sg.h, linux/dm-ioctl.h.
    #![allow(missing_docs, reason = "the fields are the headers'; the functions below have the docs")]
    #[repr(C)]
    #[derive(Default)]
    pub struct NvmePassthrough {
        pub opcode: u8,
        pub flags: u8,
        pub reserved: u16,
        pub namespace: u32,
        pub words_2_3: [u32; 2],
        pub metadata: u64,
        pub address: u64,
        pub metadata_length: u32,
        pub length: u32,
        pub words_10_15: [u32; 6],
        pub timeout_ms: u32,
        pub result: u32,
    }
    nix::ioctl_readwrite!(nvme_admin, b'N', 0x41, NvmePassthrough);
    #[repr(C)]
    #[derive(Default)]
    pub struct ScsiHeader {
        pub interface: libc::c_int,
        pub direction: libc::c_int,
        pub command_length: u8,
        pub sense_room: u8,
        pub vectors: u16,
        pub length: u32,
        pub data: *mut u8,
        pub command: *const u8,
        pub sense: *mut u8,
        pub timeout_ms: u32,
        pub flags: u32,
        pub pack_id: libc::c_int,
        pub user: *mut libc::c_void,
        pub status: u8,
        pub masked_status: u8,
        pub message_status: u8,
        pub sense_length: u8,
        pub host_status: u16,
        pub driver_status: u16,
        pub residual: libc::c_int,
        pub duration: u32,
        pub info: u32,
    }
    // SG_IO of scsi/sg.h.
    nix::ioctl_readwrite_bad!(sg_io, 0x2285, ScsiHeader);
    #[repr(C)]
    pub struct MappedDevice {
        pub version: [u32; 3],
        pub size: u32,
        pub start: u32,
        pub targets: u32,
        pub opened: i32,
        pub flags: u32,
        pub event: u32,
        pub padding: u32,
        pub device: u64,
        pub name: [u8; 128],
        pub uuid: [u8; 129],
        pub data: [u8; 7],
    }
    nix::ioctl_readwrite!(dm_dev_remove, 0xfd, 4, MappedDevice);
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

/// The number a disk got when it appeared, which no other disk gets before the machine is switched off
/// (`BLKGETDISKSEQ`, Linux 5.15).
///
/// # Errors
/// The kernel's; `ENOTTY` for what is no block device, or an older kernel.
pub fn disk_sequence(device: std::os::fd::BorrowedFd<'_>) -> std::io::Result<u64> {
    use std::os::fd::AsRawFd as _;
    let mut number: u64 = 0;
    // SAFETY: the descriptor is open while it is borrowed, and BLKGETDISKSEQ writes one u64 to the valid, exclusively
    // borrowed place it is given.
    unsafe { block::blkgetdiskseq(device.as_raw_fd(), &raw mut number) }?;
    Ok(number)
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

/// Tells a drive that `length` bytes from `start` on are of no use any more (`BLKDISCARD`). What they read as afterwards is
/// up to the drive.
///
/// # Errors
/// The kernel's; `EOPNOTSUPP` for a drive that cannot be told.
pub fn discard(device: std::os::fd::BorrowedFd<'_>, start: u64, length: u64) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let range = [start, length];
    // SAFETY: the descriptor is open while it is borrowed, and BLKDISCARD reads two u64 at the pointer, which is to a live
    // local of that type.
    unsafe { block::blkdiscard(device.as_raw_fd(), &raw const range) }?;
    Ok(())
}

/// Sends an admin command to the controller of an NVMe namespace (`NVME_IOCTL_ADMIN_CMD`, linux/nvme_ioctl.h), with `words`
/// as command dwords 10 to 15, and waits for its end. The drive fills `data`, which may be empty. Returns the status field
/// of the completion: 0 is success.
///
/// # Errors
/// The kernel's: `ENOTTY` for what is no NVMe namespace; `InvalidInput` for more data or time than the call can name.
pub fn nvme_admin(
    device: std::os::fd::BorrowedFd<'_>,
    opcode: u8,
    namespace: u32,
    words: [u32; 6],
    data: &mut [u8],
    timeout: std::time::Duration,
) -> std::io::Result<u16> {
    use std::os::fd::AsRawFd as _;
    let too_much = |_| std::io::ErrorKind::InvalidInput;
    let mut command = drive::NvmePassthrough {
        opcode,
        namespace,
        address: u64::try_from(data.as_mut_ptr().expose_provenance()).map_err(too_much)?,
        length: u32::try_from(data.len()).map_err(too_much)?,
        words_10_15: words,
        timeout_ms: u32::try_from(timeout.as_millis()).map_err(too_much)?,
        ..drive::NvmePassthrough::default()
    };
    // SAFETY: the request reads and writes one such structure, which has the layout of the kernel's nvme_passthru_cmd and is
    // a live local. The kernel reads and writes at most `length` bytes at `address`, which are borrowed exclusively until
    // the call returns; with no metadata length it does not look at that address.
    let status = unsafe { drive::nvme_admin(device.as_raw_fd(), &raw mut command) }?;
    u16::try_from(status).map_err(std::io::Error::other)
}

/// Which way the data of a SCSI command goes (`SG_IO`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// There is none.
    None,
    /// From the drive.
    In,
    /// To the drive.
    Out,
}

/// How a SCSI command ended (`sg_io_hdr` in scsi/sg.h).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScsiAnswer {
    /// SCSI status: 0 is good, 2 comes with sense data.
    pub status: u8,
    /// The host adapter's status: 0 is good.
    pub host: u16,
    /// The sense data.
    pub sense: Vec<u8>,
}

/// Sends a SCSI command to a drive and waits for its end (`SG_IO`).
///
/// # Errors
/// The kernel's: `ENOTTY` for a device that takes none; `InvalidInput` for more data or time than the call can name.
pub fn scsi(
    device: std::os::fd::BorrowedFd<'_>,
    command: &[u8; 16],
    transfer: Transfer,
    data: &mut [u8],
    timeout: std::time::Duration,
) -> std::io::Result<ScsiAnswer> {
    use std::os::fd::AsRawFd as _;
    let too_much = |_| std::io::ErrorKind::InvalidInput;
    let mut sense = vec![0_u8; 64];
    let mut header = drive::ScsiHeader {
        interface: libc::c_int::from(b'S'),
        // SG_DXFER_NONE, SG_DXFER_FROM_DEV, SG_DXFER_TO_DEV
        direction: match transfer {
            Transfer::None => -1,
            Transfer::In => -3,
            Transfer::Out => -2,
        },
        command_length: 16,
        sense_room: 64,
        length: u32::try_from(data.len()).map_err(too_much)?,
        data: data.as_mut_ptr(),
        command: command.as_ptr(),
        sense: sense.as_mut_ptr(),
        timeout_ms: u32::try_from(timeout.as_millis()).map_err(too_much)?,
        ..drive::ScsiHeader::default()
    };
    // SAFETY: the request reads and writes one such structure, which has the layout of the kernel's sg_io_hdr and is a live
    // local. Its pointers are to 16 bytes of command, which the kernel only reads, `length` bytes of data and 64 of sense,
    // the last two borrowed exclusively; all live until the call returns.
    unsafe { drive::sg_io(device.as_raw_fd(), &raw mut header) }?;
    sense.truncate(usize::from(header.sense_length));
    Ok(ScsiAnswer { status: header.status, host: header.host_status, sense })
}

/// Removes the device mapper's device with this number (`DM_DEV_REMOVE`, linux/dm-ioctl.h); `control` is
/// `/dev/mapper/control`.
///
/// # Errors
/// The kernel's: `EBUSY` while it is in use, `ENXIO` where there is none.
pub fn remove_mapped_device(control: std::os::fd::BorrowedFd<'_>, major: u32, minor: u32) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    // As the kernel's new_encode_dev() has it.
    let device = u64::from(minor & 0xff) | u64::from(major) << 8 | u64::from(minor & !0xff) << 12;
    let mut request = drive::MappedDevice {
        version: [4, 0, 0],
        size: 312,
        start: 312,
        targets: 0,
        opened: 0,
        flags: 0,
        event: 0,
        padding: 0,
        device,
        name: [0; 128],
        uuid: [0; 129],
        data: [0; 7],
    };
    // SAFETY: the request reads and writes one such structure of the 312 bytes that it names as its size, which has the
    // layout of the kernel's dm_ioctl and is a live local; it has no pointers.
    unsafe { drive::dm_dev_remove(control.as_raw_fd(), &raw mut request) }?;
    Ok(())
}

/// Has the kernel swap to a device no longer (swapoff(2)).
///
/// # Errors
/// The kernel's: `EINVAL` where it does not, `ENOMEM` without room for what is there.
pub fn swap_off(device: &std::ffi::CStr) -> std::io::Result<()> {
    // SAFETY: the call reads the string, which ends with NUL and is borrowed until it returns.
    let result = unsafe { libc::swapoff(device.as_ptr()) };
    nix::errno::Errno::result(result)?;
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

/// Loads a kernel and its initrd, if it gets one, for `reboot(LINUX_REBOOT_CMD_KEXEC)` (kexec_file_load(2)).
///
/// # Errors
/// The kernel's reason; nothing is loaded then.
pub fn kexec_file_load(
    kernel: &impl std::os::fd::AsFd,
    initrd: Option<&impl std::os::fd::AsFd>,
    cmdline: &std::ffi::CStr,
) -> nix::Result<()> {
    use std::os::fd::AsRawFd as _;
    let flags = if initrd.is_none() { libc::KEXEC_FILE_NO_INITRAMFS } else { 0 };
    let flags = libc::c_ulong::from(flags.cast_unsigned());
    let (kernel, initrd) = (kernel.as_fd().as_raw_fd(), initrd.map_or(-1, |initrd| initrd.as_fd().as_raw_fd()));
    let bytes = cmdline.to_bytes_with_nul();
    // SAFETY: the call reads `bytes.len()` bytes at the pointer, which are borrowed for the whole call, and the
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

/// Date and time of day as drivers of hardware clocks take them (`struct rtc_time` of linux/rtc.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct CivilTime {
    /// 0 to 59.
    pub second: libc::c_int,
    /// 0 to 59.
    pub minute: libc::c_int,
    /// 0 to 23.
    pub hour: libc::c_int,
    /// 1 to 31.
    pub day: libc::c_int,
    /// 0 to 11.
    pub month: libc::c_int,
    /// Since 1900.
    pub year: libc::c_int,
    /// 0 (Sunday) to 6.
    pub weekday: libc::c_int,
    /// 0 to 365.
    pub day_of_year: libc::c_int,
    /// Whether it is daylight saving time; never, in UTC.
    pub summer: libc::c_int,
}

/// Sets a hardware clock (`RTC_SET_TIME`, rtc(4)).
///
/// # Errors
/// The kernel's: `ENOTTY` for what is no such clock, `EINVAL` for a time that it cannot hold.
pub fn set_hardware_clock(clock: std::os::fd::BorrowedFd<'_>, time: &CivilTime) -> std::io::Result<()> {
    use std::os::fd::AsRawFd as _;
    mod raw {
        nix::ioctl_write_ptr!(rtc_set_time, b'p', 0x0a, super::CivilTime);
    }
    // SAFETY: the descriptor is open while it is borrowed, and the request reads one rtc_time, whose layout CivilTime has,
    // through the pointer, which is to a borrowed value of that type.
    unsafe { raw::rtc_set_time(clock.as_raw_fd(), std::ptr::from_ref(time)) }?;
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

/// Has the allocator give large blocks back to the kernel as soon as they are freed, and threads share its heaps. By itself
/// glibc keeps blocks of up to 32 MiB once such have been freed, and as many heaps as eight times the processors
/// (mallopt(3)).
pub fn frugal_allocator() {
    let parameters = [(libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, LARGE), (libc::M_ARENA_MAX, HEAPS)];
    for (parameter, value) in parameters {
        // SAFETY: mallopt takes two numbers and no pointer, and locks what it changes.
        let set = unsafe { libc::mallopt(parameter, value) };
        if set == 0 {
            log::debug!("the allocator takes no {value} for {parameter}");
        }
    }
}

/// Bytes of a block that is mapped by itself, and of free memory at the end of a heap that is given back. Frames are smaller:
/// pages that come anew with each of them cost more time than their memory is worth.
const LARGE: libc::c_int = 4 << 20;
/// Heaps at most.
const HEAPS: libc::c_int = 2;

/// Ends a [`WriteRing::wait`] from any thread.
#[derive(Debug, Clone)]
pub struct Waker(std::sync::Arc<nix::sys::eventfd::EventFd>);

impl Waker {
    /// Has the wait that is under way, or else the next one, return.
    ///
    /// # Errors
    /// The kernel's: `EAGAIN` when the ring has been woken 2⁶⁴ - 2 times without looking.
    pub fn wake(&self) -> std::io::Result<()> {
        self.0.write(1)?;
        Ok(())
    }
}

/// A write that a [`WriteRing`] owns until the kernel is done with it.
#[derive(Debug)]
pub struct RingWrite<T> {
    /// Where to.
    pub file: std::sync::Arc<std::fs::File>,
    /// Offset in the file at which the whole buffer goes.
    pub position: u64,
    /// What.
    pub buffer: crate::disk::Buffer,
    /// How many of its first bytes are written already.
    pub done: usize,
    /// The caller's.
    pub tag: T,
}

/// Writes under way in the kernel by io_uring(7), at most as many as it was made for.
pub struct WriteRing<T> {
    ring: io_uring::IoUring,
    /// What the kernel works on: a file and a buffer lie here from before their request is queued until after its
    /// completion was seen.
    slots: Vec<Option<RingWrite<T>>>,
    waker: Waker,
    /// A request that completes when the waker is used is queued.
    watched: bool,
}

impl<T> std::fmt::Debug for WriteRing<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteRing").field("room", &self.slots.len()).field("under_way", &self.under_way()).finish()
    }
}

impl<T> WriteRing<T> {
    /// What the completion of the waker's request carries; all others carry the number of their slot.
    const WAKE: u64 = u64::MAX;

    /// A ring with room for `depth` writes.
    ///
    /// # Errors
    /// The kernel's: `ENOSYS` or `EPERM` where there is no io_uring to be had; `Unsupported` where it lacks the requests
    /// needed (Linux before 5.6).
    pub fn new(depth: usize) -> std::io::Result<Self> {
        use nix::sys::eventfd::{EfdFlags, EventFd};
        let entries = u32::try_from(depth.saturating_add(1)).map_err(std::io::Error::other)?;
        let ring = io_uring::IoUring::new(entries)?;
        let mut probe = io_uring::Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        if ![io_uring::opcode::Write::CODE, io_uring::opcode::PollAdd::CODE]
            .iter()
            .all(|code| probe.is_supported(*code))
        {
            return Err(std::io::ErrorKind::Unsupported.into());
        }
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let slots = std::iter::repeat_with(|| None).take(depth).collect();
        Ok(Self { ring, slots, waker: Waker(std::sync::Arc::new(event)), watched: false })
    }

    /// Wakes this ring.
    #[must_use]
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// How many writes it holds.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.slots.iter().flatten().count()
    }

    /// Queues a write of what is not yet done of a buffer; the next [`Self::wait`] gives it to the kernel.
    ///
    /// # Errors
    /// The write, when there is no room.
    pub fn submit(&mut self, write: RingWrite<T>) -> Result<(), RingWrite<T>> {
        use std::os::fd::AsRawFd as _;
        let Some((index, slot)) = self.slots.iter_mut().enumerate().find(|(_, slot)| slot.is_none()) else {
            return Err(write);
        };
        let write = slot.insert(write);
        let rest = write.buffer.get(write.done..).unwrap_or_default();
        // A longer write is a short one, whose rest comes as another.
        let length = u32::try_from(rest.len()).unwrap_or(u32::MAX);
        let offset = write.position.saturating_add(u64::try_from(write.done).unwrap_or(u64::MAX));
        let target = io_uring::types::Fd(write.file.as_raw_fd());
        let entry = io_uring::opcode::Write::new(target, rest.as_ptr(), length).offset(offset).build();
        let entry = entry.user_data(u64::try_from(index).unwrap_or(Self::WAKE));
        // SAFETY: the descriptor stays open and the bytes stay where they are, initialised and unchanged, until the
        // completion of this request was seen: both are owned by the slot, nobody gets at it before, a Buffer's bytes do
        // not move or change with it, and a ring that is dropped first waits, or else leaks them.
        match unsafe { self.ring.submission().push(&entry) } {
            Ok(()) => Ok(()),
            Err(_) => slot.take().map_or(Ok(()), Err),
        }
    }

    /// Gives to the kernel what is queued, waits until a write is done or the waker is used, and returns the writes that
    /// are done, each with how many bytes were written. There may be none.
    ///
    /// # Errors
    /// The kernel's, after which the state of the writes under way is unknown; those of writes are in the result.
    pub fn wait(&mut self) -> std::io::Result<Vec<(RingWrite<T>, std::io::Result<usize>)>> {
        use nix::errno::Errno;
        use std::os::fd::{AsFd as _, AsRawFd as _};
        if !self.watched {
            let event = io_uring::types::Fd(self.waker.0.as_fd().as_raw_fd());
            let events = u32::from(libc::POLLIN.cast_unsigned());
            let entry = io_uring::opcode::PollAdd::new(event, events).build().user_data(Self::WAKE);
            // SAFETY: the request refers to no memory, and to a descriptor that the ring owns.
            self.watched = unsafe { self.ring.submission().push(&entry) }.is_ok();
        }
        match self.ring.submit_and_wait(1) {
            // A signal, or no memory or no room for completions just now (io_uring_enter(2)): what completed is taken
            // below, and the next call goes on.
            Err(error)
                if matches!(
                    Errno::from_raw(error.raw_os_error().unwrap_or(0)),
                    Errno::EINTR | Errno::EAGAIN | Errno::EBUSY
                ) => {}
            other => drop(other?),
        }
        let mut done = Vec::new();
        for completion in self.ring.completion() {
            if completion.user_data() == Self::WAKE {
                self.watched = false;
                // Only resets its counter; EAGAIN says that it is zero.
                let _ = self.waker.0.read();
                continue;
            }
            let index = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
            let Some(write) = self.slots.get_mut(index).and_then(Option::take) else { continue };
            let result = usize::try_from(completion.result())
                .map_err(|_| std::io::Error::from_raw_os_error(completion.result().saturating_neg()));
            done.push((write, result));
        }
        Ok(done)
    }
}

impl<T> Drop for WriteRing<T> {
    fn drop(&mut self) {
        while self.under_way() > 0 {
            if self.wait().is_err() {
                // The kernel may still read the buffers, so their memory is given to nobody else, ever.
                self.slots.iter_mut().filter_map(Option::take).for_each(|write| write.buffer.leak());
            }
        }
    }
}

/// Stands before libgcc's walk over the stack (build.rs) in a program that has no tables for it, where that aborts: a backtrace
/// ends before it has begun (`_URC_END_OF_STACK`, Itanium C++ ABI: Exception Handling, section 1.2.1).
#[cfg(panic = "abort")]
#[unsafe(no_mangle)]
extern "C" fn __wrap__Unwind_Backtrace(_each: usize, _argument: usize) -> std::ffi::c_int {
    5
}
