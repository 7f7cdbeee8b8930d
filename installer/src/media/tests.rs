mod images;

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::failure::code_of;
pub(crate) use images::{disc, stick};
use images::{probed, run};

const TEXT: &[u8] = b"metalstrap.host=serial-7XK\n";
/// Where BMCs and people have their media, as sysfs shows it.
pub(crate) const USB: &str = "pci0000:00/0000:00:14.0/usb1/1-1/1-1:1.0/host6/target6:0:0/6:0:0:0/block";
const SATA: &str = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block";

/// Drives in a directory: its `sys` and `dev`.
pub(crate) struct Drives(tempfile::TempDir);

impl Drives {
    pub fn new() -> Self {
        let place = tempfile::tempdir().unwrap();
        fs::create_dir_all(place.path().join("sys/block")).unwrap();
        fs::create_dir_all(place.path().join("dev")).unwrap();
        Self(place)
    }

    pub fn sys(&self) -> PathBuf {
        self.0.path().join("sys")
    }

    pub fn dev(&self) -> PathBuf {
        self.0.path().join("dev")
    }

    /// With a drive that sysfs has at `path`, with these attributes, and these bytes on it.
    pub fn with(self, path: &str, attributes: &[(&str, &str)], content: &[u8]) -> Self {
        let block = self.sys().join("devices").join(path);
        fs::create_dir_all(&block).unwrap();
        let name = block.file_name().unwrap().to_owned();
        symlink(&block, self.sys().join("block").join(&name)).unwrap();
        fs::write(self.dev().join(name), content).unwrap();
        for (attribute, text) in attributes {
            let file = block.join(attribute);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        self
    }

    /// With these bytes on a partition of the drive at `path`.
    fn with_partition(self, path: &str, name: &str, content: &[u8]) -> Self {
        let partition = self.sys().join("devices").join(path).join(name);
        fs::create_dir_all(&partition).unwrap();
        fs::write(partition.join("partition"), "1\n").unwrap();
        fs::write(self.dev().join(name), content).unwrap();
        self
    }

    /// What is found, and what is warned of.
    fn look(&self) -> (Result<Option<Medium>>, Vec<String>) {
        let warned = Mutex::new(Vec::new());
        let found = look(&self.sys(), &self.dev(), &|text| warned.lock().unwrap().push(text.to_owned()));
        (found, warned.into_inner().unwrap())
    }

    /// The medium that is found, and nothing said.
    fn medium(&self) -> Option<Medium> {
        let (found, warned) = self.look();
        assert_eq!(warned, Vec::<String>::new());
        found.unwrap()
    }

    fn refusal(&self) -> String {
        let error = self.look().0.unwrap_err();
        assert_eq!(code_of(&error), Code::Discovery);
        format!("{error:#}")
    }
}

/// A reader of bytes in memory.
fn reader(image: &[u8]) -> impl Fn(u64, &mut [u8]) -> io::Result<()> {
    move |at: u64, buffer: &mut [u8]| {
        let start = usize::try_from(at).unwrap_or(usize::MAX);
        let bytes = start.checked_add(buffer.len()).and_then(|end| image.get(start..end));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn iso() -> Vec<u8> {
    disc(LABEL, &[("README.TXT;1", b"x"), ("SETTINGS.TXT;1", TEXT)])
}

#[test]
fn settings_are_read_from_every_kind_of_file_system() {
    // Several clusters long, behind another file.
    let long = [TEXT, b"#", &[b'x'; 9000]].concat();
    for (kib, bits) in [(1440, "12"), (20_000, "16"), (40_000, "32")] {
        let image = stick("METALSTRAP", kib, bits, &[("readme.txt", b"x"), ("settings.txt", &long)]);
        assert_eq!(probed(&image), ["vfat", "METALSTRAP"]);
        let drives = Drives::new().with(&format!("{USB}/sdb"), &[("device/model", "Flash Disk  \n")], &image);
        let expected = Medium { name: "sdb (Flash Disk)".to_owned(), text: long.clone() };
        assert_eq!(drives.medium(), Some(expected), "FAT{bits}");
    }
    assert_eq!(probed(&iso()), ["iso9660", "METALSTRAP"]);
    for path in [USB, SATA] {
        let drives = Drives::new().with(&format!("{path}/sr0"), &[("device/model", "Virtual CDROM0\n")], &iso());
        let expected = Medium { name: "sr0 (Virtual CDROM0)".to_owned(), text: TEXT.to_vec() };
        assert_eq!(drives.medium(), Some(expected), "{path}");
    }
}

#[test]
fn a_label_that_was_changed_later_counts() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("image");
    fs::write(&path, stick("OTHER", 1440, "12", &[("SETTINGS.TXT", TEXT)])).unwrap();
    let at = |image: &[u8]| Drives::new().with(&format!("{USB}/sdb"), &[("serial", "A1\n")], image).medium();
    assert_eq!(at(&fs::read(&path).unwrap()), None);
    run("mlabel", &["-i", path.to_str().unwrap(), "::metalstrap"]);
    let mut image = fs::read(&path).unwrap();
    // As Windows leaves it: the boot sector has no label.
    image[43..54].copy_from_slice(b"NO NAME    ");
    let expected = Medium { name: "sdb (serial A1)".to_owned(), text: TEXT.to_vec() };
    assert_eq!(at(&image), Some(expected));
}

#[test]
fn drives_without_the_label_are_nothing() {
    assert_eq!(Drives::new().medium(), None);
    let other = stick("EFI", 1440, "12", &[("SETTINGS.TXT", TEXT)]);
    let drives = Drives::new()
        .with(&format!("{USB}/sdb"), &[], &other)
        .with(&format!("{SATA}/sda"), &[], &[0; 70_000])
        .with(&format!("{USB}/sr0"), &[], &disc("DEBIAN", &[("SETTINGS.TXT;1", TEXT)]))
        .with(&format!("{USB}/sdc"), &[], b"")
        .with("virtual/block/loop0", &[("removable", "1\n")], &iso());
    // A drive without a node is none either.
    fs::create_dir_all(drives.sys().join("block/sdd")).unwrap();
    assert_eq!(drives.medium(), None);
}

#[test]
fn a_drive_that_cannot_be_read_is_said_where_it_would_be_believed() {
    let drives = Drives::new().with(&format!("{USB}/sr0"), &[("device/model", "DVD-ROM\n")], &iso());
    let drives = drives.with(&format!("{SATA}/sda"), &[], b"");
    // A directory can be opened, and reading it fails.
    for name in ["sr0", "sda"] {
        fs::remove_file(drives.dev().join(name)).unwrap();
        fs::create_dir(drives.dev().join(name)).unwrap();
    }
    let (found, warned) = drives.look();
    let text = "looking for the label METALSTRAP on sr0 (DVD-ROM): Is a directory (os error 21)";
    assert_eq!((found.unwrap(), warned), (None, vec![text.to_owned()]));
}

#[test]
fn a_removable_disk_and_its_partitions_are_looked_at() {
    let removable = [("removable", "1\n")];
    let path = format!("{SATA}/sda");
    let drives = Drives::new().with(&path, &removable, &[0; 70_000]);
    let image = stick("METALSTRAP", 1440, "12", &[("SETTINGS.TXT", TEXT)]);
    let drives = drives.with_partition(&path, "sda1", b"").with_partition(&path, "sda2", &image);
    assert_eq!(drives.medium().unwrap().name, "sda2");
    let two = drives.with_partition(&path, "sda3", &image);
    assert_eq!(two.refusal(), "there may be one medium with the label METALSTRAP, and there are several: sda2; sda3");
    // An image for discs and sticks has itself in its first partition.
    let hybrid = Drives::new().with(&path, &removable, &iso()).with_partition(&path, "sda1", &iso());
    assert_eq!(hybrid.medium().unwrap().name, "sda");
}

#[test]
fn a_fixed_disk_is_named_and_not_believed() {
    let image = stick("METALSTRAP", 1440, "12", &[("SETTINGS.TXT", TEXT)]);
    let fixed = [("device/model", "ST4000\n"), ("removable", "0\n"), ("serial", "Z1\n")];
    let path = format!("{SATA}/sda");
    let alone = Drives::new().with(&path, &fixed, &[]).with_partition(&path, "sda1", &image);
    let warning = "sda1 (ST4000, serial Z1) has the label METALSTRAP and is not believed: it is neither on USB nor removable \
                   nor optical";
    let (found, warned) = alone.look();
    assert_eq!((found.unwrap(), warned), (None, vec![warning.to_owned()]));
    // It keeps nobody from a medium.
    let (found, warned) = alone.with(&format!("{USB}/sr0"), &[], &iso()).look();
    assert_eq!((found.unwrap().unwrap().name, warned), ("sr0".to_owned(), vec![warning.to_owned()]));
}

#[test]
fn a_medium_without_a_file_that_can_be_read_is_refused() {
    let at = |image: &[u8]| Drives::new().with(&format!("{USB}/sdb"), &[], image).refusal();
    let long = [b'#'; 32_769];
    let no_file = "sdb has the label METALSTRAP and no file SETTINGS.TXT";
    let too_long = "reading SETTINGS.TXT on sdb: it has 32769 bytes, more than the 32768 allowed";
    assert_eq!(at(&stick("METALSTRAP", 1440, "12", &[])), no_file);
    assert_eq!(at(&stick("METALSTRAP", 1440, "12", &[("SETTINGS.TXT", &long)])), too_long);
    assert_eq!(at(&disc(LABEL, &[("SETTINGS.TXT.OLD;1", TEXT)])), no_file);
    assert_eq!(at(&disc(LABEL, &[("SETTINGS.TXT;1", &long)])), too_long);

    let mut torn = stick("METALSTRAP", 1440, "12", &[("SETTINGS.TXT", &[b'#'; 2000])]);
    // A FAT begins behind the first sector of a floppy of 1440 KiB: the first file's second cluster is free.
    torn[512 + 3..512 + 6].fill(0);
    assert_eq!(at(&torn), "reading SETTINGS.TXT on sdb: there is no cluster 0");
    let mut flagged = iso();
    let at_flags = |image: &[u8]| image.windows(12).position(|name| name == b"SETTINGS.TXT").unwrap() - 8;
    let place = at_flags(&flagged);
    flagged[place] = 0x80;
    assert_eq!(at(&flagged), "reading SETTINGS.TXT on sdb: it is no file in one piece");
    let mut beyond = iso();
    beyond[place - 23..place - 19].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(at(&beyond), "reading SETTINGS.TXT on sdb: failed to fill whole buffer");
    let mut endless = iso();
    endless[16 * 2048 + 166..16 * 2048 + 170].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(at(&endless), "reading SETTINGS.TXT on sdb: the root directory has 4294967295 bytes");
}

#[test]
fn a_drive_that_does_not_answer_is_passed_over() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("sr0");
    // To open it for reading waits for somebody who writes.
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = labelled_within(path, Duration::from_millis(20)).unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (io::ErrorKind::TimedOut, "timed out"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever is changed in what a reader goes by, it ends, and what it gives is no longer than allowed.
    #[test]
    fn damaged_file_systems_are_read_to_an_end(
        fat in any::<bool>(),
        changes in prop::collection::vec((0_usize..20_000, any::<u8>()), 1..40),
    ) {
        static FAT: std::sync::LazyLock<Vec<u8>> =
            std::sync::LazyLock::new(|| stick("METALSTRAP", 1440, "12", &[("SETTINGS.TXT", &[b'#'; 3000])]));
        let mut image = if fat { FAT.clone() } else { iso() };
        for (at, byte) in changes {
            // Descriptors and directories of a disc begin there, the FATs of a floppy at once.
            let at = if fat { at } else { 16 * 2048 + at % (3 * 2048) };
            image[at] = byte;
        }
        let read = reader(&image);
        let files = [
            fat::Volume::open(&read).unwrap().map(|volume| volume.label().and_then(|_| volume.file(SHORT, MAX_BYTES))),
            iso9660::Volume::open(&read).unwrap().map(|volume| volume.file(FILE, MAX_BYTES)),
        ];
        for file in files.into_iter().flatten().filter_map(Result::ok).flatten() {
            prop_assert!(file.len() <= usize::try_from(MAX_BYTES).unwrap());
        }
    }
}
