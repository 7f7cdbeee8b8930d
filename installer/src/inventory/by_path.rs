//! The port that a disk is in, named as udev names it in `/dev/disk/by-path` (systemd, `src/udev/udev-builtin-path_id.c`):
//! what a person sees on the installed system is what a host config can say.

use std::fs;
use std::path::Path;

use crate::disk::sysfs_text;

/// The name of the port of the disk whose sysfs directory is `block`, with every link resolved: `pci-0000:01:00.0-nvme-1`.
/// `None` for what is not on PCI, and where sysfs lacks what udev makes the name of.
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
        let [.., unit] = device;
        return Some(format!("{name}-{}-{}", sas_port(block)?, unit_name(unit)));
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

/// The way to a SAS disk, or to a SATA disk on SAS: by the phy of the host adapter or of the expander that it is at. Where
/// several phys lead to it as one port, it is the disk's own address, and no port.
fn sas_port(block: &Path) -> Option<String> {
    let is_end = |path: &&Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("end_device-"));
    let end = block.ancestors().find(is_end)?;
    // Each device has its attributes below itself, in a directory of its class and one of its own name.
    let attribute =
        |device: &Path, class: &str, name: &str| sysfs_text(&device.join(class).join(device.file_name()?).join(name));
    let port = end.parent()?;
    if attribute(port, "sas_port", "num_phys")? != "1" {
        return Some(format!("sas-{}", attribute(end, "sas_device", "sas_address")?));
    }
    let phy = attribute(end, "sas_device", "phy_identifier")?;
    let above = port.parent()?;
    if !above.join("sas_device").is_dir() {
        return Some(format!("sas-phy{phy}"));
    }
    Some(format!("sas-exp{}-phy{phy}", attribute(above, "sas_device", "sas_address")?))
}

/// udev's form of a SCSI logical unit number: a plain one, or the first two levels of the eight bytes.
fn unit_name(unit: u32) -> String {
    match unit {
        0..256 => format!("lun-{unit}"),
        _ => format!("lun-0x{:04x}{:04x}00000000", unit & 0xffff, unit >> 16),
    }
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
    fn a_sas_disk_is_named_by_the_phy_that_it_is_at() {
        let port = "pci0000:00/0000:00:03.0/0000:02:00.0/host0/port-0:0";
        let disk = format!("{port}/end_device-0:0/target0:0:0/0:0:0:0/block/sda");
        let device = format!("{port}/end_device-0:0/sas_device/end_device-0:0");
        let (phys, phy) = (format!("{port}/sas_port/port-0:0/num_phys"), format!("{device}/phy_identifier"));
        let address = format!("{device}/sas_address");
        let files = |count: &'static str| {
            [(phys.as_str(), count), (phy.as_str(), "4\n"), (address.as_str(), "0x5000c500a1b2c3d5\n")]
        };
        assert_eq!(name(&disk, &files("1\n")), some("pci-0000:02:00.0-sas-phy4-lun-0"));
        // Two phys that are one port.
        assert_eq!(name(&disk, &files("2\n")), some("pci-0000:02:00.0-sas-0x5000c500a1b2c3d5-lun-0"));
        let unit = format!("{port}/end_device-0:0/target0:0:0/0:0:0:16640/block/sda");
        assert_eq!(name(&unit, &files("1\n")), some("pci-0000:02:00.0-sas-phy4-lun-0x4100000000000000"));
    }

    #[test]
    fn a_sas_disk_behind_an_expander_is_named_by_its_place_there() {
        let expander = "pci0000:00/0000:02:00.0/host0/port-0:0/expander-0:0";
        let port = format!("{expander}/port-0:0:9");
        let disk = format!("{port}/end_device-0:0:9/target0:0:9/0:0:9:0/block/sdj");
        let files = [
            (format!("{expander}/sas_device/expander-0:0/sas_address"), "0x500304801f5bd13f\n"),
            (format!("{port}/sas_port/port-0:0:9/num_phys"), "1\n"),
            (format!("{port}/end_device-0:0:9/sas_device/end_device-0:0:9/phy_identifier"), "9\n"),
        ];
        let files = files.each_ref().map(|(path, text)| (path.as_str(), *text));
        assert_eq!(name(&disk, &files), some("pci-0000:02:00.0-sas-exp0x500304801f5bd13f-phy9-lun-0"));
        // Without its address no other name is made up.
        assert_eq!(name(&disk, &[files[1], files[2], (&format!("{expander}/sas_device/x/y"), "")]), None);
    }

    #[test]
    fn what_has_no_such_name_has_none() {
        assert_eq!(name("virtual/nvme-subsystem/nvme-subsys0/nvme0n1", &[]), None);
        assert_eq!(name("platform/host0/target0:0:0/0:0:0:0/block/sda", &[]), None);
        let sas = "pci0000:00/0000:02:00.0/host0/port-0:0/end_device-0:0/target0:0:0/0:0:0:0/block/sda";
        assert_eq!(name(sas, &[]), None);
    }
}
