//! The netboot image: one UKI that a machine boots from the network.
//!
//! Its initrd is three archives one after the other: drivers, installer, site config (see [`parts`](crate::parts)).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::drivers::Drivers;
use crate::kernel::Kernel;
use crate::modules::{NEEDED, Selection};
use crate::parts;
use crate::uki::{BootTools, Uki};

/// The kernel command line of every netboot image. `panic=30`: a kernel that panics reboots; both consoles: the last
/// one named is the one that the kernel prints to without asking. `watchdog.stop_on_reboot=0`: a kexec leaves a watchdog armed, also
/// where the module `watchdog` (Linux `drivers/watchdog/watchdog_core.c`), to which the installer gives that, is built in.
pub const CMDLINE: &str = "panic=30 loglevel=4 console=tty0 console=ttyS0,115200 watchdog.stop_on_reboot=0";

/// What a netboot image is made of.
#[derive(Debug, Clone)]
pub struct NetbootOptions {
    /// The kernel and its modules.
    pub kernel: Kernel,
    /// The static installer binary; it becomes `/init`.
    pub installer: PathBuf,
    /// The site config, as it is.
    pub site: Vec<u8>,
    /// Seconds of Unix time.
    pub build_time: u64,
    /// ukify and the stub.
    pub tools: BootTools,
    /// Goes behind [`CMDLINE`].
    pub cmdline_extra: String,
    /// Path without leading slash, mode and bytes of further files.
    pub extra_files: Vec<(String, u32, Vec<u8>)>,
    /// Where finished archives are kept, if anywhere.
    pub cache: Option<PathBuf>,
    /// The UKI; kernel command line and initrd are written beside it with the endings `.cmdline` and `.initrd`.
    pub output: PathBuf,
}

/// Bytes of the parts of a netboot image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetbootSizes {
    /// The kernel image.
    pub kernel: u64,
    /// The initrd: `drivers`, `installer` and `site`.
    pub initrd: u64,
    /// The archive of drivers, compressed.
    pub drivers: u64,
    /// The archive of the installer, compressed.
    pub installer: u64,
    /// The archive of the site config, compressed.
    pub site: u64,
    /// The UKI.
    pub uki: u64,
    /// Class, number of modules, and their bytes as the kernel package has them (each compressed for itself).
    pub classes: Vec<(String, usize, u64)>,
    /// Patterns of the driver list that took nothing from this kernel.
    pub unmatched: Vec<String>,
}

/// Makes the netboot image. The same options give the same bytes.
///
/// # Errors
///
/// A part that cannot be read, or ukify's words.
pub fn netboot(options: &NetbootOptions) -> Result<NetbootSizes> {
    let selection = Selection::new(&options.kernel, &Drivers::standard()?)?;
    let parts @ [drivers, installer, site] = &parts::archives(options, &selection)?;
    let (initrd, cmdline) = (options.output.with_extension("initrd"), cmdline(&options.cmdline_extra));
    write(&initrd, &parts.concat())?;
    write(&options.output.with_extension("cmdline"), cmdline.as_bytes())?;
    let uki = Uki {
        linux: &options.kernel.vmlinuz,
        initrd: &initrd,
        cmdline: &cmdline,
        uname: &options.kernel.version,
        os_release: "ID=metalstrap\nNAME=metalstrap\nPRETTY_NAME=\"metalstrap netboot installer\"\n",
    };
    options.tools.assemble(&uki, &options.output)?;
    Ok(NetbootSizes {
        kernel: size(&options.kernel.vmlinuz)?,
        initrd: size(&initrd)?,
        drivers: drivers.len().try_into()?,
        installer: installer.len().try_into()?,
        site: site.len().try_into()?,
        uki: size(&options.output)?,
        classes: by_class(&options.kernel, &selection)?,
        unmatched: selection.unmatched,
    })
}

fn cmdline(extra: &str) -> String {
    format!("{CMDLINE} {extra}").trim().to_owned()
}

fn by_class(kernel: &Kernel, selection: &Selection) -> Result<Vec<(String, usize, u64)>> {
    let mut sums: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for (file, class) in &selection.modules {
        let sum = sums.entry(class).or_default();
        *sum = (sum.0 + 1, sum.1 + size(&kernel.modules.join(file))?);
    }
    let needed = sums.remove_entry(NEEDED);
    Ok(sums.into_iter().chain(needed).map(|(class, (count, bytes))| (class.to_owned(), count, bytes)).collect())
}

fn size(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| format!("reading {}", path.display()))?.len())
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    std::fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))
}

impl fmt::Display for NetbootSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<18} {:>8} {:>12}", "modules of class", "number", "bytes (.xz)")?;
        for (class, count, bytes) in &self.classes {
            writeln!(f, "{class:<18} {count:>8} {bytes:>12}")?;
        }
        for (part, bytes) in [
            ("drivers, packed", self.drivers),
            ("installer, packed", self.installer),
            ("site, packed", self.site),
            ("initrd", self.initrd),
            ("kernel", self.kernel),
            ("UKI", self.uki),
        ] {
            writeln!(f, "{part:<18} {:>8} {bytes:>12}", "")?;
        }
        for pattern in &self.unmatched {
            writeln!(f, "not in this kernel, or built in: {pattern}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_goes_on_with_what_is_added() {
        let all = "panic=30 loglevel=4 console=tty0 console=ttyS0,115200 watchdog.stop_on_reboot=0";
        assert_eq!(cmdline(""), all);
        assert_eq!(cmdline("a=b"), format!("{all} a=b"));
    }
}
