//! The disks that sysfs lists.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;

use super::by_path::by_path;
use super::mounts::Mounts;
use super::nvme::{self, NvmeFacts};
use super::{Contents, look, partly};
use crate::disk::{Identity, ReadOnly, sysfs_text};
use crate::failure::{Code, WithCode as _, coded};

/// A disk as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiskFacts {
    /// Kernel name, as `nvme0n1`: good for this run only.
    pub name: String,
    /// Device node, or the path of a plain file.
    pub path: PathBuf,
    /// What the disk is known by.
    #[serde(flatten)]
    pub identity: Identity,
    /// The port that it is in, as udev names it in `/dev/disk/by-path`.
    pub by_path: Option<String>,
    /// Version of its firmware.
    pub firmware: Option<String>,
    /// Logical sector size in bytes.
    pub sector_size: u32,
    /// Physical sector size in bytes.
    pub physical_sector_size: u32,
    /// `nvme`, `virtio`, `sata`, `sas`, `usb`, `scsi`, `mmc`, `file` or `other`.
    pub transport: String,
    /// Whether it spins.
    pub rotational: bool,
    /// Whether its medium can be taken out.
    pub removable: bool,
    /// Whether the kernel refuses writes to it.
    pub read_only: bool,
    /// What an NVMe namespace says of itself.
    pub nvme: Option<NvmeFacts>,
    /// Who uses it: `sda1 is mounted on /srv`, `sda2 is held by dm-0`, `sda3 is used as swap`.
    pub used_by: Vec<String>,
    /// What is on it.
    pub contents: Contents,
}

/// Where the kernel's views are mounted; tests have their own.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/sys`
    pub sys: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
    /// `/proc/self/mountinfo`
    pub mountinfo: PathBuf,
    /// `/proc/swaps`
    pub swaps: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self {
            sys: "/sys".into(),
            dev: "/dev".into(),
            mountinfo: "/proc/self/mountinfo".into(),
            swaps: "/proc/swaps".into(),
        }
    }
}

/// The disks below `sys` (`/sys`), by name: everything that an OS could be installed to, used or not. Loop, RAM, device
/// mapper and md devices, optical and floppy drives, paths of multipath disks and empty drives are left out.
///
/// # Errors
/// [`Code::DiskIo`] when sysfs cannot be read. A disk that cannot be read is listed as such.
pub fn disks(sys: &Path) -> Result<Vec<DiskFacts>> {
    disks_in(&Roots { sys: sys.to_owned(), ..Roots::default() })
}

/// [`disks`] with everything named.
///
/// # Errors
/// As for [`disks`].
pub fn disks_in(roots: &Roots) -> Result<Vec<DiskFacts>> {
    let directory = roots.sys.join("block");
    let fail = || format!("reading {}", directory.display());
    let mounts = read_mounts(roots)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(&directory).code(Code::DiskIo, fail)? {
        names.push(entry.code(Code::DiskIo, fail)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let wanted = names.iter().filter(|name| is_disk(&directory.join(name), name));
    Ok(wanted
        .map(|name| facts(roots, &directory.join(name), name, &mounts))
        .filter(|disk| disk.identity.size > 0)
        .collect())
}

/// What is mounted and swapped to.
///
/// # Errors
/// [`Code::DiskIo`].
pub(crate) fn read_mounts(roots: &Roots) -> Result<Mounts> {
    let text = fs::read_to_string(&roots.mountinfo);
    let text = text.code(Code::DiskIo, || format!("reading {}", roots.mountinfo.display()))?;
    // A kernel without swap has no such file.
    let swaps = fs::read_to_string(&roots.swaps).unwrap_or_default();
    Ok(Mounts::parse(&text, &swaps))
}

/// The one disk at `path`, a whole block device of any kind or a plain file (whose sectors are taken to have
/// `file_sector_size` bytes).
///
/// # Errors
/// [`Code::DiskIo`] if it is neither, or a partition.
pub fn disk_at(roots: &Roots, path: &Path, file_sector_size: u32) -> Result<DiskFacts> {
    let context = || format!("reading {}", path.display());
    let metadata = fs::metadata(path).code(Code::DiskIo, context)?;
    if metadata.is_file() {
        return Ok(file_facts(path, metadata.len(), file_sector_size));
    }
    if !metadata.file_type().is_block_device() {
        return Err(coded(Code::DiskIo, format!("{} is neither a block device nor a plain file", path.display())));
    }
    let (major, minor) = (nix::sys::stat::major(metadata.rdev()), nix::sys::stat::minor(metadata.rdev()));
    let link = roots.sys.join(format!("dev/block/{major}:{minor}"));
    let block = fs::canonicalize(&link).code(Code::DiskIo, context)?;
    if block.join("partition").exists() {
        return Err(coded(Code::DiskIo, format!("{} is a partition, not a whole disk", path.display())));
    }
    let name = block.file_name().with_context(context)?.to_string_lossy().into_owned();
    let facts = facts(roots, &block, &name, &read_mounts(roots)?);
    Ok(DiskFacts { path: path.to_owned(), ..facts })
}

fn file_facts(path: &Path, size: u64, sector_size: u32) -> DiskFacts {
    DiskFacts {
        name: path.display().to_string(),
        path: path.to_owned(),
        identity: Identity { size, ..Identity::default() },
        by_path: None,
        firmware: None,
        nvme: None,
        sector_size,
        physical_sector_size: sector_size,
        transport: "file".to_owned(),
        rotational: false,
        removable: false,
        read_only: false,
        used_by: Vec::new(),
        contents: contents(path, size, sector_size),
    }
}

/// Whether a name in `/sys/block` is a disk of its own.
pub(crate) fn is_disk(block: &Path, name: &str) -> bool {
    const OTHERS: [&str; 6] = ["loop", "ram", "zram", "dm-", "md", "fd"];
    // loop, dm, md, zram, nbd and the like are there; NVMe's multipath disks are in virtual/nvme-subsystem.
    let is_virtual = fs::canonicalize(block).is_ok_and(|path| path.to_string_lossy().contains("/virtual/block/"));
    let is_other = OTHERS.iter().any(|other| name.starts_with(other)) || is_optical(name);
    // eMMC has its boot partitions as disks of their own.
    let is_mmc_boot = name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    let hidden = sysfs_text(&block.join("hidden")).as_deref() == Some("1");
    !(is_virtual || is_other || is_mmc_boot || hidden)
}

/// Whether it is the name of an optical drive.
pub(crate) fn is_optical(name: &str) -> bool {
    name.strip_prefix("sr").is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn facts(roots: &Roots, block: &Path, name: &str, mounts: &Mounts) -> DiskFacts {
    let number = |attribute: &str| sysfs_text(&block.join(attribute)).and_then(|text| text.parse::<u32>().ok());
    let identity = Identity::read(block);
    let sector_size = number("queue/logical_block_size").unwrap_or(512);
    // In names of devices the kernel has `!` for `/`.
    let path = roots.dev.join(name.replace('!', "/"));
    let contents = match identity.size {
        0 => Contents::Blank,
        size => contents(&path, size, sector_size),
    };
    DiskFacts {
        name: name.to_owned(),
        identity,
        by_path: fs::canonicalize(block).ok().and_then(|block| by_path(&block)),
        firmware: sysfs_text(&block.join("device/firmware_rev")).or_else(|| sysfs_text(&block.join("device/rev"))),
        nvme: nvme::facts(block, name),
        sector_size,
        physical_sector_size: number("queue/physical_block_size").unwrap_or(sector_size),
        transport: transport(block, name).to_owned(),
        rotational: number("queue/rotational") == Some(1),
        removable: number("removable") == Some(1),
        read_only: number("ro") == Some(1),
        used_by: used_by(block, name, mounts),
        contents,
        path,
    }
}

fn contents(path: &Path, size: u64, sector_size: u32) -> Contents {
    let opened = ReadOnly::open(path, size, sector_size);
    opened.map_or_else(|error| partly::unreadable(error, None), |disk| look(&disk))
}

/// The way to the disk, from the devices on its path in sysfs.
pub(crate) fn transport(block: &Path, name: &str) -> &'static str {
    let path = fs::canonicalize(block).unwrap_or_else(|_| block.to_owned());
    let path = path.to_string_lossy();
    let numbered = |prefix: &str| {
        path.split('/')
            .any(|part| part.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit())))
    };
    if name.starts_with("nvme") {
        "nvme"
    } else if numbered("usb") {
        "usb"
    } else if name.starts_with("mmcblk") {
        "mmc"
    } else if numbered("ata") {
        "sata"
    } else if numbered("end_device-") {
        "sas"
    } else if numbered("virtio") {
        "virtio"
    } else if name.starts_with("sd") {
        "scsi"
    } else {
        "other"
    }
}

/// The directories in sysfs of a whole device and of its partitions, each with its name.
pub(crate) fn parts(block: &Path, name: &str) -> Vec<(PathBuf, String)> {
    let mut parts = vec![(block.to_owned(), name.to_owned())];
    let entries: Vec<_> = fs::read_dir(block).into_iter().flatten().flatten().collect();
    for entry in entries {
        if entry.path().join("partition").exists() {
            parts.push((entry.path(), entry.file_name().to_string_lossy().into_owned()));
        }
    }
    parts.sort();
    parts
}

/// Whether bcache has the device, as a cache or beside one (Documentation/admin-guide/bcache.rst). The made device has a directory
/// of this name too: that of what it is made of.
pub(crate) fn is_of_bcache(directory: &Path, name: &str) -> bool {
    !name.starts_with("bcache") && directory.join("bcache").exists()
}

/// Who uses the disk whose directory in sysfs is `block`.
pub(crate) fn used_by(block: &Path, name: &str, mounts: &Mounts) -> Vec<String> {
    let mut users = Vec::new();
    for (directory, name) in parts(block, name) {
        let number = sysfs_text(&directory.join("dev")).unwrap_or_default();
        users.extend(mounts.point(&number, &name).map(|point| format!("{name} is mounted on {point}")));
        users.extend(mounts.is_swap(&name).then(|| format!("{name} is used as swap")));
        let mut holders: Vec<_> = fs::read_dir(directory.join("holders")).into_iter().flatten().flatten().collect();
        holders.sort_by_key(fs::DirEntry::file_name);
        users
            .extend(holders.iter().map(|holder| format!("{name} is held by {}", holder.file_name().to_string_lossy())));
        // A cache to which nothing is attached has no device made of it.
        let is_lone = holders.is_empty() && is_of_bcache(&directory, &name);
        users.extend(is_lone.then(|| format!("{name} is held by bcache")));
    }
    users
}

#[cfg(test)]
mod tests;
