//! A disk as it is asked for on the command line.

use std::str::FromStr;

use metalstrap_qemu::Disk;

use crate::size;

/// `SIZE[,TYPE][,serial=TEXT][,sector=512|4096]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSpec {
    bytes: u64,
    bus: Bus,
    serial: Option<String>,
    sector: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bus {
    Nvme,
    Virtio,
    Scsi,
    Sata,
}

/// Serial numbers are cut to this by the disks that QEMU makes.
const MAX_SERIAL: usize = 20;

impl Default for DiskSpec {
    fn default() -> Self {
        Self { bytes: 8 << 30, bus: Bus::Nvme, serial: None, sector: 512 }
    }
}

impl FromStr for DiskSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split(',');
        let bytes = size::parse(words.next().unwrap_or_default())?;
        let mut spec = Self { bytes, ..Self::default() };
        for word in words {
            spec.take(word)?;
        }
        if spec.bytes == 0 || !spec.bytes.is_multiple_of(u64::from(spec.sector)) {
            return Err(format!("{bytes} bytes are no whole number of sectors of {}", spec.sector));
        }
        if spec.bus == Bus::Sata && spec.sector != 512 {
            return Err("a sata disk has sectors of 512 bytes; take nvme, virtio or scsi".to_owned());
        }
        Ok(spec)
    }
}

impl DiskSpec {
    fn take(&mut self, word: &str) -> Result<(), String> {
        match word.split_once('=') {
            None => self.bus = bus(word)?,
            Some(("serial", serial)) if serial.is_empty() || serial.len() > MAX_SERIAL || !serial.is_ascii() => {
                return Err(format!("{serial:?} is no serial number: 1 to {MAX_SERIAL} ASCII characters"));
            }
            Some(("serial", serial)) => self.serial = Some(serial.to_owned()),
            Some(("sector", "512")) => self.sector = 512,
            Some(("sector", "4096")) => self.sector = 4096,
            Some(("sector", other)) => return Err(format!("{other:?} is no sector size: 512 or 4096")),
            Some((name, _)) => return Err(format!("a disk has no {name:?}: only serial and sector")),
        }
        Ok(())
    }

    /// Whether it takes one of the chipset's few ports.
    pub fn is_sata(&self) -> bool {
        self.bus == Bus::Sata
    }

    /// The disk.
    pub fn disk(&self) -> Disk {
        let make = match self.bus {
            Bus::Nvme => Disk::nvme,
            Bus::Virtio => Disk::virtio,
            Bus::Scsi => Disk::scsi,
            Bus::Sata => Disk::sata,
        };
        let disk = make(self.bytes).sector_size(self.sector);
        match &self.serial {
            Some(serial) => disk.serial(serial),
            None => disk,
        }
    }
}

fn bus(word: &str) -> Result<Bus, String> {
    match word {
        "nvme" => Ok(Bus::Nvme),
        "virtio" => Ok(Bus::Virtio),
        "scsi" => Ok(Bus::Scsi),
        "sata" => Ok(Bus::Sata),
        _ => Err(format!("{word:?} is no type of disk: nvme, virtio, scsi or sata")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_size_and_what_differs() {
        let spec = |text: &str| text.parse::<DiskSpec>();
        assert_eq!(spec("8G"), Ok(DiskSpec::default()));
        let other = DiskSpec { bytes: 512 << 20, bus: Bus::Virtio, serial: Some("A 1".into()), sector: 4096 };
        assert_eq!(spec("512M,virtio,serial=A 1,sector=4096"), Ok(other));
        assert_eq!(spec("1G,sector=512,sata").map(|disk| disk.is_sata()), Ok(true));
        let refusal = |text| spec(text).unwrap_err();
        assert_eq!(refusal("big"), "not a number of bytes, as 4096, 128K, 512M, 2G or 1T");
        assert_eq!(refusal("1G,ide"), "\"ide\" is no type of disk: nvme, virtio, scsi or sata");
        assert_eq!(refusal("1G,sector=520"), "\"520\" is no sector size: 512 or 4096");
        assert_eq!(refusal("1000"), "1000 bytes are no whole number of sectors of 512");
        assert_eq!(refusal("0"), "0 bytes are no whole number of sectors of 512");
        assert_eq!(refusal("1G,serial="), "\"\" is no serial number: 1 to 20 ASCII characters");
        assert_eq!(refusal("1G,wwid=3"), "a disk has no \"wwid\": only serial and sector");
        assert_eq!(refusal("1G,sata,sector=4096"), "a sata disk has sectors of 512 bytes; take nvme, virtio or scsi");
    }
}
