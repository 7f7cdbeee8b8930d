//! The port that a disk is in, named as udev names it in `/dev/disk/by-path` (systemd, `src/udev/udev-builtin-path_id.c`):
//! what a person sees on the installed system is what a host config can say.

use std::fs;
use std::path::Path;

use crate::disk::sysfs_text;

/// The name of the port of the disk whose sysfs directory is `block`, with every link resolved: `pci-0000:01:00.0-nvme-1`.
/// `None` for what is not on PCI, and for SAS, whose names udev makes of what the expander says.
pub(super) fn by_path(block: &Path) -> Option<String> {
    let parts: Vec<&str> = block.components().filter_map(|part| part.as_os_str().to_str()).collect();
    let at = parts.iter().rposition(|part| is_pci_address(part))?;
    let address = parts.get(at)?;
    let mut name = format!("pci-{address}");
    if let Some(namespace) =
        sysfs_text(&block.join("nsid")).filter(|_| parts.iter().any(|part| is_numbered(part, "nvme")))
    {
        return Some(format!("{name}-nvme-{namespace}"));
    }
    let below = parts.get(at.checked_add(1)?..)?;
    if let Some(port) = below.iter().rev().find_map(|part| usb_port(part)) {
        name = format!("{name}-usb-0:{port}");
    }
    let Some(device) = below.iter().rev().find_map(|part| scsi_address(part)) else {
        // Nothing but virtio or an eMMC host between the disk and PCI: the port is the whole name.
        return Some(name);
    };
    if below.iter().any(|part| part.starts_with("end_device-")) {
        return None;
    }
    if let Some(port) = ata_port(block) {
        let [_, bus, target, _] = device;
        return Some(match (bus, target) {
            (0, 0) => format!("{name}-ata-{port}"),
            (0, target) => format!("{name}-ata-{port}.{target}"),
            (bus, _) => format!("{name}-ata-{port}.{bus}.0"),
        });
    }
    let [host, bus, target, lun] = device;
    let first = first_host(block)?;
    Some(format!("{name}-scsi-{}:{bus}:{target}:{lun}", host.checked_sub(first)?))
}

/// `0000:00:1f.2`
fn is_pci_address(part: &str) -> bool {
    let hex = |text: &str, length: usize| text.len() >= length && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let mut fields = part.split([':', '.']);
    let [domain, bus, device, function] = [(); 4].map(|()| fields.next().unwrap_or_default());
    fields.next().is_none()
        && part.contains('.')
        && hex(domain, 4)
        && [(bus, 2), (device, 2), (function, 1)].into_iter().all(|(text, length)| text.len() == length && hex(text, 1))
}

fn is_numbered(part: &str, prefix: &str) -> bool {
    part.strip_prefix(prefix).is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `1.2:1.0` of a USB interface `3-1.2:1.0`.
fn usb_port(part: &str) -> Option<&str> {
    let (bus, port) = part.split_once('-')?;
    let plain =
        |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || b".:".contains(&byte));
    (bus.bytes().all(|byte| byte.is_ascii_digit()) && port.contains(':') && plain(port)).then_some(port)
}

/// Host, bus, target and unit of `2:0:1:0`.
fn scsi_address(part: &str) -> Option<[u32; 4]> {
    let mut fields = part.split(':').map(|field| field.parse::<u32>().ok());
    let address = [fields.next()??, fields.next()??, fields.next()??, fields.next()??];
    fields.next().is_none().then_some(address)
}

/// The number that the ATA controller has for its port: those in the names `ata7` count all controllers.
fn ata_port(block: &Path) -> Option<u32> {
    let port = block
        .ancestors()
        .find(|path| path.file_name().is_some_and(|name| is_numbered(&name.to_string_lossy(), "ata")))?;
    let name = port.file_name()?;
    sysfs_text(&port.join("ata_port").join(name).join("port_no"))?.parse().ok()
}

/// The lowest number of the hosts that the controller has: numbers count all controllers, in the order they are found.
fn first_host(block: &Path) -> Option<u32> {
    let number = |name: &str| name.strip_prefix("host")?.parse::<u32>().ok();
    let host = block
        .ancestors()
        .find(|path| path.file_name().is_some_and(|name| number(&name.to_string_lossy()).is_some()))?;
    let siblings = fs::read_dir(host.parent()?).ok()?.flatten();
    siblings.filter_map(|entry| number(&entry.file_name().to_string_lossy())).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of the disk at `path` below /sys/devices, where `files` are too.
    fn name(path: &str, files: &[(&str, &str)]) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap().join("sys/devices");
        fs::create_dir_all(root.join(path)).unwrap();
        for (name, text) in files {
            let file = root.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        by_path(&root.join(path))
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn each_kind_of_port_has_the_name_that_udev_gives_it() {
        let nvme = "pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0/nvme0n1";
        assert_eq!(name(nvme, &[(&format!("{nvme}/nsid"), "1\n")]), some("pci-0000:01:00.0-nvme-1"));
        assert_eq!(name("pci0000:00/0000:00:05.0/virtio2/block/vda", &[]), some("pci-0000:00:05.0"));
        let ata = "pci0000:00/0000:00:1f.2/ata7/host6/target6:0:0/6:0:0:0/block/sda";
        let port = ("pci0000:00/0000:00:1f.2/ata7/ata_port/ata7/port_no", "1\n");
        assert_eq!(name(ata, &[port]), some("pci-0000:00:1f.2-ata-1"));
        let slave = "pci0000:00/0000:00:1f.2/ata7/host6/target6:0:1/6:0:1:0/block/sdb";
        assert_eq!(name(slave, &[port]), some("pci-0000:00:1f.2-ata-1.1"));
        let multiplied = "pci0000:00/0000:00:1f.2/ata7/host6/target6:3:0/6:3:0:0/block/sdb";
        assert_eq!(name(multiplied, &[port]), some("pci-0000:00:1f.2-ata-1.3.0"));
        let scsi = "pci0000:00/0000:00:04.0/virtio0/host3/target3:0:1/3:0:1:2/block/sda";
        assert_eq!(
            name(scsi, &[("pci0000:00/0000:00:04.0/virtio0/host2/x", "")]),
            some("pci-0000:00:04.0-scsi-1:0:1:2")
        );
        let usb = "pci0000:00/0000:00:14.0/usb2/2-1/2-1.4/2-1.4:1.0/host6/target6:0:0/6:0:0:0/block/sdb";
        assert_eq!(name(usb, &[]), some("pci-0000:00:14.0-usb-0:1.4:1.0-scsi-0:0:0:0"));
    }

    #[test]
    fn what_has_no_such_name_has_none() {
        assert_eq!(name("virtual/nvme-subsystem/nvme-subsys0/nvme0n1", &[]), None);
        assert_eq!(name("platform/host0/target0:0:0/0:0:0:0/block/sda", &[]), None);
        let sas = "pci0000:00/0000:02:00.0/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0/block/sda";
        assert_eq!(name(sas, &[]), None);
    }
}
