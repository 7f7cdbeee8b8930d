//! The API file systems of the kernel. Nothing here ever stops the start: what cannot be mounted is logged.

use std::fs;
use std::io;
use std::path::Path;

use sys_mount::{Mount, MountFlags};

/// What a mount needs: file system type, mount point, options.
type Api = (&'static str, &'static str, &'static str);

/// Mounted before anything else runs, in this order.
const EARLY: [Api; 6] = [
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", "mode=0755"),
    ("tmpfs", "/run", "mode=0755,size=20%"),
    ("tmpfs", "/tmp", "mode=1777,size=20%"),
    ("securityfs", "/sys/kernel/security", ""),
];

/// EFI variables, once the module `efivarfs` is there.
const EFIVARS: Api = ("efivarfs", "/sys/firmware/efi/efivars", "");

/// Mounts what the installer and its supervisor need. What is mounted already stays.
pub fn api_file_systems() -> Vec<String> {
    EARLY.iter().filter_map(|api| mount(*api).err().map(|error| describe(*api, &error))).collect()
}

/// Mounts efivarfs on a machine with EFI; its module must be loaded. Without EFI there is nothing to do.
///
/// # Errors
/// The kernel's error.
pub fn efivarfs() -> io::Result<()> {
    if Path::new("/sys/firmware/efi").exists() { mount(EFIVARS) } else { Ok(()) }
}

fn describe((kind, target, _): Api, error: &io::Error) -> String {
    format!("mounting {kind} on {target}: {error}")
}

fn mount((kind, target, options): Api) -> io::Result<()> {
    // A tree that was unpacked by something else may have them mounted: a second mount would hide the first.
    if is_mounted(kind, target) {
        return Ok(());
    }
    // Below sysfs the kernel makes the mount point; there this fails, and the mount says why.
    let _ = fs::create_dir_all(target);
    let flags = if target == "/dev" { MountFlags::NOSUID } else { MountFlags::NOSUID | MountFlags::NODEV };
    match Mount::builder().fstype(kind).flags(flags).data(options).mount(kind, target) {
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        result => result.map(drop),
    }
}

fn is_mounted(kind: &str, target: &str) -> bool {
    fs::read_to_string("/proc/self/mounts").is_ok_and(|mounts| lists(&mounts, kind, target))
}

/// Whether a table in the form of `/proc/self/mounts` has a file system of this kind at this place.
fn lists(mounts: &str, kind: &str, target: &str) -> bool {
    mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(target) && words.next() == Some(kind)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_what_is_mounted() {
        let mounts = "none / rootfs rw 0 0\nproc /proc proc rw,relatime 0 0\ndevtmpfs /dev devtmpfs rw 0 0\n";
        assert!(lists(mounts, "proc", "/proc"));
        assert!(!lists(mounts, "sysfs", "/proc"));
        assert!(!lists(mounts, "tmpfs", "/dev"));
        assert!(!lists("", "proc", "/proc"));
    }
}
