//! What holds a disk beside mounted file systems: device mapper (LVM, dm-crypt, multipath), md arrays, bcache and swap. Where
//! everything on the disk may go they are taken down, from the top to the bottom; the disk is locked only when nothing is
//! left. In our own netboot image nothing assembles them: its drivers have none of them.
//!
//! Nothing is written by that but what the kernel writes when it stops an array. What also lies on another disk goes down
//! too, and the other disk keeps what is on it; only a bcache whose data is on another disk is refused, since what is cached
//! here may be missing there.

mod graph;
mod kernel;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::failure::{Code, WithCode as _, coded};
use crate::inventory::{DiskFacts, Roots, read_mounts, used_by};
use crate::report::{Reporter, fields};

pub use kernel::KernelActs;

/// How often it is looked whether a holder is gone, before it counts as one that stays: bcache goes by itself, some time
/// after it was told to.
const LOOKS: u32 = 200;

/// Something that holds a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Kernel name of the device: `dm-0`, `md127`, `sda2`.
    pub device: String,
    /// What it is.
    pub kind: Kind,
    /// Devices of other disks that it also lies on.
    pub also_on: Vec<String>,
}

/// Kinds of holders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// The kernel swaps to the device.
    Swap {
        /// Its node, as the kernel calls it.
        node: PathBuf,
    },
    /// A device of the device mapper.
    Mapped {
        /// Its name: `vg-root`.
        name: String,
        /// Its UUID, which begins with the name of who made it: `LVM-…`, `CRYPT-…`.
        uuid: String,
        /// Its number.
        number: (u32, u32),
    },
    /// An md array.
    Array,
    /// A device that bcache has: with data, or as a cache.
    Bcache {
        /// The directory in sysfs that is there as long as bcache has the device.
        there: PathBuf,
        /// The attribute that ends it.
        stop: PathBuf,
    },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { device, kind, also_on } = self;
        match kind {
            Kind::Swap { .. } => write!(f, "swap on {device}")?,
            Kind::Mapped { name, .. } => write!(f, "{} {name} ({device})", kind.word())?,
            Kind::Array => write!(f, "md array {device}")?,
            Kind::Bcache { .. } => write!(f, "bcache on {device}")?,
        }
        if also_on.is_empty() { Ok(()) } else { write!(f, ", also on {}", also_on.join(", ")) }
    }
}

impl Kind {
    /// What it is, in a word or two.
    fn word(&self) -> &'static str {
        match self {
            Self::Swap { .. } => "swap",
            Self::Mapped { uuid, .. } if uuid.starts_with("LVM-") => "LVM volume",
            Self::Mapped { uuid, .. } if uuid.starts_with("CRYPT-") => "encrypted volume",
            Self::Mapped { uuid, .. } if uuid.starts_with("mpath-") => "multipath device",
            Self::Mapped { .. } => "mapped device",
            Self::Array => "md array",
            Self::Bcache { .. } => "bcache",
        }
    }
}

/// What ends holders; in tests, a machine that is made up.
pub trait Acts: Send + Sync + fmt::Debug {
    /// Takes down a holder that nothing is above of.
    ///
    /// # Errors
    /// The kernel's.
    fn take_down(&self, roots: &Roots, holder: &Holder) -> io::Result<()>;

    /// Whether nobody has the disk for himself alone.
    ///
    /// # Errors
    /// The kernel's, but that somebody has it.
    fn is_free(&self, disk: &DiskFacts) -> io::Result<bool>;

    /// Lets a moment pass for a holder that goes by itself.
    fn wait(&self);
}

/// What has to be taken down before the disk is free, in this order.
///
/// # Errors
/// [`Code::DiskInUse`] if there is something that is not taken down: a mounted file system, or a holder of another kind.
pub fn of(roots: &Roots, disk: &DiskFacts) -> Result<Vec<Holder>> {
    if disk.transport == "file" {
        return Ok(Vec::new());
    }
    graph::holders(roots, &disk.name).map_err(|reason| {
        coded(Code::DiskInUse, format!("disk {} is in use and cannot be freed: {reason}", disk.describe()))
    })
}

/// Takes down all that holds the disk, tells each, and looks that nothing does any more.
///
/// # Errors
/// [`Code::DiskInUse`] if something cannot be taken down, or is back.
pub fn take_down(roots: &Roots, disk: &DiskFacts, acts: &dyn Acts, tell: &Reporter) -> Result<()> {
    let holders = of(roots, disk)?;
    if holders.is_empty() {
        return Ok(());
    }
    tell.step("holders", "Taking down what holds the disk", |_| {
        for holder in &holders {
            let failing = || format!("taking down {holder}, which holds disk {}", disk.describe());
            acts.take_down(roots, holder).code(Code::DiskInUse, failing)?;
            wait_until_gone(roots, holder, acts).code(Code::DiskInUse, failing)?;
            tell.say(&format!("taken down: {holder}"));
            let details = [
                ("device", holder.device.clone().into()),
                ("what", holder.kind.word().into()),
                ("name", holder.name()),
                ("also_on", holder.also_on.clone().into()),
            ];
            tell.tell("holders", "info", fields(details));
        }
        wait_until_free(roots, disk, acts)
    })
}

/// Waits until nothing is seen to hold the disk, and nobody has it. bcache goes from sysfs first, and closes its devices later
/// in a thread of the kernel (`cached_dev_flush` and `cached_dev_free` in drivers/md/bcache/super.c).
fn wait_until_free(roots: &Roots, disk: &DiskFacts, acts: &dyn Acts) -> Result<()> {
    let mut left = Vec::new();
    for _ in 0..LOOKS {
        left = used_by(&roots.sys.join("block").join(&disk.name), &disk.name, &read_mounts(roots)?);
        left.extend(of(roots, disk)?.iter().map(ToString::to_string));
        let asking = || format!("asking whether disk {} is free", disk.describe());
        if left.is_empty() && acts.is_free(disk).code(Code::DiskInUse, asking)? {
            return Ok(());
        }
        acts.wait();
    }
    let who = if left.is_empty() { "somebody who is not seen in sysfs".to_owned() } else { left.join(", ") };
    Err(coded(Code::DiskInUse, format!("disk {} is still in use: {who}", disk.describe())))
}

fn wait_until_gone(roots: &Roots, holder: &Holder, acts: &dyn Acts) -> Result<()> {
    for _ in 0..LOOKS {
        if !holder.is_there(roots)? {
            return Ok(());
        }
        acts.wait();
    }
    anyhow::bail!("it is still there")
}

impl Holder {
    fn name(&self) -> Value {
        match &self.kind {
            Kind::Mapped { name, .. } => name.clone().into(),
            Kind::Swap { .. } | Kind::Array | Kind::Bcache { .. } => Value::Null,
        }
    }

    fn is_there(&self, roots: &Roots) -> Result<bool> {
        let block = roots.sys.join("block").join(&self.device);
        Ok(match &self.kind {
            Kind::Swap { node } => read_mounts(roots)?.is_swapped_to(node),
            Kind::Mapped { .. } => block.exists(),
            // The device may stay without members.
            Kind::Array => has_entries(&block.join("slaves")),
            Kind::Bcache { there, .. } => there.exists(),
        })
    }
}

fn has_entries(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some())
}
