//! Changing a file system that is there: mtools and fsck.fat say what has become of it, at every step.

use std::os::unix::fs::FileExt as _;

use super::*;

/// A file system in a file, and what must be in it.
struct Image {
    folder: tempfile::TempDir,
    disk: fs::File,
    size: u64,
    sector: u32,
    files: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Clone)]
enum Change {
    Add { name: String, size: u64 },
    Remove(prop::sample::Index),
    Replace(prop::sample::Index, u64),
    Rename(prop::sample::Index, String),
    Directory(String),
}

impl Image {
    fn new(files: &[File], size: u64, sector: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("esp");
        write(&Layout::new(size, sector, 7, "ESP", files).unwrap(), &path, size, &ALL);
        let disk = fs::File::options().read(true).write(true).open(path).unwrap();
        Self { folder, disk, size, sector, files: expected(files) }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("esp")
    }

    fn read(&self) -> impl Fn(u64, &mut [u8]) -> std::io::Result<()> + '_ {
        |offset, buffer: &mut [u8]| self.disk.read_exact_at(buffer, offset)
    }

    fn volume(&self) -> Volume {
        let mut volume = Volume::open(self.size, self.sector, &self.read()).unwrap();
        volume.find_lost(&self.read()).unwrap();
        volume
    }

    /// Writes a file's data to free clusters.
    fn data(&self, volume: &mut Volume, content: &[u8]) -> u32 {
        let cluster = volume.take(content.len() as u64).unwrap();
        let mut left = content;
        for run in volume.runs(cluster, content.len() as u64).unwrap() {
            let (now, rest) = left.split_at(left.len().min(usize::try_from(run.end - run.start).unwrap()));
            self.disk.write_all_at(now, run.start).unwrap();
            left = rest;
        }
        cluster
    }

    /// The steps of a change, and what is there afterwards.
    fn change(&self, change: &Change) -> (Steps, BTreeMap<String, Vec<u8>>) {
        let mut volume = self.volume();
        let mut files = self.files.clone();
        let pick = |index: &prop::sample::Index| files.keys().nth(index.index(files.len().max(1))).cloned();
        let bytes = |seed: &str, size: u64| content(&format!("{seed}{size}"), size);
        let steps = match change {
            Change::Add { name, size } => {
                let (path, content) = (format!("EFI/Linux/{name}"), bytes(name, *size));
                let cluster = self.data(&mut volume, &content);
                match volume.add(&path, cluster, u32::try_from(*size).unwrap(), &self.read()) {
                    Ok(steps) => {
                        files.insert(path, content);
                        steps
                    }
                    // There is one with this name.
                    Err(_) => Steps::new(),
                }
            }
            Change::Remove(index) => {
                let Some(path) = pick(index) else { return (Steps::new(), files) };
                files.remove(&path);
                volume.remove(&path, &self.read()).unwrap()
            }
            Change::Replace(index, size) => {
                let Some(path) = pick(index) else { return (Steps::new(), files) };
                let content = bytes(&path, *size);
                let cluster = self.data(&mut volume, &content);
                files.insert(path.clone(), content);
                volume.replace(&path, cluster, u32::try_from(*size).unwrap(), &self.read()).unwrap()
            }
            Change::Rename(index, name) => {
                let Some(path) = pick(index) else { return (Steps::new(), files) };
                match volume.rename(&path, name, &self.read()) {
                    Ok(steps) => {
                        let content = files.remove(&path).unwrap();
                        files.insert(format!("{}/{name}", path.rsplit_once('/').unwrap().0), content);
                        steps
                    }
                    Err(_) => Steps::new(),
                }
            }
            Change::Directory(name) => volume.make_directory(&format!("EFI/{name}"), &self.read()).unwrap_or_default(),
        };
        (steps, files)
    }

    fn apply(&self, write: &Write) {
        assert_eq!((write.offset % u64::from(self.sector), write.bytes.len() as u64 % u64::from(self.sector)), (0, 0));
        self.disk.write_all_at(&write.bytes, write.offset).unwrap();
    }
}

fn change() -> impl Strategy<Value = Change> {
    let name = prop_oneof!["[a-z]{1,8}", "[a-zA-Z0-9_+~.^-]{10,60}[a-z]", "os_[1-9]\\+[1-3]\\.efi"];
    let size = prop_oneof![Just(1_u64), 4090..4100_u64, 0..200_000_u64].prop_map(|size| size.max(1));
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (name.clone(), size.clone()).prop_map(|(name, size)| Change::Add { name, size }),
        2 => index().prop_map(Change::Remove),
        1 => (index(), size).prop_map(|(index, size)| Change::Replace(index, size)),
        2 => (index(), name).prop_map(|(index, name)| Change::Rename(index, name)),
        1 => "[a-z]{1,12}".prop_map(Change::Directory),
    ]
}

fn base() -> Vec<File> {
    vec![file("EFI/BOOT/BOOTX64.EFI", 123_456), file("loader/random-seed", 32), file("EFI/Linux/os_1+3.efi", 40_000)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    /// After each write all files are what they were before the change or after it, whatever else is lost.
    #[test]
    fn every_write_leaves_the_files_before_or_after(changes in proptest::collection::vec(change(), 1..30),
                                                    sector in prop_oneof![Just(512_u32), Just(4096)]) {
        let mut image = Image::new(&base(), 300 * MIB, sector);
        for (number, change) in changes.iter().enumerate() {
            let (steps, after) = image.change(change);
            for write in steps.iter().flatten() {
                image.apply(write);
                // Looking at all of it is slow: at each write of the last few changes.
                if number + 3 >= changes.len() {
                    let found = read_with_mtools(&image.path());
                    let mut gone = image.files.clone();
                    if let Change::Rename(index, _) = change {
                        // Where one sector does not do, the old name goes before the new one is there.
                        gone.remove(&image.files.keys().nth(index.index(gone.len().max(1))).cloned().unwrap_or_default());
                    }
                    prop_assert!([&image.files, &after, &gone].contains(&&found), "{change:?}");
                }
            }
            image.files = after;
        }
        prop_assert_eq!(read_with_mtools(&image.path()), image.files.clone());
        if let Some(write) = image.volume().uncount(&image.read()).unwrap() {
            image.apply(&write);
        }
        let (code, text) = fsck(&image.path());
        prop_assert_eq!(code, 0, "{}", text);
        let volume = image.volume();
        let directory = volume.directory("EFI/Linux", &image.read()).unwrap().unwrap();
        let listed: Vec<String> = directory.entries.iter().map(|entry| format!("EFI/Linux/{}", entry.name)).collect();
        let wanted: Vec<&String> = image.files.keys().filter(|path| path.starts_with("EFI/Linux/")).collect();
        prop_assert_eq!(listed.iter().collect::<std::collections::BTreeSet<_>>(), wanted.into_iter().collect());
    }
}

#[test]
fn what_an_interrupted_run_took_is_free_again() {
    let image = Image::new(&base(), 300 * MIB, 512);
    let mut volume = image.volume();
    let first = volume.take(100_000).unwrap();
    volume.fat_writes().iter().for_each(|write| image.apply(write));
    let (code, text) = fsck(&image.path());
    assert!(code == 1 && text.contains("Reclaimed 25 unused clusters (102400 bytes)"), "{text}");
    let mut volume = image.volume();
    assert_eq!(volume.take(100_000).unwrap(), first);
    volume.give_back(&(first..first + 25).collect::<Vec<_>>());
    volume.fat_writes().iter().for_each(|write| image.apply(write));
    assert_clean(&image.path(), base().len() + 4 + 1);
}

#[test]
fn a_file_system_of_another_make_is_read() {
    for (sector, cluster) in [("512", "8"), ("4096", "1"), ("512", "64")] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("esp");
        fs::File::create(&path).unwrap().set_len(4300 * MIB).unwrap();
        let name = path.to_str().unwrap();
        // With a data region that begins at a multiple of 4096 bytes.
        let made = run("mkfs.fat", &["-F", "32", "-S", sector, "-s", cluster, "-a", "-R", "32", name]);
        assert_eq!(made.0, 0, "{made:?}");
        assert_eq!(run("mmd", &["-i", name, "::/EFI", "::/EFI/Linux"]).0, 0);
        let source = folder.path().join("source");
        fs::write(&source, content("x", 70_000)).unwrap();
        let copied = run("mcopy", &["-i", name, source.to_str().unwrap(), "::/EFI/Linux/Some OS_1.0+3.efi"]);
        assert_eq!(copied.0, 0, "{copied:?}");
        let disk = fs::File::open(&path).unwrap();
        let read = |offset: u64, buffer: &mut [u8]| disk.read_exact_at(buffer, offset);
        let volume = match Volume::open(4300 * MIB, sector.parse().unwrap(), &read) {
            Ok(volume) => volume,
            // FATs that are not whole blocks: such an ESP is not taken.
            Err(error) => {
                assert_eq!(
                    error.to_string(),
                    "the EFI system partition has clusters that are not whole blocks of 4096 bytes"
                );
                continue;
            }
        };
        let found = volume.directory("efi/LINUX", &read).unwrap().unwrap().find("some os_1.0+3.EFI").cloned().unwrap();
        assert_eq!((found.name.as_str(), found.size, found.is_directory), ("Some OS_1.0+3.efi", 70_000, false));
        let bytes = volume.read_file("EFI/Linux/Some OS_1.0+3.efi", 70_000, &read).unwrap();
        assert!(bytes.unwrap() == content("x", 70_000));
        let error = volume.read_file("EFI/Linux/Some OS_1.0+3.efi", 69_999, &read).unwrap_err().to_string();
        assert!(error.ends_with("has 70000 bytes in \"EFI/Linux/Some OS_1.0+3.efi\", not at most 69999"), "{error}");
    }
}

#[test]
fn what_cannot_be_changed_is_refused_with_the_reason() {
    let refusal = |damage: &dyn Fn(&Image)| {
        let image = Image::new(&base(), 300 * MIB, 512);
        damage(&image);
        let opened = Volume::open(image.size, image.sector, &image.read());
        opened.and_then(|mut volume| volume.find_lost(&image.read())).unwrap_err().to_string()
    };
    let put = |at: u64, bytes: &[u8]| {
        let bytes = bytes.to_vec();
        move |image: &Image| image.disk.write_all_at(&bytes, at).unwrap()
    };
    let prefix = "the EFI system partition";
    assert_eq!(refusal(&put(510, &[0])), format!("{prefix} holds no file system"));
    assert_eq!(refusal(&put(12, &[16])), format!("{prefix} holds no FAT32 file system with sectors of 512 bytes"));
    assert_eq!(refusal(&put(17, &[1])), format!("{prefix} holds another FAT than FAT32"));
    assert_eq!(refusal(&put(40, &[0x81])), format!("{prefix} has FATs that are not copies of each other"));
    assert_eq!(refusal(&put(13, &[1])), format!("{prefix} has clusters that are not whole blocks of 4096 bytes"));
    assert_eq!(
        refusal(&put(32, &[0xFF; 4])),
        format!("{prefix} has a boot sector whose numbers contradict each other")
    );
    assert_eq!(refusal(&put(44, &[0; 4])), format!("{prefix} has no root directory"));
    // Cluster 2 is the root directory's: entry 2 of the FAT, which begins at 16 KiB.
    let fat = 32 * 512;
    assert_eq!(
        refusal(&put(fat + 8, &2_u32.to_le_bytes())),
        format!("{prefix} has a chain of clusters that leads to 2")
    );
    assert_eq!(refusal(&put(fat + 8, &[0; 4])), format!("{prefix} has a chain of clusters that breaks off at 2"));
    // The chain of directory EFI (cluster 3) goes on in that of another.
    assert_eq!(refusal(&put(fat + 12, &4_u32.to_le_bytes())), format!("{prefix} has cluster 4 in two files"));
}

#[test]
fn a_file_without_a_chain_stays_as_it_is_and_nothing_is_freed() {
    let image = Image::new(&base(), 300 * MIB, 512);
    let mut volume = image.volume();
    volume.take(100_000).unwrap();
    volume.fat_writes().iter().for_each(|write| image.apply(write));
    // The loader's chain breaks off behind its first cluster; another file can be added all the same.
    let cluster = volume.directory("EFI/BOOT", &image.read()).unwrap().unwrap().find("BOOTX64.EFI").unwrap().cluster;
    image.disk.write_all_at(&[0; 4], 32 * 512 + u64::from(cluster + 1) * 4).unwrap();
    let mut volume = image.volume();
    let free = volume.free_bytes();
    volume.find_lost(&image.read()).unwrap();
    assert_eq!(volume.free_bytes(), free);
    let new = volume.take(5000).unwrap();
    assert!(new > cluster + 20, "{new}");
}

/// As a power cut leaves one that Linux was writing.
#[test]
fn a_file_without_a_chain_is_removed_and_replaced_all_the_same() {
    let path = "EFI/Linux/os_1+3.efi";
    for (new, freed) in [(None, 10), (Some(content("new", 30_000)), 2)] {
        let mut image = Image::new(&base(), 300 * MIB, 512);
        let free = image.volume().free_bytes();
        let directory = image.volume().directory("EFI/Linux", &image.read()).unwrap().unwrap();
        let cluster = directory.find("os_1+3.efi").unwrap().cluster;
        image.disk.write_all_at(&[0; 4], 32 * 512 + u64::from(cluster + 1) * 4).unwrap();
        let mut volume = image.volume();
        let steps = match &new {
            None => volume.remove(path, &image.read()),
            Some(new) => {
                let cluster = image.data(&mut volume, new);
                volume.replace(path, cluster, 30_000, &image.read())
            }
        };
        steps.unwrap().iter().flatten().for_each(|write| image.apply(write));
        image.files.remove(path);
        image.files.extend(new.map(|new| (path.to_owned(), new)));
        assert_eq!(read_with_mtools(&image.path()), image.files);
        // What is left of its chain is free for the next run.
        assert_eq!(image.volume().free_bytes(), free + freed * 4096);
    }
}

#[test]
fn no_room_is_told() {
    let image = Image::new(&base(), 300 * MIB, 512);
    let mut volume = image.volume();
    let free = volume.free_bytes();
    let error = volume.take(400 * MIB).unwrap_err().to_string();
    assert_eq!(error, format!("the EFI system partition has no {} bytes free, but {free}", 400 * MIB));
    assert!(volume.take(free + 1).is_err());
    volume.take(free).unwrap();
    assert_eq!(volume.free_bytes(), 0);
}

#[test]
fn a_file_is_put_into_what_gaps_there_are() {
    let mut image = Image::new(&base(), 300 * MIB, 512);
    let mut volume = image.volume();
    // Every other cluster is taken for good by a file of its own, and nothing is left behind them.
    let small: Vec<u32> = (0..20).map(|_| volume.take(1).unwrap()).collect();
    let rest = volume.take(volume.free_bytes()).unwrap();
    small.iter().step_by(2).for_each(|cluster| volume.give_back(&[*cluster]));
    let content = content("gaps", 10 * 4096 - 5);
    let cluster = image.data(&mut volume, &content);
    let runs = volume.runs(cluster, content.len() as u64).unwrap();
    assert_eq!(runs.len(), 10);
    assert!(runs.iter().all(|run| run.end - run.start == 4096), "{runs:?}");
    volume.give_back(&volume.chain(rest).unwrap());
    small.iter().skip(1).step_by(2).for_each(|cluster| volume.give_back(&[*cluster]));
    let steps = volume.add("EFI/Linux/gaps_1+3.efi", cluster, 10 * 4096 - 5, &image.read()).unwrap();
    steps.iter().flatten().for_each(|write| image.apply(write));
    image.files.insert("EFI/Linux/gaps_1+3.efi".to_owned(), content);
    assert_eq!(read_with_mtools(&image.path()), image.files);
}

#[test]
fn a_name_is_changed_by_one_sector() {
    for (sector, name) in [(512, "os_1+0.efi"), (4096, "os_1+0.efi"), (512, "os_1.efi")] {
        let image = Image::new(&base(), 300 * MIB, sector);
        let steps = image.volume().rename("EFI/Linux/os_1+3.efi", name, &image.read()).unwrap();
        assert_eq!(steps.iter().map(Vec::len).collect::<Vec<_>>(), [1], "{name}");
        image.apply(&steps[0][0]);
        let files = read_with_mtools(&image.path());
        assert_eq!(files.get(&format!("EFI/Linux/{name}")), image.files.get("EFI/Linux/os_1+3.efi"));
        assert_eq!(files.len(), image.files.len());
    }
}
