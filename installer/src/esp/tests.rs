use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::{Boot, Designator, FileSystem, Salt};

use super::*;
use crate::converge::testing::{Repository, SALT, UUID, bytes, tree_over};
use crate::disk::{Faulty, Memory, Operation, Recorded, Recording};
use crate::failure::code_of;
use crate::fat::Stage;
use crate::fetch::Source as _;

mod credentials;
mod noting;
mod staying;
mod telling;

const MIB: u64 = 1 << 20;
/// The partition, and the least that FAT32 takes in whole MiB at both sector sizes.
const START: u64 = MIB;
const SIZE: u64 = 258 * MIB;
const UKI: &str = "EFI/Linux/debian_1+3.efi";
const DISK_SIZE: u64 = START + SIZE;

fn manifest(repository: &Repository, loader: &[u8], uki: &[u8]) -> Manifest {
    let image = bytes(99, 8192);
    let (root_hash, tree) = tree_over(&image);
    let root = FileSystem {
        designator: Designator::Root,
        root_hash,
        salt: Salt(SALT.to_vec()),
        data: repository.publish(&image),
        fine: None,
        hash_tree: repository.publish(&tree),
        hash_tree_uuid: UUID,
    };
    Manifest {
        format: 1,
        name: "debian".to_owned(),
        version: "1".to_owned(),
        architecture: "x86-64".to_owned(),
        boot: Boot {
            uki: repository.artifact(uki),
            loader: repository.artifact(loader),
            cmdline: format!("roothash={root_hash}"),
            cmdline_limit: 2047,
            pcr11: None,
            secure_boot: None,
            watchdog: None,
            unconfirmed: false,
        },
        filesystems: vec![root],
        layout: metalstrap_release::manifest::Layout {
            esp_size: SIZE,
            root_size: MIB,
            root_verity_size: MIB,
            slots: 2,
            free_size: 0,
            partitions: Vec::new(),
        },
    }
}

/// A fresh file system.
fn order(manifest: &Manifest) -> Order<'_> {
    Order { volume_id: 0xABCD_0123, ..Order::of(manifest) }
}

fn region(disk: &Arc<Recording>) -> Region {
    Region { disk: Arc::clone(disk) as Arc<_>, start: START, size: SIZE }
}

/// What was done to write this ESP, in order.
async fn recorded(repository: &Repository, manifest: &Manifest, sector: u32) -> (Esp, Vec<Recorded>) {
    let disk = Arc::new(Recording::memory(DISK_SIZE, sector));
    let progress = Progress::default();
    let esp = write(&repository.mirrors(), order(manifest), &region(&disk), &[], &progress).await.unwrap();
    let (done, total, fetched) = progress.snapshot();
    assert_eq!(done, total);
    let payloads = [&manifest.boot.loader, &manifest.boot.uki].map(|file| file.data.size + file.hash_tree.size);
    assert_eq!(fetched, payloads.iter().sum::<u64>());
    (esp, disk.log())
}

/// The partition as a file of its own, for tools that take no offset.
struct Image(tempfile::TempDir, File);

impl Image {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let file = File::create(directory.path().join("esp")).unwrap();
        file.set_len(SIZE).unwrap();
        Self(directory, file)
    }

    fn path(&self) -> std::path::PathBuf {
        self.0.path().join("esp")
    }

    fn apply(&self, what: &Recorded) {
        if let Recorded::Write { offset, bytes } = what {
            self.1.write_all_at(bytes, offset - START).unwrap();
        }
    }

    /// The file as mtools reads it; `None` if there is no such name or no file system.
    fn read(&self, path: &str) -> Option<Vec<u8>> {
        let copy = self.0.path().join("copy");
        let _ = fs::remove_file(&copy);
        let done = Command::new("mcopy").arg("-i").arg(self.path()).arg(format!("::/{path}")).arg(&copy).output();
        done.unwrap().status.success().then(|| fs::read(copy).unwrap())
    }
}

/// What fsck.fat complains about, "none" for no file system; fails for anything worse than lost clusters, and copies of the FAT of
/// which the first one counts.
fn complaints(image: &Path) -> Vec<String> {
    let output = Command::new("fsck.fat").arg("-n").arg(image).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    if text.contains("Logical sector size is zero.") {
        return vec!["none".to_owned()];
    }
    let harmless = [
        "Reclaimed ",
        "FATs differ but appear to be intact.",
        "  Using first FAT.",
        "Free cluster summary ",
        "Label in boot sector is 'ESP', but there is no volume label",
        "  Auto-",
        "fsck.fat ",
        "Leaving ",
    ];
    let image = image.display().to_string();
    let known =
        |line: &&str| line.is_empty() || line.starts_with(&image) || harmless.iter().any(|it| line.starts_with(it));
    let worse: Vec<_> = text.lines().filter(|line| !known(line)).collect();
    assert!(worse.is_empty(), "{text}");
    let told = |line: &&str| ["Reclaimed ", "FATs differ "].iter().any(|it| line.starts_with(it));
    text.lines().filter(told).map(str::to_owned).collect()
}

#[tokio::test]
async fn an_esp_has_its_files_and_is_clean() {
    let repository = Repository::new();
    let (loader, uki) = (bytes(1, 130_001), bytes(2, 3_000_000));
    let manifest = manifest(&repository, &loader, &uki);
    for sector in [512, 4096] {
        let (esp, log) = recorded(&repository, &manifest, sector).await;
        let image = Image::new();
        log.iter().for_each(|what| image.apply(what));
        assert_eq!(complaints(&image.path()), Vec::<String>::new());
        assert!(image.read(FALLBACK_LOADER).unwrap() == loader);
        assert!(image.read(LOADER).unwrap() == loader);
        assert!(image.read(UKI).unwrap() == uki);
        assert_eq!(image.read("loader/loader.conf").unwrap(), b"timeout 0\n");
        assert_eq!(image.read("loader/entries.srel").unwrap(), b"type1\n");
        let seed = image.read("loader/random-seed").unwrap();
        assert_eq!((seed.len(), seed != [0; 32]), (32, true));

        assert_eq!((esp.uki_path.as_str(), esp.uki_size), (UKI, 3_000_000));
        let mut found = vec![0; usize::try_from(esp.uki.size).unwrap()];
        esp.uki.read_at(0, &mut found).unwrap();
        assert!(found[..uki.len()] == uki);
        found.chunks(4096).zip(0..).for_each(|(block, index)| esp.uki_tree.check(index, block).unwrap());
        let [once, twice] = [&manifest.boot.uki, &manifest.boot.loader].map(|file| file.data.content_size / 4096);
        let files = [&manifest.boot.loader, &manifest.boot.uki];
        let fetched_bytes = files.iter().map(|file| file.data.size + file.hash_tree.size).sum();
        let expected = Tally { fetched_bytes, fetched: once + twice, copied: twice, ..Tally::default() };
        assert_eq!(esp.tally, expected);
    }
}

/// What a write is for, by where it goes.
fn purpose(layout: &Layout, offset: u64) -> &'static str {
    let at = offset - START;
    let first_data = layout.extents()[0].offset;
    let publish = layout.writes(Stage::Publish).next().unwrap().offset;
    match at {
        0 => "boot sectors",
        _ if at == publish => "directory or publish",
        _ if at < first_data => "tables",
        _ => "file",
    }
}

#[tokio::test]
async fn the_order_is_data_tables_name_boot_sector() {
    let repository = Repository::new();
    let manifest = manifest(&repository, &bytes(1, 10_000), &bytes(2, 100_000));
    for sector in [512, 4096] {
        let (_, log) = recorded(&repository, &manifest, sector).await;
        let layout = layout(order(&manifest), SIZE, sector).unwrap();
        let mut order: Vec<_> = log
            .iter()
            .map(|what| match what {
                Recorded::Write { offset, .. } => purpose(&layout, *offset),
                Recorded::Flush => "flush",
            })
            .collect();
        order.dedup();
        // With sectors of 512 bytes the directory is written at its cluster's start, which is its first sector.
        // What was fetched for a file is flushed before the next one is fetched.
        let files = ["file", "flush"].repeat(2);
        let before_read_back = ["file", "tables", "directory or publish", "flush"];
        let after = ["directory or publish", "flush", "tables", "flush", "boot sectors", "flush"];
        assert_eq!(order, [&["boot sectors", "flush"], &files[..], &before_read_back, &after].concat());
        let Some([Recorded::Write { offset, bytes }, Recorded::Flush]) = log.last_chunk() else { panic!() };
        let boot_sector = layout.writes(Stage::BootSector).next().unwrap();
        assert_eq!((*offset, bytes), (START, &boot_sector.bytes));
        assert_eq!(bytes.len(), usize::try_from(sector).unwrap());
    }
}

/// The disk after a power cut: `log` up to some point, of what came after the last flush any part.
fn cuts(log: &[Recorded]) -> Vec<BTreeSet<usize>> {
    let mut cuts = Vec::new();
    let mut flushed = 0;
    for (index, what) in log.iter().enumerate() {
        cuts.push((0..=index).collect());
        // Only the newest of the unflushed writes, and all of them but the oldest: what a drive that reorders leaves.
        cuts.push((0..flushed).chain([index]).collect());
        cuts.push((0..=index).filter(|other| *other != flushed).collect());
        if *what == Recorded::Flush {
            flushed = index + 1;
        }
    }
    cuts
}

#[tokio::test]
async fn a_power_cut_leaves_the_uki_whole_or_without_a_name() {
    let repository = Repository::new();
    let old_uki = bytes(3, 400_000);
    let old = manifest(&repository, &bytes(4, 20_000), &old_uki);
    let (loader, uki) = (bytes(5, 30_000), bytes(6, 300_000));
    let new = manifest(&repository, &loader, &uki);
    for sector in [512, 4096] {
        let (_, before) = recorded(&repository, &old, sector).await;
        let (_, log) = recorded(&repository, &new, sector).await;
        for (over_old, start) in [(false, &[][..]), (true, &before)] {
            let (mut absent, mut whole) = (0, 0);
            for cut in cuts(&log) {
                let image = Image::new();
                start.iter().for_each(|what| image.apply(what));
                cut.iter().for_each(|index| image.apply(&log[*index]));
                match image.read(UKI) {
                    None => absent += 1,
                    Some(found) if found == uki => whole += 1,
                    // The old file system as a whole, before anything was written.
                    Some(found) => assert!(over_old && found == old_uki && cut.len() <= 1, "{cut:?}"),
                }
                for path in [FALLBACK_LOADER, LOADER] {
                    assert!(image.read(path).is_none_or(|found| found == loader || (over_old && cut.len() <= 1)));
                }
                // What reading back would see is not on the disk yet in a cut, but the tables are either way.
                complaints(&image.path());
            }
            assert!(absent > 10 && whole >= 2, "{absent} {whole}");
        }
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_the_first_write() {
    let repository = Repository::new();
    let mut manifest = manifest(&repository, &bytes(1, 10_000), &bytes(2, 100_000));
    manifest.boot.uki.size = SIZE;
    let disk = Arc::new(Recording::memory(DISK_SIZE, 512));
    let error =
        write(&repository.mirrors(), order(&manifest), &region(&disk), &[], &Progress::default()).await.unwrap_err();
    assert_eq!(code_of(&error), Code::DiskTooSmall);
    let text = "laying out the EFI system partition: a file of 270532608 bytes does not fit the EFI system partition: \
                269922304 bytes are free of 269983744";
    assert_eq!(format!("{error:#}"), text);
    assert_eq!(disk.log(), []);
}

#[tokio::test]
async fn a_wrong_uki_gets_no_name_and_no_block() {
    let repository = Repository::new();
    let (loader, uki) = (bytes(1, 10_000), bytes(2, 400_000));
    let mut manifest = manifest(&repository, &loader, &uki);
    let mut wrong = uki.clone();
    wrong[50 * 4096] ^= 4;
    wrong.resize(wrong.len().next_multiple_of(4096), 0);
    manifest.boot.uki.data = repository.replace(&manifest.boot.uki.data, &wrong);
    let disk = Arc::new(Recording::memory(DISK_SIZE, 512));
    let error =
        write(&repository.mirrors(), order(&manifest), &region(&disk), &[], &Progress::default()).await.unwrap_err();
    let text = format!(
        "payloads/{}.zst from {} is corrupt at byte 204800 of its content: block 50 has digest {}, but the hash tree \
         says {}",
        manifest.boot.uki.data.sha256,
        repository.source.describe(),
        Digest::salted(&SALT, &wrong[50 * 4096..51 * 4096]),
        Digest::salted(&SALT, &uki[50 * 4096..51 * 4096]),
    );
    assert_eq!((code_of(&error), format!("{error:#}")), (Code::Corrupt, text));
    let image = Image::new();
    disk.log().iter().for_each(|what| image.apply(what));
    assert_eq!(complaints(&image.path()), ["none"]);
}

#[tokio::test]
async fn a_wrong_hash_tree_leaves_the_disk_alone() {
    let repository = Repository::new();
    let mut manifest = manifest(&repository, &bytes(1, 10_000), &bytes(2, 400_000));
    let (_, mut tree) = tree_over(&bytes(7, 98 * 4096));
    tree[4096] ^= 1;
    manifest.boot.uki.hash_tree = repository.publish(&tree);
    let disk = Arc::new(Recording::memory(DISK_SIZE, 512));
    let error =
        write(&repository.mirrors(), order(&manifest), &region(&disk), &[], &Progress::default()).await.unwrap_err();
    let text = format!(
        "fetching the UKI's hash tree: payloads/{}.zst from {} is corrupt at byte 4096 of its content: hash tree block \
         1 has digest {}, but the root hash says {}",
        manifest.boot.uki.hash_tree.sha256,
        repository.source.describe(),
        Digest::salted(&SALT, &tree[4096..]),
        manifest.boot.uki.root_hash,
    );
    assert_eq!((code_of(&error), format!("{error:#}")), (Code::Corrupt, text));
    assert_eq!(disk.log(), []);
}

#[tokio::test]
async fn a_drive_that_fails_is_named_with_the_stage() {
    let repository = Repository::new();
    let manifest = manifest(&repository, &bytes(1, 10_000), &bytes(2, 100_000));
    let broken = |operation| (operation == Operation::Flush).then(|| io::Error::from_raw_os_error(5));
    let disk = Arc::new(Faulty::new(Arc::new(Memory::new(DISK_SIZE, 512)), broken));
    let region = Region { disk, start: START, size: SIZE };
    let error = write(&repository.mirrors(), order(&manifest), &region, &[], &Progress::default()).await.unwrap_err();
    assert_eq!(code_of(&error), Code::DiskIo);
    let text = "removing the old file system: flushing the EFI system partition: ";
    assert!(format!("{error:#}").starts_with(text), "{error:#}");
    assert!(format!("{error:#}").ends_with("Input/output error (os error 5)"), "{error:#}");
}
