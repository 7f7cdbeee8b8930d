//! What a disk is known by. Kernel names change between two boots of one kernel, so they are no part of it.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// What stays the same about a disk wherever and whenever it is found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// World-wide id as the kernel gives it in sysfs: `eui.…`, `naa.…`, `t10.…`, `nvme.…`.
    pub wwid: Option<String>,
    /// Serial number.
    pub serial: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Bytes.
    pub size: u64,
}

impl Identity {
    /// Reads the identity of the disk whose sysfs directory is `block` (`/sys/block/sda`). What sysfs does not have, or
    /// has as nothing but white space, is `None`.
    #[must_use]
    pub fn read(block: &Path) -> Self {
        Self {
            wwid: text(&block.join("wwid")).or_else(|| text(&block.join("device/wwid"))),
            // virtio-blk; nvme and mmc; SCSI's unit serial number page.
            serial: text(&block.join("serial"))
                .or_else(|| text(&block.join("device/serial")))
                .or_else(|| fs::read(block.join("device/vpd_pg80")).ok().and_then(|page| unit_serial(&page))),
            model: text(&block.join("device/model")).or_else(|| text(&block.join("device/name"))),
            // Always in units of 512 bytes (Documentation/ABI/stable/sysfs-block).
            size: text(&block.join("size"))
                .and_then(|text| text.parse::<u64>().ok())
                .map_or(0, |n| n.saturating_mul(512)),
        }
    }

    /// What `other` differs in, for a message; `None` when both are the same disk. The model is not compared: it says
    /// nothing that serial and WWID do not.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "none".to_owned());
        if self.wwid != other.wwid {
            return Some(format!("WWID {}, not {}", shown(&other.wwid), shown(&self.wwid)));
        }
        if self.serial != other.serial {
            return Some(format!("serial {}, not {}", shown(&other.serial), shown(&self.serial)));
        }
        (self.size != other.size).then(|| format!("{} bytes, not {}", other.size, self.size))
    }
}

/// The content of a sysfs attribute without white space at its ends; `None` when there is none.
pub(crate) fn text(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = printable(&bytes);
    (!text.is_empty()).then_some(text)
}

/// Page 80h of a SCSI device's vital product data: 4 bytes of header (the last two are the length), then ASCII
/// (SPC-4 section 7.8.15).
fn unit_serial(page: &[u8]) -> Option<String> {
    let length = usize::from(u16::from_be_bytes(*page.get(2..4)?.first_chunk()?));
    let serial = printable(page.get(4..)?.get(..length)?);
    (!serial.is_empty()).then_some(serial)
}

/// Devices say what they like: control characters would move a console's cursor, so only what can be printed stays.
fn printable(bytes: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(files: &[(&str, &[u8])]) -> Identity {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
        Identity::read(dir.path())
    }

    #[test]
    fn each_kind_of_disk_is_identified() {
        let some = |text: &str| Some(text.to_owned());
        let virtio = disk(&[("serial", b"blank-disk"), ("size", b"2048\n")]);
        assert_eq!(virtio, Identity { serial: some("blank-disk"), size: 1 << 20, ..Identity::default() });
        let nvme = disk(&[
            ("wwid", b"eui.0025388b71b0a5c2\n"),
            ("device/serial", b"S5XX          \n"),
            ("device/model", b"Samsung SSD 980   \n"),
            ("size", b"8\n"),
        ]);
        let expected = Identity {
            wwid: some("eui.0025388b71b0a5c2"),
            serial: some("S5XX"),
            model: some("Samsung SSD 980"),
            size: 4096,
        };
        assert_eq!(nvme, expected);
        let scsi = disk(&[
            ("device/wwid", b"naa.5000c500a1b2c3d4\n"),
            ("device/vpd_pg80", b"\x00\x80\x00\x08  ZC1234rest is not of the serial"),
            ("device/model", b"ST4000NM0035    \n"),
            ("size", b"0\n"),
        ]);
        let expected = Identity {
            wwid: some("naa.5000c500a1b2c3d4"),
            serial: some("ZC1234"),
            model: some("ST4000NM0035"),
            size: 0,
        };
        assert_eq!(scsi, expected);
    }

    #[test]
    fn hostile_values_are_tamed() {
        assert_eq!(
            disk(&[("serial", b"\x1b[2Jok\n"), ("size", b"99999999999999999999")]).serial.as_deref(),
            Some("[2Jok")
        );
        assert_eq!(disk(&[("device/vpd_pg80", b"\x00\x80\xff\xffA")]).serial, None);
        assert_eq!(disk(&[("serial", b" \n")]).serial, None);
    }

    #[test]
    fn the_difference_is_said() {
        let a = disk(&[("serial", b"A"), ("size", b"8")]);
        assert_eq!(a.difference(&a), None);
        let serial = Identity { serial: Some("B".into()), ..a.clone() };
        assert_eq!(a.difference(&serial).as_deref(), Some("serial B, not A"));
        let wwid = Identity { wwid: Some("naa.1".into()), ..a.clone() };
        assert_eq!(a.difference(&wwid).as_deref(), Some("WWID naa.1, not none"));
        let size = Identity { size: 512, ..a.clone() };
        assert_eq!(a.difference(&size).as_deref(), Some("512 bytes, not 4096"));
    }
}
