//! What PID 1 of the tiny target does to the machine: mounts, modules, consoles, power.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::tcdrain;

/// Where the builder lists the modules to load, one path a line, each after what it needs.
pub const MODULES: &str = "/modules.list";

/// A program that is run before the report, where there is one.
pub const PROBE: &str = "/probe";

/// Runs the probe, where there is one, with efivarfs mounted; what it prints, line by line.
///
/// # Errors
///
/// It failed.
pub fn probe() -> Result<Vec<String>> {
    if !Path::new(PROBE).exists() {
        return Ok(Vec::new());
    }
    let (kind, at) = ("efivarfs", "/sys/firmware/efi/efivars");
    mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mounting {kind} at {at}"))?;
    let output = Command::new(PROBE).output().with_context(|| format!("running {PROBE}"))?;
    if !output.status.success() {
        bail!("{PROBE} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Mounts /dev, /proc and /sys.
///
/// # Errors
///
/// What the kernel says.
pub fn mount_all() -> Result<()> {
    for (kind, at) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {kind} at {at}"))?;
    }
    Ok(())
}

/// Loads the modules that the builder listed.
///
/// # Errors
///
/// The first module that the kernel does not take.
pub fn load_modules() -> Result<()> {
    let list = std::fs::read_to_string(MODULES).with_context(|| format!("reading {MODULES}"))?;
    for path in list.lines() {
        let loading = || format!("loading module {path}");
        let file = File::open(path).with_context(loading)?;
        match finit_module(file, &CString::default(), ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno).with_context(loading),
        }
    }
    Ok(())
}

/// Prints `line` on every console that the kernel lists, on a line of its own, and waits until it is out.
pub fn say(line: &str) {
    // Best effort throughout: there is nobody else to tell.
    let _ = std::fs::write("/proc/sys/kernel/printk", "1");
    let active = std::fs::read_to_string("/sys/class/tty/console/active").unwrap_or_else(|_| "console".into());
    for name in active.split_whitespace() {
        if let Ok(mut tty) = OpenOptions::new().write(true).open(Path::new("/dev").join(name)) {
            let _ = tty.write_all(format!("\n{line}\n").as_bytes());
            let _ = tcdrain(&tty);
        }
    }
}

/// Switches the machine off.
pub fn power_off() -> ! {
    // Returns only if it failed, and then there is nothing left to do.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    loop {
        std::thread::park();
    }
}
