//! Drivers for the devices this machine has: modules by modalias, until nothing new turns up.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::modules::Modules;
use crate::mounts;
use crate::uevent::{Heard, Listener};

/// Modules that no device asks for, one a line, written by whoever built the initrd.
const ALWAYS_LOAD: &str = "/lib/modules/always-load";

/// So long without an event, and nothing known to be under way, is settled.
const QUIET: Duration = Duration::from_millis(500);

/// The same with USB mass storage, which waits a second by itself before it looks for disks (`usb-storage.delay_use`).
const QUIET_USB: Duration = Duration::from_secs(2);

/// An NVMe controller that is live but shows no namespace is waited for so long: its scan runs by itself.
const NVME_SCAN: Duration = Duration::from_secs(5);

/// The end of all waiting: an NVMe controller may take 127.5 s to get ready (NVMe base specification, CAP.TO).
const LIMIT: Duration = Duration::from_secs(150);

/// What loading drivers came to.
#[derive(Debug, Default)]
pub struct DriverReport {
    /// Modules loaded, in this order.
    pub loaded: Vec<String>,
    /// Modules that the kernel refused, with its reason.
    pub failed: Vec<(String, String)>,
    /// PCI devices that no driver took.
    pub undriven: Vec<PciDevice>,
    /// Whether devices had settled before the time ran out.
    pub settled: bool,
    /// How long it took.
    pub elapsed: Duration,
}

/// A PCI device: what a person needs to look its driver up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciDevice {
    /// Domain, bus, device and function, as `0000:00:03.0`.
    pub address: String,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class, subclass and programming interface: 24 bits.
    pub class: u32,
}

impl fmt::Display for PciDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, vendor, device, class } = self;
        write!(f, "device {vendor:04x}:{device:04x} (class {class:06x}) at {address} has no driver")
    }
}

/// Loads the drivers of all devices and returns when the devices have settled. What is loaded already stays.
///
/// # Errors
/// The kernel's release or its events cannot be read. A module that fails is in the report.
pub fn load_all() -> Result<DriverReport> {
    let start = Instant::now();
    let release = nix::sys::utsname::uname().context("asking for the kernel's release")?;
    let directory = Path::new("/lib/modules").join(release.release());
    let command_line = fs::read_to_string("/proc/cmdline").context("reading /proc/cmdline")?;
    let mut search = Search::new(Modules::read(&directory, &command_line));
    // Before the first look, so that what comes in between is heard.
    let listener = Listener::open()?;
    let always = fs::read_to_string(ALWAYS_LOAD).unwrap_or_default();
    always.split_ascii_whitespace().for_each(|name| search.load(name));
    if let Err(error) = mounts::efivarfs() {
        log::warn!("mounting efivarfs: {error}");
    }
    search.look(Path::new("/sys/devices"));
    search.settle(&listener, start)?;
    search.report.undriven = undriven(Path::new("/sys/bus/pci/devices"));
    search.report.undriven.iter().for_each(|device| log::warn!("{device}"));
    search.report.elapsed = start.elapsed();
    Ok(search.report)
}

#[derive(Debug)]
struct Search {
    modules: Modules,
    seen: HashSet<String>,
    report: DriverReport,
}

impl Search {
    fn new(modules: Modules) -> Self {
        Self { modules, seen: HashSet::new(), report: DriverReport::default() }
    }

    fn load(&mut self, name: &str) {
        let result = self.modules.load(name);
        for (module, reason) in &result.failed {
            log::warn!("module {module}: {reason}");
        }
        self.report.loaded.extend(result.loaded);
        self.report.failed.extend(result.failed);
    }

    fn device(&mut self, modalias: &str) {
        if self.seen.insert(modalias.to_owned()) {
            self.modules.for_device(modalias).iter().for_each(|module| self.load(module));
        }
    }

    /// Loads the modules of all devices below a directory of sysfs.
    fn look(&mut self, devices: &Path) {
        modaliases(devices).iter().for_each(|modalias| self.device(modalias));
    }

    /// Serves events until they stop and nothing is under way.
    fn settle(&mut self, listener: &Listener, start: Instant) -> Result<()> {
        let mut quiet_since = Instant::now();
        while start.elapsed() < LIMIT {
            match listener.next(QUIET).context("listening to uevents")? {
                Heard::Event(modalias) => {
                    modalias.iter().for_each(|modalias| self.device(modalias));
                    quiet_since = Instant::now();
                }
                Heard::Lost => {
                    self.look(Path::new("/sys/devices"));
                    quiet_since = Instant::now();
                }
                Heard::Silence => {
                    let quiet = quiet_since.elapsed();
                    if quiet >= self.quiet_enough() && !nvme_under_way(Path::new("/sys/class/nvme"), quiet) {
                        self.report.settled = true;
                        return Ok(());
                    }
                }
            }
        }
        log::warn!("devices did not settle in {} s", LIMIT.as_secs());
        Ok(())
    }

    fn quiet_enough(&self) -> Duration {
        let usb = Path::new("/sys/module/usb_storage").exists() || Path::new("/sys/module/uas").exists();
        if usb { QUIET_USB } else { QUIET }
    }
}

/// Modaliases of all devices below a directory, each once, in a stable order.
fn modaliases(directory: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        // A device may go while we look.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                Ok(kind) if kind.is_file() && entry.file_name() == "modalias" => {
                    let text = fs::read_to_string(entry.path()).unwrap_or_default();
                    found.extend(Some(text.trim_end().to_owned()).filter(|modalias| !modalias.is_empty()));
                }
                _ => {}
            }
        }
    }
    found
}

/// Whether an NVMe controller below this directory is still starting, or may still find namespaces.
fn nvme_under_way(controllers: &Path, quiet: Duration) -> bool {
    fs::read_dir(controllers).into_iter().flatten().flatten().any(|controller| {
        // States of Linux drivers/nvme/host/sysfs.c: new, live, resetting, connecting, deleting, dead.
        let state = fs::read_to_string(controller.path().join("state")).unwrap_or_default();
        match state.trim_end() {
            "new" | "resetting" | "connecting" => true,
            "live" => quiet < NVME_SCAN && !has_namespace(&controller.path()),
            _ => false,
        }
    })
}

/// Namespaces are `nvme0n1`, with multipath `nvme0c0n1`, below the controller `nvme0`.
fn has_namespace(controller: &Path) -> bool {
    let name = controller.file_name().unwrap_or_default().to_string_lossy();
    let is_namespace = |entry: &str| entry.strip_prefix(&*name).is_some_and(|rest| rest.starts_with(['n', 'c']));
    fs::read_dir(controller)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| is_namespace(&entry.file_name().to_string_lossy()))
}

/// The ids of all PCI devices below this directory, as `8086:10fb`.
#[must_use]
pub fn pci_ids(devices: &Path) -> Vec<String> {
    let entries = fs::read_dir(devices).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| pci_device(&entry.path()));
    found.map(|PciDevice { vendor, device, .. }| format!("{vendor:04x}:{device:04x}")).collect()
}

/// PCI devices without a driver, but those that need none.
fn undriven(devices: &Path) -> Vec<PciDevice> {
    let entries = fs::read_dir(devices).into_iter().flatten().flatten();
    let mut found: Vec<PciDevice> = entries
        .map(|entry| entry.path())
        .filter(|path| !path.join("driver").exists())
        .filter_map(|path| pci_device(&path))
        .filter(|device| !needs_no_driver(device.class))
        .collect();
    found.sort();
    found
}

fn pci_device(path: &Path) -> Option<PciDevice> {
    let number = |name: &str| {
        let text = fs::read_to_string(path.join(name)).ok()?;
        u32::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok()
    };
    Some(PciDevice {
        address: path.file_name()?.to_str()?.to_owned(),
        vendor: number("vendor")?.try_into().ok()?,
        device: number("device")?.try_into().ok()?,
        class: number("class")?,
    })
}

/// Classes (PCI Code and ID Assignment Specification) of which an installer needs no driver.
fn needs_no_driver(class: u32) -> bool {
    // Base classes: 03 display (its drivers are left out on purpose: they break after kexec), 04 multimedia,
    // 05 memory, 06 bridges, 08 interrupt controllers, timers and other system peripherals, 0b processors,
    // 11 signal processing (sensors), 13 instrumentation that is not essential.
    let base = [0x03, 0x04, 0x05, 0x06, 0x08, 0x0b, 0x11, 0x13].contains(&(class >> 16));
    // 0780 communication controllers other than ports (management engines), 0c05 SMBus.
    base || [0x0780, 0x0c05].contains(&(class >> 8))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn device(root: &Path, address: &str, ids: [&str; 3], driver: bool) {
        let path = root.join(address);
        fs::create_dir_all(&path).unwrap();
        for (name, value) in ["vendor", "device", "class"].iter().zip(ids) {
            fs::write(path.join(name), format!("{value}\n")).unwrap();
        }
        if driver {
            symlink("/", path.join("driver")).unwrap();
        }
    }

    #[test]
    fn a_device_without_driver_is_named_with_its_pci_id() {
        let root = tempfile::tempdir().unwrap();
        device(root.path(), "0000:00:00.0", ["0x8086", "0x29c0", "0x060000"], false);
        device(root.path(), "0000:00:1f.3", ["0x8086", "0x2930", "0x0c0500"], false);
        device(root.path(), "0000:00:04.0", ["0x1af4", "0x1001", "0x010000"], true);
        device(root.path(), "0000:00:03.0", ["0x8086", "0x10fb", "0x020000"], false);
        let lines: Vec<String> = undriven(root.path()).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["device 8086:10fb (class 020000) at 0000:00:03.0 has no driver"]);
        let mut ids = pci_ids(root.path());
        ids.sort();
        assert_eq!(ids, ["1af4:1001", "8086:10fb", "8086:2930", "8086:29c0"]);
    }

    #[test]
    fn modaliases_are_found_at_any_depth_and_empty_ones_left_out() {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in [("a/b", "pci:x\n"), ("a", "acpi:y\n"), ("c", "\n"), ("d", "pci:x\n")] {
            fs::create_dir_all(root.path().join(path)).unwrap();
            fs::write(root.path().join(path).join("modalias"), text).unwrap();
        }
        symlink(root.path(), root.path().join("loop")).unwrap();
        assert_eq!(modaliases(root.path()).into_iter().collect::<Vec<_>>(), ["acpi:y", "pci:x"]);
    }

    #[test]
    fn nvme_is_under_way_until_live_with_namespaces() {
        let root = tempfile::tempdir().unwrap();
        assert!(!nvme_under_way(root.path(), QUIET));
        let controller = root.path().join("nvme0");
        fs::create_dir(&controller).unwrap();
        let state = |text: &str| fs::write(controller.join("state"), text).unwrap();
        state("connecting\n");
        assert!(nvme_under_way(root.path(), LIMIT));
        state("live\n");
        assert!(nvme_under_way(root.path(), QUIET));
        assert!(!nvme_under_way(root.path(), NVME_SCAN));
        fs::create_dir(controller.join("nvme0n1")).unwrap();
        assert!(!nvme_under_way(root.path(), QUIET));
        state("dead\n");
        assert!(!nvme_under_way(root.path(), QUIET));
    }
}
