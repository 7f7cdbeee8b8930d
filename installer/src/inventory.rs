//! The disks of the machine, from sysfs, and what is on them.

mod by_path;
mod contents;
mod mbr;
mod mounts;
mod nvme;
mod old_tables;
mod opening;
mod partly;
mod probe;
mod sysfs;

pub use contents::{Contents, Copies, OldArea, inspect};
pub(crate) use mounts::Mounts;
pub use nvme::NvmeFacts;
pub(crate) use partly::look;
pub(crate) use probe::signatures;
pub use sysfs::{DiskFacts, Roots, disk_at, disks, disks_in};
pub(crate) use sysfs::{is_disk, is_of_bcache, is_optical, parts, read_mounts, transport, used_by};

/// Bytes that sectors have, as those who write partition tables see them.
const SECTOR_SIZES: [u64; 2] = [512, 4096];
