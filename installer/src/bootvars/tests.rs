//! Against bytes made by another implementation, and against firmware as it is met.

mod order;

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use metalstrap_release::digest::{from_hex, to_hex};
use proptest::prelude::*;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;

/// Made with virt-firmware 26.10 (Python), and shown by efibootmgr 17 as
/// `HD(1,GPT,0fc63daf-8483-4772-8e79-3d69d8477de4,0x800,0x100000)/File(\EFI\systemd\systemd-bootx64.efi)`.
const ENTRY: &str = "0100000074004c0069006e0075007800200028006400e9006200690061006e002900000004012a000100000000080000000000000000100000000000af3dc60f838472478e793d69d8477de40202040446005c004500460049005c00730079007300740065006d0064005c00730079007300740065006d0064002d0062006f006f0074007800360034002e0065006600690000007fff0400";

fn esp() -> Partition {
    let guid = Uuid::parse_str("0fc63daf-8483-4772-8e79-3d69d8477de4").unwrap();
    Partition { number: 1, start_lba: 2048, size_lba: 1_048_576, guid }
}

fn entry(title: &str, partition: &Partition, path: &str) -> Vec<u8> {
    LoadOption::new(title, partition, path).unwrap().encode().unwrap()
}

/// A firmware behind efivarfs; `writes` counts the writes and removals it was asked for.
#[derive(Debug)]
struct Firmware {
    place: TempDir,
    writes: Cell<usize>,
    /// What it says to a write of a variable whose name begins like this. Of a new one an empty file is left.
    refuses: Option<(&'static str, &'static str)>,
    /// A variable that it lists and does not give.
    unreadable: Option<&'static str>,
    lying: bool,
}

impl Firmware {
    fn with(variables: &[(&str, &[u8])]) -> Self {
        let place = tempfile::tempdir().unwrap();
        let firmware = Self { place, writes: Cell::new(0), refuses: None, unreadable: None, lying: false };
        variables.iter().for_each(|(name, data)| firmware.set(name, data));
        firmware
    }

    fn efivarfs(&self) -> Efivarfs {
        Efivarfs::at(self.place.path())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.path().join(format!("{name}-{GLOBAL}"))
    }

    /// Whole, as a write to efivarfs is: an ordinary file keeps what is behind it.
    fn set(&self, name: &str, data: &[u8]) {
        drop(fs::remove_file(self.file(name)));
        self.efivarfs().write(name, data).unwrap();
    }

    fn order(&self) -> Vec<u16> {
        read_order(self).unwrap()
    }

    fn get(&self, name: &str) -> Option<Vec<u8>> {
        self.efivarfs().read(name).unwrap()
    }
}

impl Variables for Firmware {
    fn names(&self) -> Result<BTreeSet<String>> {
        self.efivarfs().names()
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if self.unreadable == Some(name) {
            bail!("reading the EFI variable {name}: Input/output error (os error 5)");
        }
        Ok(self.get(name))
    }

    fn write(&self, name: &str, data: &[u8]) -> Result<()> {
        self.writes.set(self.writes.get() + 1);
        if let Some((_, text)) = self.refuses.filter(|(prefix, _)| name.starts_with(*prefix)) {
            fs::OpenOptions::new().append(true).create(true).open(self.file(name)).unwrap();
            bail!("writing the EFI variable {name}: {text}");
        }
        if !self.lying {
            self.set(name, data);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.writes.set(self.writes.get() + 1);
        self.efivarfs().remove(name)
    }
}

/// A disk entry, a network entry that this boot came from, and a shell.
fn usual() -> Firmware {
    let other = Partition { guid: Uuid::from_u128(7), ..esp() };
    Firmware::with(&[
        ("Boot0000", &entry("Other OS", &other, LOADER)),
        ("Boot0001", &order::pxe()),
        ("Boot0002", b"damaged"),
        ("BootOrder", &[0, 0, 1, 0, 2, 0]),
        ("BootCurrent", &[1, 0]),
        ("Timeout", &[3, 0]),
    ])
}

fn installed(firmware: &Firmware, policy: BootOrder) -> BootEntry {
    install(firmware, &esp(), "Linux (debian)", policy)
}

#[test]
fn the_bytes_are_those_of_another_implementation() {
    assert_eq!(to_hex(&entry("Linux (débian)", &esp(), LOADER)), ENTRY);
    let parsed = LoadOption::parse(&from_hex(ENTRY).unwrap()).unwrap();
    assert_eq!(parsed, LoadOption::new("Linux (débian)", &esp(), LOADER).unwrap());
    assert_eq!(parsed.target(), Some((esp().guid, LOADER.to_owned())));
}

#[test]
fn a_full_device_path_and_optional_data_are_understood() {
    let mut option = LoadOption::parse(&from_hex(ENTRY).unwrap()).unwrap();
    // ACPI(PNP0A03,0)/PCI(3,0) before it, as firmware writes it.
    let long = [&b"\x02\x01\x0c\0\xd0\x41\x03\x0a\0\0\0\0\x01\x01\x06\0\0\x03"[..], &option.device_path].concat();
    option.device_path = long;
    option.data = b"quiet".to_vec();
    let again = LoadOption::parse(&option.encode().unwrap()).unwrap();
    assert_eq!(again, option);
    assert_eq!(again.target(), Some((esp().guid, LOADER.to_owned())));
}

#[test]
fn a_new_entry_goes_behind_the_one_this_boot_came_from() {
    let firmware = usual();
    let installed = installed(&firmware, BootOrder::NetworkFirst);
    assert_eq!(installed, BootEntry { name: Some("Boot0003".to_owned()), warnings: vec![] });
    assert_eq!(firmware.get("Boot0003").unwrap(), entry("Linux (debian)", &esp(), LOADER));
    assert_eq!(firmware.order(), [0, 1, 3, 2]);
    assert_eq!(firmware.get("BootNext").unwrap(), [3, 0]);
}

#[test]
fn lesson_7_the_own_entry_is_reused_by_guid_and_path_and_its_duplicates_go() {
    let firmware = usual();
    let moved = Partition { start_lba: 4096, ..esp() };
    firmware.write("Boot0004", &entry("old title", &moved, r"\efi\SYSTEMD\systemd-bootx64.EFI")).unwrap();
    firmware.write("Boot0007", &entry("older title", &esp(), LOADER)).unwrap();
    firmware.write("BootOrder", &[7, 0, 0, 0, 4, 0, 1, 0]).unwrap();

    let installed = installed(&firmware, BootOrder::NetworkFirst);

    assert_eq!(installed, BootEntry { name: Some("Boot0004".to_owned()), warnings: vec![] });
    assert_eq!(firmware.get("Boot0004").unwrap(), entry("Linux (debian)", &esp(), LOADER));
    assert_eq!(firmware.get("Boot0007"), None);
    assert_eq!(firmware.order(), [0, 1, 4]);
}

#[test]
fn lesson_7_the_entry_that_stays_gets_the_place_of_its_duplicate() {
    for (before, after) in [(&[7, 0, 1, 0, 0, 0][..], &[4, 1, 0][..]), (&[7, 0][..], &[4][..])] {
        let firmware = usual();
        firmware.write("Boot0004", &entry("in no order", &esp(), LOADER)).unwrap();
        firmware.write("Boot0007", &entry("Linux (debian)", &esp(), LOADER)).unwrap();
        firmware.write("BootOrder", before).unwrap();
        let installed = installed(&firmware, BootOrder::Leave);
        assert_eq!(installed, BootEntry { name: Some("Boot0004".to_owned()), warnings: vec![] });
        assert_eq!((firmware.get("Boot0007"), firmware.order().as_slice()), (None, after));
    }
}

#[test]
fn a_second_run_writes_nothing() {
    let firmware = usual();
    installed(&firmware, BootOrder::DiskFirst);
    firmware.writes.set(0);
    assert_eq!(installed(&firmware, BootOrder::DiskFirst).name.unwrap(), "Boot0003");
    assert_eq!(firmware.writes.get(), 0);
}

#[test]
fn lesson_9_a_store_that_is_full_or_read_only_is_a_warning_and_no_failure() {
    for text in ["the firmware's variable store is full", "the firmware's variables are read-only"] {
        let firmware = Firmware { refuses: Some(("", text)), ..usual() };
        let missing =
            format!("the firmware has no boot entry for the installed OS: writing the EFI variable Boot0003: {text}");
        let expected = BootEntry { name: None, warnings: vec![missing] };
        assert_eq!(installed(&firmware, BootOrder::DiskFirst), expected);
        assert_eq!((firmware.get("Boot0003"), firmware.order()), (None, vec![0, 1, 2]));
        // With room for the entry and for nothing more, it is there and can be chosen by hand.
        let firmware = Firmware { refuses: Some(("BootOrder", text)), ..usual() };
        let order =
            format!("the boot order is not as the host config wants it: writing the EFI variable BootOrder: {text}");
        let expected = BootEntry { name: Some("Boot0003".to_owned()), warnings: vec![order] };
        assert_eq!(installed(&firmware, BootOrder::DiskFirst), expected);
        assert_eq!(firmware.get("BootNext").unwrap(), [3, 0]);
    }
}

/// Once there is room, the same number is taken.
#[test]
fn lesson_9_what_a_refused_entry_leaves_is_no_entry() {
    let firmware = Firmware { refuses: Some(("Boot0003", "the firmware's variable store is full")), ..usual() };
    assert_eq!(installed(&firmware, BootOrder::DiskFirst).name, None);
    let firmware = Firmware { refuses: None, ..firmware };
    let expected = BootEntry { name: Some("Boot0003".to_owned()), warnings: vec![] };
    assert_eq!(installed(&firmware, BootOrder::DiskFirst), expected);
    assert_eq!(firmware.order(), [3, 0, 1, 2]);
}

#[test]
fn what_a_reboot_starts_is_what_the_firmware_says() {
    let text = "the firmware's variable store is full";
    let next = |firmware: Firmware, policy: BootOrder| {
        let entry = installed(&firmware, policy);
        (is_next(&firmware, &entry), entry.warnings)
    };
    assert_eq!(next(usual(), BootOrder::NetworkFirst), (true, vec![]));
    let warning =
        vec![format!("the next boot is not from the installed disk: writing the EFI variable BootNext: {text}")];
    let no_next = || Firmware { refuses: Some(("BootNext", text)), ..usual() };
    assert_eq!(next(no_next(), BootOrder::NetworkFirst), (false, warning.clone()));
    assert_eq!(next(no_next(), BootOrder::DiskFirst), (true, warning.clone()));
    // What it starts next is another one's, whatever the order is.
    let others = no_next();
    others.set("BootNext", &[1, 0]);
    assert_eq!(next(others, BootOrder::DiskFirst), (false, warning));
    let mute = Firmware { unreadable: Some("BootNext"), ..usual() };
    assert!(!next(mute, BootOrder::DiskFirst).0);
    let nothing = Firmware { refuses: Some(("", text)), ..usual() };
    assert!(!next(nothing, BootOrder::DiskFirst).0);
}

#[test]
fn lesson_9_an_own_entry_that_cannot_be_changed_is_used_as_it_is() {
    let text = "the firmware's variable store is full";
    let firmware = Firmware { refuses: Some(("Boot0004", text)), ..usual() };
    let old = entry("old title", &esp(), LOADER);
    firmware.set("Boot0004", &old);
    let warning = format!(
        "the boot entry for the installed OS stays as an earlier run has made it: writing the EFI variable Boot0004: {text}"
    );
    let expected = BootEntry { name: Some("Boot0004".to_owned()), warnings: vec![warning] };
    assert_eq!(installed(&firmware, BootOrder::DiskFirst), expected);
    assert_eq!((firmware.get("Boot0004"), firmware.order()), (Some(old), vec![4, 0, 1, 2]));
    assert_eq!(firmware.get("BootNext").unwrap(), [4, 0]);
}

#[test]
fn lesson_9_an_entry_of_others_that_cannot_be_read_is_none_of_ours() {
    let firmware = Firmware { unreadable: Some("Boot0002"), ..usual() };
    let expected = BootEntry { name: Some("Boot0003".to_owned()), warnings: vec![] };
    assert_eq!(installed(&firmware, BootOrder::NetworkFirst), expected);
    assert_eq!(firmware.order(), [0, 1, 3, 2]);
}

#[test]
fn lesson_9_a_lying_firmware_is_a_warning() {
    let firmware = Firmware { lying: true, ..usual() };
    assert_eq!(
        installed(&firmware, BootOrder::DiskFirst).warnings,
        ["the firmware has no boot entry for the installed OS: the firmware took the EFI variable Boot0003, \
          but reading it gives something else"]
    );
}

#[test]
fn efivarfs_is_attributes_and_data() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(format!("{name}-8be4df61-93ca-11d2-aa0d-00e098032b8c"));
    fs::write(file("BootCurrent"), [6, 0, 0, 0, 1, 0]).unwrap();
    fs::write(file("Boot0001"), b"\x07\0\0\0\x01\0\0\0\x04\0P\0X\0E\0\0\0\x7f\xff\x04\0").unwrap();
    fs::write(file("BootOrder"), [7, 0, 0, 0, 1, 0]).unwrap();
    fs::write(directory.path().join("Boot0000-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"), "another namespace").unwrap();

    let efivarfs = Efivarfs::at(directory.path());
    let installed = install(&efivarfs, &esp(), "Linux (débian)", BootOrder::NetworkFirst);

    assert_eq!(installed, BootEntry { name: Some("Boot0000".to_owned()), warnings: vec![] });
    assert_eq!(to_hex(&fs::read(file("Boot0000")).unwrap()), format!("07000000{ENTRY}"));
    assert_eq!(fs::read(file("BootOrder")).unwrap(), [7, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(fs::read(file("BootNext")).unwrap(), [7, 0, 0, 0, 0, 0]);
    efivarfs.remove("BootNext").unwrap();
    assert_eq!(efivarfs.read("BootNext").unwrap(), None);
}

#[test]
fn no_efivarfs_is_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    let warnings = |path: &std::path::Path| install(&Efivarfs::at(path), &esp(), "x", BootOrder::Leave).warnings;
    let path = directory.path();
    assert_eq!(
        warnings(path),
        [format!(
            "the firmware has no boot entry for the installed OS: there are no EFI variables in {}: \
             not started by UEFI, or efivarfs is not mounted",
            path.display()
        )]
    );
    let absent = path.join("absent");
    assert_eq!(
        warnings(&absent),
        [format!(
            "the firmware has no boot entry for the installed OS: listing the EFI variables in {}: \
             No such file or directory (os error 2)",
            absent.display()
        )]
    );
}

proptest! {
    #[test]
    fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(option) = LoadOption::parse(&bytes) {
            let _ = (option.target(), option.origin());
        }
    }

    #[test]
    fn a_damaged_entry_is_parsed_without_panic(at in 0usize..120, byte in any::<u8>(), cut in 0usize..150) {
        let mut bytes = from_hex(ENTRY).unwrap();
        bytes[at] = byte;
        bytes.truncate(cut);
        if let Some(option) = LoadOption::parse(&bytes) {
            let _ = (option.target(), option.origin());
        }
    }

    #[test]
    fn what_is_encoded_is_parsed(title in "[^\0]{0,40}", number in 1u32..129, start in any::<u64>(), guid in any::<u128>()) {
        let partition = Partition { number, start_lba: start, size_lba: 1, guid: Uuid::from_u128(guid) };
        let option = LoadOption::new(&title, &partition, LOADER).unwrap();
        let parsed = LoadOption::parse(&option.encode().unwrap()).unwrap();
        prop_assert_eq!(parsed.target(), Some((partition.guid, LOADER.to_owned())));
        prop_assert_eq!(parsed, option);
    }
}
