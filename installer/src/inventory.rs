//! The disks of the machine, from sysfs, and what is on them.

mod contents;
mod mbr;
mod mounts;
mod probe;
mod sysfs;

pub use contents::{Contents, Copies, OldArea, inspect};
pub use sysfs::{DiskFacts, Roots, disk_at, disks, disks_in};
