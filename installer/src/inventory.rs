//! The disks of the machine, from sysfs, and what is on them.

mod by_path;
mod contents;
mod mbr;
mod mounts;
mod nvme;
mod probe;
mod sysfs;

pub use contents::{Contents, Copies, OldArea, inspect};
pub use nvme::NvmeFacts;
pub use sysfs::{DiskFacts, Roots, disk_at, disks, disks_in};
