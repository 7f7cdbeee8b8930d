//! Leaving the installer for the installed kernel: its command line, and the UKI on the disk split and loaded.
//!
//! The jump itself is PID 1's ([`Ending::Kexec`](crate::ending::Ending::Kexec)); it comes after the final report.

pub mod confirm;
mod decision;
mod deny;
pub mod extra;
pub mod marker;
pub mod pcr11;
mod split;
#[cfg(test)]
pub(crate) mod tests;

use std::ffi::CString;
use std::fs;
use std::io;
use std::path::Path;

use metalstrap_release::digest::Digest;
use metalstrap_release::host::Host;
use metalstrap_release::manifest::{Boot, Manifest};
use metalstrap_release::pcr::Bank;
use metalstrap_release::uki::{UkiError, refuse_zboot};
use metalstrap_release::verity::{BlockStore, Tree};
use nix::errno::Errno;

use crate::bootvars::load_option::utf16;
use crate::disk::Region;
use crate::failure::{Code, coded};
use crate::sys;

pub use decision::Decision;
pub use deny::denied;
use split::Holding;
pub use split::Parts;

/// What the kernel keeps free for `elfcorehdr=0x… ` and the terminating NUL, also where no crash kernel is loaded
/// (Linux `arch/x86/kernel/kexec-bzimage64.c`, `MAX_ELFCOREHDR_STR_LEN`).
const RESERVED: u64 = 30 + 1;

/// Make systemd of the installed OS go on measuring as behind the stub, whose variables of the firmware tell it otherwise that it
/// measured: nothing can set them any more. The first is an environment variable of PID 1 (systemd 252 to 260; its
/// docs/ENVIRONMENT.md), the second gives it to services; the last is the switch from 261 on (kernel-command-line(7)).
const MEASURES: &str = "SYSTEMD_FORCE_MEASURE=1 systemd.setenv=SYSTEMD_FORCE_MEASURE=1 systemd.tpm2_measured_os=1";

/// The installed kernel's command line: the UKI's, then what the host config adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine(String);

impl CommandLine {
    /// Joins the two.
    ///
    /// # Errors
    /// [`Code::CommandLine`]: one of them holds a NUL or a line break, which would end it early.
    pub fn new(uki: &str, extra: &str) -> anyhow::Result<Self> {
        for (text, source) in [(uki, "the UKI's command line"), (extra, "cmdline_extra of the host config")] {
            if text.contains(['\0', '\n', '\r']) {
                return Err(coded(Code::CommandLine, format!("{source} holds a NUL or a line break")));
            }
        }
        Ok(Self([uki.trim(), extra.trim()].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")))
    }

    /// The command line of a handoff by kexec, fitting or not. A watchdog that stays armed is said to be the OS's with
    /// `systemd.watchdog_sec=` (systemd(1)). Where this installer `measures`, the OS goes on with it.
    ///
    /// # Errors
    /// As [`CommandLine::new`].
    pub fn for_handoff(manifest: &Manifest, host: &Host, measures: bool) -> anyhow::Result<Self> {
        let mut line = Self::new(&manifest.boot.cmdline, &host.cmdline_extra)?;
        if let Some(seconds) = manifest.boot.watchdog {
            line = Self::new(line.as_str(), &format!("systemd.watchdog_sec={seconds}"))?;
        }
        if measures {
            line = Self::new(line.as_str(), MEASURES)?;
        }
        Ok(line)
    }

    /// Why a kernel whose boot header says `limit` does not take it by kexec, with its length and the most that fits; `None`: it
    /// does.
    #[must_use]
    pub fn excess(&self, limit: u32) -> Option<String> {
        let (length, most) = (self.0.len(), u64::from(limit).saturating_sub(RESERVED));
        (length as u64 > most).then(|| {
            format!(
                "the kernel command line has {length} bytes, but the installed kernel takes at most {most} by kexec"
            )
        })
    }

    /// The same where the host config may be to blame: what it adds shall be on the line, so the machine is not left without it.
    ///
    /// # Errors
    /// [`Code::CommandLine`].
    pub fn check_fits(&self, limit: u32) -> anyhow::Result<()> {
        self.excess(limit).map_or(Ok(()), |text| {
            Err(coded(Code::CommandLine, format!("{text}: shorten cmdline_extra of the host config")))
        })
    }

    /// The text, without NUL.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As systemd-stub measures one that is not the UKI's own: in UTF-16LE with NUL.
    #[must_use]
    pub fn to_load_options(&self) -> Vec<u8> {
        utf16(&self.0)
    }
}

/// The installed kernel is loaded; only [`load`] makes one.
#[derive(Debug)]
pub struct Loaded {
    uki: Digest,
}

impl Loaded {
    /// SHA-256 of the UKI that was read from the disk, padding apart.
    #[must_use]
    pub fn uki(&self) -> Digest {
        self.uki
    }
}

/// Why the installed kernel was not loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The UKI on the disk is not what was installed: a reboot would not help.
    #[error("reading the UKI back from the disk")]
    Uki(#[source] anyhow::Error),
    /// There is no memory to hold the UKI in; the firmware may start it after a reboot.
    #[error("holding the installed UKI in memory")]
    Memory(#[source] anyhow::Error),
    /// No kexec starts it, but the firmware may.
    #[error("loading the installed kernel")]
    Kernel(#[source] UkiError),
    /// This machine does not jump into it; the firmware may start it after a reboot.
    #[error("loading the installed kernel: {}", reason(*errno))]
    Refused {
        /// The kernel's answer.
        #[source]
        errno: Errno,
    },
}

/// Reads the UKI in `region` block by block, each checked against `tree`, splits it, and computes what systemd-stub would
/// extend PCR 11 with in `banks`.
///
/// Memory of the process is constant: kernel and initrd go to memory files that end with the value. Blocks the thread.
///
/// # Errors
/// [`LoadError::Uki`]; [`LoadError::Memory`]; [`LoadError::Kernel`] where what was installed cannot be split.
pub fn read<S: BlockStore>(region: &Region, tree: &Tree<S>, boot: &Boot, banks: &[Bank]) -> Result<Parts, LoadError> {
    split::split(region, tree, boot, banks).map_err(not_split)
}

/// What kept a UKI from being split.
fn not_split(error: anyhow::Error) -> LoadError {
    if error.is::<Holding>() {
        return LoadError::Memory(error);
    }
    error.downcast::<UkiError>().map_or_else(LoadError::Uki, LoadError::Kernel)
}

/// Loads the kernel and the initrd of a UKI, with what was put behind it.
///
/// # Errors
/// A [`LoadError`]; nothing is loaded then.
pub fn load(parts: &Parts, command_line: &CommandLine) -> Result<Loaded, LoadError> {
    let head = split::head(&parts.kernel).map_err(LoadError::Uki)?;
    refuse_zboot(&head).map_err(LoadError::Kernel)?;
    let line = CString::new(command_line.as_str()).map_err(|error| LoadError::Uki(error.into()))?;
    // The system call takes no empty file.
    let initrd_size = parts.initrd.metadata().map_err(|error| LoadError::Uki(error.into()))?.len();
    let initrd = (initrd_size > 0).then_some(&parts.initrd);
    sys::kexec_file_load(&parts.kernel, initrd, &line).map_err(|errno| LoadError::Refused { errno })?;
    Ok(Loaded { uki: parts.sha256 })
}

/// What errno of kexec_file_load(2) stands for (Linux `kernel/kexec_file.c`, `arch/x86/kernel/kexec-bzimage64.c`).
fn reason(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => "kexec is not permitted here (kernel lockdown, kexec_load_disabled, or no CAP_SYS_BOOT)",
        Errno::ENOSYS | Errno::EOPNOTSUPP => "the installer's kernel has no kexec_file_load",
        Errno::EBUSY => "another kernel is being loaded",
        Errno::EKEYREJECTED | Errno::ENOKEY | Errno::ENODATA | Errno::EBADMSG => {
            "it carries no signature that this machine trusts"
        }
        Errno::EADDRNOTAVAIL => "there is no free range of memory that is large enough",
        Errno::ENOMEM => "there is too little memory",
        Errno::ENOEXEC => "it is no bzImage that can be started without firmware",
        Errno::EINVAL => "the kernel does not take it with this command line",
        _ => "the kernel does not take it",
    }
}

/// Takes all links down, so that no device writes to memory that is the next kernel's. To be called when nothing is
/// to be sent any more, right before the jump. Returns what did not go as it should.
///
/// All else is the kernel's: reboot(2) for a kexec calls every driver's `shutdown` (Linux `kernel/kexec_core.c`, kernel_kexec,
/// by `kernel_restart_prepare`), which for an NVMe controller deletes its queues and shuts it down (`drivers/nvme/host/pci.c`,
/// nvme_shutdown), and then takes the bus from every PCI device (`drivers/pci/pci-driver.c`, pci_device_shutdown), so that none
/// writes to memory. To unbind the driver before would do the same with more that can hang, as it waits for all I/O and takes
/// away the disks; the links are taken down first since a card in the middle of receiving is what such shutdowns fail with.
#[must_use]
pub fn quiesce() -> Vec<String> {
    take_down(Path::new("/sys"), |name| sys::set_link(name, false))
}

/// The same for the links of which the kernel tells in `sysfs`.
fn take_down(sysfs: &Path, down: impl Fn(&str) -> io::Result<()>) -> Vec<String> {
    let names = match fs::read_dir(sysfs.join("class/net")) {
        Ok(links) => links.filter_map(|link| link.ok()?.file_name().into_string().ok()).collect::<Vec<_>>(),
        Err(error) => return vec![format!("listing the network links: {error}")],
    };
    let refused = |name: &String| down(name).err().map(|error| format!("taking {name} down: {error}"));
    names.iter().filter(|name| *name != "lo").filter_map(refused).collect()
}
