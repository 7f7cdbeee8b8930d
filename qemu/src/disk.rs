//! Disks of a machine.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::arguments::escape;

/// How a disk is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bus {
    Nvme,
    Virtio,
    Scsi,
    Sata,
    Usb,
}

/// A disk: a sparse raw file, made at the machine's first start if it is not there.
#[derive(Debug, Clone)]
pub struct Disk {
    bus: Bus,
    bytes: u64,
    serial: Option<String>,
    sector: u32,
    physical: Option<u32>,
    file: Option<PathBuf>,
    read_only: bool,
}

impl Disk {
    /// An NVMe disk of `bytes` bytes with 512-byte sectors.
    #[must_use]
    pub fn nvme(bytes: u64) -> Self {
        Self { bus: Bus::Nvme, bytes, serial: None, sector: 512, physical: None, file: None, read_only: false }
    }

    /// The same on virtio-blk.
    #[must_use]
    pub fn virtio(bytes: u64) -> Self {
        Self { bus: Bus::Virtio, ..Self::nvme(bytes) }
    }

    /// The same on virtio-scsi.
    #[must_use]
    pub fn scsi(bytes: u64) -> Self {
        Self { bus: Bus::Scsi, ..Self::nvme(bytes) }
    }

    /// The same on the chipset's AHCI controller, which has six ports and knows logical sectors of 512 bytes only.
    #[must_use]
    pub fn sata(bytes: u64) -> Self {
        Self { bus: Bus::Sata, ..Self::nvme(bytes) }
    }

    /// A stick on USB, at a controller of its own: a removable disk.
    #[must_use]
    pub fn usb(bytes: u64) -> Self {
        Self { bus: Bus::Usb, ..Self::nvme(bytes) }
    }

    /// The serial number that the guest reads (at most 20 characters). Without it an NVMe disk has its number as serial,
    /// which QEMU wants, and a virtio disk has none.
    #[must_use]
    pub fn serial(mut self, serial: &str) -> Self {
        self.serial = Some(serial.to_owned());
        self
    }

    /// The logical sector size, 512 or 4096, and the physical one unless that is set too.
    #[must_use]
    pub fn sector_size(mut self, bytes: u32) -> Self {
        self.sector = bytes;
        self
    }

    /// The physical sector size; 4096 with logical sectors of 512 bytes is called 512e.
    #[must_use]
    pub fn physical_sector_size(mut self, bytes: u32) -> Self {
        self.physical = Some(bytes);
        self
    }

    /// Keeps the disk in `file`, which may already exist (then its own size counts).
    #[must_use]
    pub fn file(mut self, file: &Path) -> Self {
        self.file = Some(file.to_owned());
        self
    }

    /// The guest cannot write it.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// The disk's file, where the machine's directory is `dir` and the disk its `number`th.
    pub(crate) fn path(&self, dir: &Path, number: usize) -> PathBuf {
        self.file.clone().unwrap_or_else(|| dir.join(format!("disk-{number}.raw")))
    }

    /// Makes the file if it is missing, and gives QEMU's arguments. `boot_index`: its place in the boot order.
    pub(crate) fn arguments(&self, dir: &Path, number: usize, boot_index: Option<usize>) -> Result<Vec<String>> {
        let path = self.path(dir, number);
        if !path.exists() {
            let file = File::create_new(&path).with_context(|| format!("making {}", path.display()))?;
            file.set_len(self.bytes).with_context(|| format!("making {}", path.display()))?;
        }
        let (driver, default_serial) = match self.bus {
            Bus::Nvme => ("nvme", Some(format!("NVME{number}"))),
            Bus::Virtio => ("virtio-blk-pci", None),
            Bus::Scsi => ("scsi-hd", Some(format!("SCSI{number}"))),
            Bus::Sata => ("ide-hd", Some(format!("SATA{number}"))),
            Bus::Usb => ("usb-storage", None),
        };
        // cache=unsafe: a guest's flush need not reach the host's disk, since the host is not what loses power here.
        let drive = format!(
            "if=none,id=disk{number},format=raw,cache=unsafe,discard=unmap,readonly={},file={}",
            if self.read_only { "on" } else { "off" },
            escape(&path.to_string_lossy())
        );
        let (sector, physical) = (self.sector, self.physical.unwrap_or(self.sector));
        let mut device =
            format!("{driver},drive=disk{number},logical_block_size={sector},physical_block_size={physical}");
        let mut controller = Vec::new();
        match self.bus {
            Bus::Scsi => {
                controller = vec!["-device".to_owned(), format!("virtio-scsi-pci,id=scsi{number}")];
                device.push_str(&format!(",bus=scsi{number}.0"));
            }
            Bus::Sata => device.push_str(&format!(",bus=ide.{number}")),
            Bus::Usb => {
                controller = vec!["-device".to_owned(), format!("qemu-xhci,id=usb{number}")];
                device.push_str(&format!(",bus=usb{number}.0,removable=on"));
            }
            Bus::Nvme | Bus::Virtio => (),
        }
        if let Some(serial) = self.serial.clone().or(default_serial) {
            device.push_str(&format!(",serial={}", escape(&serial)));
        }
        if let Some(index) = boot_index {
            device.push_str(&format!(",bootindex={index}"));
        }
        controller.extend(["-drive".to_owned(), drive, "-device".to_owned(), device]);
        Ok(controller)
    }
}
