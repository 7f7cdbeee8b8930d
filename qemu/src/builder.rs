//! What a machine is made of, said before it starts.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::disk::Disk;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::swtpm::Swtpm;

/// From where a machine starts.
#[derive(Debug, Clone)]
pub enum Boot {
    /// As the firmware's own variables say: a boot entry, else the first disk with \EFI\BOOT\BOOTX64.EFI.
    Firmware,
    /// The firmware's HTTP boot over IPv4.
    Network,
    /// A USB stick, of which this UKI is the only content.
    Stick {
        /// The UKI.
        image: PathBuf,
        /// QEMU says that it comes before the disks; else the firmware's own variables decide.
        first: bool,
    },
    /// A kernel given by QEMU; with the UEFI firmware in between or, faster, without any UEFI.
    Kernel {
        /// The kernel (bzImage; with UEFI also a UKI).
        kernel: PathBuf,
        /// Its initrd.
        initrd: Option<PathBuf>,
        /// Its command line.
        command_line: String,
        /// UEFI first.
        uefi: bool,
    },
}

/// A machine before it starts; see [`Machine::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    pub(crate) name: String,
    pub(crate) memory_mib: u32,
    pub(crate) cpus: u32,
    pub(crate) disks: Vec<Disk>,
    pub(crate) tpm: Option<Swtpm>,
    pub(crate) boot: Boot,
    pub(crate) network_ports: usize,
    pub(crate) strings: Vec<String>,
    pub(crate) watchdog: bool,
    pub(crate) reboots: bool,
    pub(crate) clock: Option<String>,
    pub(crate) uuid: Option<String>,
    pub(crate) serial_number: Option<String>,
    /// The firmware knows Secure Boot.
    pub(crate) knows_secure_boot: bool,
    /// The certificate of its keys, if it is to have any.
    pub(crate) secure_boot: Option<PathBuf>,
    pub(crate) extra: Vec<String>,
}

impl Builder {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            memory_mib: 1024,
            cpus: 1,
            disks: Vec::new(),
            tpm: None,
            boot: Boot::Firmware,
            network_ports: 1,
            strings: Vec::new(),
            watchdog: false,
            reboots: false,
            clock: None,
            uuid: None,
            serial_number: None,
            knows_secure_boot: false,
            secure_boot: None,
            extra: Vec::new(),
        }
    }

    /// Memory in MiB (1024 if not said).
    #[must_use]
    pub fn memory(mut self, mib: u32) -> Self {
        self.memory_mib = mib;
        self
    }

    /// How many processors; one unless said otherwise. Without KVM, QEMU runs each on a thread of its own, and a Linux
    /// guest that patches its code on one while another runs it is now and then lost to a stale `int3` (seen with QEMU
    /// 7.2: "Oops: int3" in `sched_clock_cpu`).
    #[must_use]
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// One more disk.
    #[must_use]
    pub fn disk(mut self, disk: Disk) -> Self {
        self.disks.push(disk);
        self
    }

    /// Takes all disks out, to put others in at a power cycle.
    #[must_use]
    pub fn no_disks(mut self) -> Self {
        self.disks.clear();
        self
    }

    /// With this TPM.
    #[must_use]
    pub fn tpm(mut self, tpm: &Swtpm) -> Self {
        self.tpm = Some(tpm.clone());
        self
    }

    /// Starts by the firmware's HTTP boot.
    #[must_use]
    pub fn firmware_http_boot(mut self) -> Self {
        self.boot = Boot::Network;
        self
    }

    /// Starts as the firmware's own variables say.
    #[must_use]
    pub fn firmware_boot(mut self) -> Self {
        self.boot = Boot::Firmware;
        self
    }

    /// Starts the UKI `image` from a USB stick that is plugged in for this start.
    #[must_use]
    pub fn usb_stick(mut self, image: &Path) -> Self {
        self.boot = Boot::Stick { image: image.to_owned(), first: true };
        self
    }

    /// Starts as the firmware's own variables say, with a USB stick plugged in that has the UKI `image`. Where nothing else is
    /// said, EDK2 tries removable media first; `BootNext` goes before them, at each reset too.
    #[must_use]
    pub fn firmware_boot_with_stick(mut self, image: &Path) -> Self {
        self.boot = Boot::Stick { image: image.to_owned(), first: false };
        self
    }

    /// Starts `kernel` without UEFI: the fastest way to Linux.
    #[must_use]
    pub fn direct_boot(self, kernel: &Path, initrd: Option<&Path>, command_line: &str) -> Self {
        self.kernel(kernel, initrd, command_line, false)
    }

    /// Starts `kernel` (or a UKI) from QEMU through the UEFI firmware: with EFI variables, without the network.
    #[must_use]
    pub fn direct_boot_with_uefi(self, kernel: &Path, initrd: Option<&Path>, command_line: &str) -> Self {
        self.kernel(kernel, initrd, command_line, true)
    }

    fn kernel(mut self, kernel: &Path, initrd: Option<&Path>, command_line: &str, uefi: bool) -> Self {
        let (kernel, initrd) = (kernel.to_owned(), initrd.map(Path::to_owned));
        self.boot = Boot::Kernel { kernel, initrd, command_line: command_line.to_owned(), uefi };
        self
    }

    /// The number of Ethernet ports, all in the lab's network (1 if not said).
    #[must_use]
    pub fn network_ports(mut self, count: usize) -> Self {
        self.network_ports = count;
        self
    }

    /// One more SMBIOS type 11 ("OEM strings") string.
    #[must_use]
    pub fn smbios_string(mut self, string: &str) -> Self {
        self.strings.push(string.to_owned());
        self
    }

    /// Takes all those strings out, and so all credentials, to put others in at a power cycle.
    #[must_use]
    pub fn no_smbios_strings(mut self) -> Self {
        self.strings.clear();
        self
    }

    /// The UUID and serial number that the machine tells in SMBIOS.
    #[must_use]
    pub fn identity(mut self, uuid: Option<&str>, serial_number: Option<&str>) -> Self {
        self.uuid = uuid.map(str::to_owned);
        self.serial_number = serial_number.map(str::to_owned);
        self
    }

    /// With Secure Boot: the firmware starts only what is signed by `certificate` (PEM file), which is its platform key
    /// and the one certificate in KEK and db. It holds from the machine's first start on.
    #[must_use]
    pub fn secure_boot(mut self, certificate: &Path) -> Self {
        self.secure_boot = Some(certificate.to_owned());
        self.in_setup_mode()
    }

    /// With a firmware that knows Secure Boot and has no keys of it yet: it is in setup mode, where it checks nothing and takes keys
    /// from anyone.
    #[must_use]
    pub fn in_setup_mode(mut self) -> Self {
        self.knows_secure_boot = true;
        self
    }

    /// Hands a credential to systemd in the guest, also after kexec (systemd.system-credentials(7)).
    #[must_use]
    pub fn credential(self, name: &str, value: &[u8]) -> Self {
        let value = crate::arguments::base64(value);
        self.smbios_string(&format!("io.systemd.credential.binary:{name}={value}"))
    }

    /// Adds the unit `name`.service with the text `unit` to the guest, started with multi-user.target.
    #[must_use]
    pub fn credential_unit(self, name: &str, unit: &str) -> Self {
        let wants = format!("[Unit]\nWants={name}.service\n");
        self.credential(&format!("systemd.extra-unit.{name}.service"), unit.as_bytes())
            .credential(&format!("systemd.unit-dropin.multi-user.target~{name}"), wants.as_bytes())
    }

    /// With an i6300esb watchdog whose expiry resets the machine.
    #[must_use]
    pub fn watchdog(mut self) -> Self {
        self.watchdog = true;
        self
    }

    /// A reset restarts the machine; without this it ends it, with [`crate::Exit::Reset`].
    #[must_use]
    pub fn reboots(mut self, yes: bool) -> Self {
        self.reboots = yes;
        self
    }

    /// Sets the real-time clock at each power-on, as `2000-01-01T00:00:00` (UTC).
    #[must_use]
    pub fn clock(mut self, time: &str) -> Self {
        self.clock = Some(time.to_owned());
        self
    }

    /// Further arguments of QEMU.
    #[must_use]
    pub fn qemu_arguments(mut self, arguments: &[&str]) -> Self {
        self.extra.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Switches it on in `lab`.
    ///
    /// # Errors
    /// What is missing on this host, or why QEMU did not start.
    pub fn start(self, lab: &Lab) -> Result<Machine<'_>> {
        Machine::power_on(self, lab)
    }
}
