//! Taking holders down for real.

use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Duration;

use super::{Acts, Holder, Kind};
use crate::inventory::{DiskFacts, Roots};
use crate::sys;

/// Between two looks whether a holder is gone.
const MOMENT: Duration = Duration::from_millis(50);

/// This machine's kernel.
#[derive(Debug)]
pub struct KernelActs;

impl Acts for KernelActs {
    fn take_down(&self, roots: &Roots, holder: &Holder) -> io::Result<()> {
        match &holder.kind {
            Kind::Swap { node } => sys::swap_off(&CString::new(node.as_os_str().as_bytes())?),
            Kind::Mapped { number: (major, minor), .. } => {
                let control = OpenOptions::new().read(true).write(true).open(roots.dev.join("mapper/control"))?;
                sys::remove_mapped_device(control.as_fd(), *major, *minor)
            }
            // As the ioctl STOP_ARRAY (Documentation/admin-guide/md.rst).
            Kind::Array => write(&roots.sys.join("block").join(&holder.device).join("md/array_state"), "clear"),
            Kind::Bcache { stop, .. } => write(stop, "1"),
        }
    }

    /// Opens the disk as [`crate::disk::BlockDevice`] will, but to read only: udev looks again at a disk that was open for
    /// writing, when it is closed.
    fn is_free(&self, disk: &DiskFacts) -> io::Result<bool> {
        match OpenOptions::new().read(true).custom_flags(libc::O_EXCL).open(&disk.path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn wait(&self) {
        std::thread::sleep(MOMENT);
    }
}

/// Writes an attribute that is there.
fn write(attribute: &std::path::Path, text: &str) -> io::Result<()> {
    fs::metadata(attribute)?;
    fs::write(attribute, text)
}
