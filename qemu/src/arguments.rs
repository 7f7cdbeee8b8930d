//! QEMU's command line.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::accelerator::Accelerator;
use crate::builder::{Boot, Builder};
use crate::{firmware, swtpm};

/// The socket on which this process waits for QEMU's monitor, in the machine's directory.
pub(crate) const MONITOR: &str = "qmp.sock";
/// A link to the TPM's directory, in the machine's directory: a socket's path must be short.
pub(crate) const TPM: &str = "tpm";

/// The arguments for a machine with its files in `dir` (QEMU's working directory) and its `ports`. Makes the
/// files that are missing.
pub(crate) fn of(machine: &Builder, dir: &Path, ports: &[Port]) -> Result<Vec<String>> {
    let mut all = basics(machine)?;
    let mut add = |arguments: &[&str]| all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    if machine.tpm.is_some() {
        add(&["-chardev", &format!("socket,id=tpm,path={TPM}/{}", swtpm::SOCKET)]);
        add(&["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-tis,tpmdev=tpm0"]);
    }
    if machine.watchdog {
        add(&["-device", "i6300esb", "-action", "watchdog=reset"]);
    }
    if let Some(clock) = &machine.clock {
        add(&["-rtc", &format!("base={clock}")]);
    }
    if !machine.reboots {
        add(&["-no-reboot"]);
    }
    all.extend(identity(machine));
    all.extend(boot(machine, dir)?);
    all.extend(network(machine, ports));
    for (number, disk) in machine.disks.iter().enumerate() {
        // Once QEMU gives OVMF an order, OVMF forgets at each start what is not in it, BootNext's entry too.
        let ordered = matches!(machine.boot, Boot::Network | Boot::Stick { first: true, .. });
        all.extend(disk.arguments(dir, number, ordered.then_some(number + 2))?);
    }
    all.extend(strings(&machine.strings, dir)?);
    all.extend(machine.extra.iter().cloned());
    Ok(all)
}

/// One Ethernet port.
#[derive(Debug, Clone)]
pub(crate) struct Port {
    /// The host's side in a lab's network; without one, the port is in QEMU's user-mode network.
    pub(crate) tap: Option<String>,
    /// Its address in the guest.
    pub(crate) mac: String,
}

fn basics(machine: &Builder) -> Result<Vec<String>> {
    let mut all: Vec<String> = vec!["-name".into(), escape(&machine.name)];
    let mut add = |arguments: &[&str]| all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    add(&["-nodefaults", "-no-user-config", "-display", "none"]);
    // The firmware keeps Secure Boot's variables behind system management mode, out of the guest's reach.
    if machine.knows_secure_boot {
        add(&["-machine", "q35,smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"]);
    } else {
        add(&["-machine", "q35,smm=off"]);
    }
    add(&Accelerator::detect()?.arguments());
    add(&["-smp", &machine.cpus.to_string(), "-m", &machine.memory_mib.to_string(), "-device", "virtio-rng-pci"]);
    add(&["-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial"]);
    add(&["-chardev", &format!("socket,id=monitor,path={MONITOR}"), "-mon", "chardev=monitor,mode=control"]);
    Ok(all)
}

/// What the firmware tells of the machine in SMBIOS (System Information, type 1).
fn identity(machine: &Builder) -> Vec<String> {
    let mut fields = String::new();
    for (name, value) in [("uuid", &machine.uuid), ("serial", &machine.serial_number)] {
        if let Some(value) = value {
            fields.push_str(&format!(",{name}={}", escape(value)));
        }
    }
    if fields.is_empty() { Vec::new() } else { vec!["-smbios".into(), format!("type=1{fields}")] }
}

fn boot(machine: &Builder, dir: &Path) -> Result<Vec<String>> {
    let (boot, certificate) = (&machine.boot, machine.secure_boot.as_deref());
    let mut all = Vec::new();
    if !matches!(boot, Boot::Kernel { uefi: false, .. }) {
        let code = escape(&firmware::code(machine.knows_secure_boot)?.to_string_lossy());
        let variables = escape(&firmware::variables(dir, certificate)?.to_string_lossy());
        all.extend(["-drive".into(), format!("if=pflash,format=raw,unit=0,readonly=on,file={code}")]);
        all.extend(["-drive".into(), format!("if=pflash,format=raw,unit=1,file={variables}")]);
    }
    if let Boot::Kernel { kernel, initrd, command_line, .. } = boot {
        all.extend(["-kernel".into(), kernel.display().to_string(), "-append".into(), command_line.clone()]);
        if let Some(initrd) = initrd {
            all.extend(["-initrd".into(), initrd.display().to_string()]);
        }
    }
    if let Boot::Stick { image, first } = boot {
        all.extend(stick(image, *first, dir)?);
    }
    // The firmware would try PXE first and wait minutes for answers that never come.
    for name in ["IPv4PXESupport", "IPv6PXESupport"] {
        all.extend(["-fw_cfg".into(), format!("name=opt/org.tianocore/{name},string=n")]);
    }
    Ok(all)
}

/// A USB stick with `image` as the file that firmware starts from removable media. QEMU makes the FAT file system.
fn stick(image: &Path, first: bool, dir: &Path) -> Result<Vec<String>> {
    let boot = dir.join("stick/EFI/BOOT");
    fs::create_dir_all(&boot).with_context(|| format!("making {}", boot.display()))?;
    let file = boot.join("BOOTX64.EFI");
    fs::copy(image, &file).with_context(|| format!("copying {} to the USB stick", image.display()))?;
    let order = if first { ",bootindex=1" } else { "" };
    let device = format!("usb-storage,drive=stick,removable=on{order}");
    let drive = "if=none,id=stick,format=raw,readonly=on,file=fat:stick";
    Ok(["-drive", drive, "-device", "qemu-xhci", "-device", device.as_str()].map(str::to_owned).to_vec())
}

fn network(machine: &Builder, ports: &[Port]) -> Vec<String> {
    let mut all = Vec::new();
    for (number, Port { tap, mac }) in ports.iter().enumerate() {
        let backend = match tap {
            Some(name) => format!("tap,id=port{number},ifname={name},script=no,downscript=no"),
            None => format!("user,id=port{number}"),
        };
        all.extend(["-netdev".into(), backend]);
        let mut device = format!("virtio-net-pci,netdev=port{number},mac={mac},romfile=");
        if number == 0 && matches!(machine.boot, Boot::Network) {
            device.push_str(",bootindex=1");
        }
        all.extend(["-device".into(), device]);
    }
    all
}

/// SMBIOS strings go by files: they may be longer than an argument, and hold any character.
fn strings(strings: &[String], dir: &Path) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for (number, string) in strings.iter().enumerate() {
        let name = format!("smbios-{number}");
        fs::write(dir.join(&name), string).with_context(|| format!("writing {name}"))?;
        all.extend(["-smbios".into(), format!("type=11,path={name}")]);
    }
    Ok(all)
}

/// A value inside one of QEMU's comma-separated options.
pub(crate) fn escape(value: &str) -> String {
    value.replace(',', ",,")
}

/// Base64 with padding (RFC 4648, section 4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |group: u32, place: u32| {
        let index = usize::try_from((group >> (18 - 6 * place)) & 63).unwrap_or_default();
        ALPHABET.get(index).map_or('=', |byte| char::from(*byte))
    };
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group.iter_mut().skip(1).zip(chunk).for_each(|(to, from)| *to = *from);
        let group = u32::from_be_bytes(group);
        for place in 0..4 {
            let used = usize::try_from(place).is_ok_and(|place| place <= chunk.len());
            text.push(if used { digit(group, place) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_is_that_of_the_rfc() {
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("\u{3ff}", "z78=")];
        for (plain, encoded) in vectors {
            assert_eq!(super::base64(plain.as_bytes()), encoded);
        }
    }

    #[test]
    fn a_comma_in_a_value_is_doubled() {
        assert_eq!(super::escape("a,b"), "a,,b");
    }
}
