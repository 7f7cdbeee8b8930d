use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::failure::code_of;

mod editing;

const MIB: u64 = 1 << 20;

fn file(path: &str, size: u64) -> File {
    File { path: path.to_owned(), size }
}

fn esp_files() -> Vec<File> {
    vec![
        file("EFI/BOOT/BOOTX64.EFI", 123_456),
        file("EFI/systemd/systemd-bootx64.efi", 123_456),
        file("loader/loader.conf", 10),
        file("loader/entries.srel", 6),
        file("loader/random-seed", 32),
        file("EFI/Linux/debian_1+3.efi", 40 * MIB + 1),
    ]
}

/// Bytes that tell one file and place from another.
fn content(path: &str, size: u64) -> Vec<u8> {
    let seed: u64 = path.bytes().map(u64::from).sum();
    (0..size).map(|at| u8::try_from((at / 7 + at * seed) % 251).unwrap()).collect()
}

/// Writes everything up to and including `stages`, and the files' data.
fn write(layout: &Layout, image: &Path, size: u64, stages: &[Stage]) {
    let disk = fs::File::create(image).unwrap();
    disk.set_len(size).unwrap();
    for extent in layout.extents() {
        disk.write_all_at(&content(&extent.path, extent.size), extent.offset).unwrap();
    }
    for write in stages.iter().flat_map(|stage| layout.writes(*stage)) {
        assert_eq!(write.bytes.len() % usize::from(layout.boot.sector_size), 0);
        assert_eq!(write.offset % u64::from(layout.boot.sector_size), 0);
        disk.write_all_at(&write.bytes, write.offset).unwrap();
    }
}

const ALL: [Stage; 5] = [Stage::Invalidate, Stage::Tables, Stage::Publish, Stage::Reserved, Stage::BootSector];

fn run(program: &str, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(program).args(arguments).env("MTOOLS_SKIP_CHECK", "1").output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

fn fsck(image: &Path) -> (i32, String) {
    run("fsck.fat", &["-n", "-v", image.to_str().unwrap()])
}

fn assert_clean(image: &Path, files: usize) {
    let (code, text) = fsck(image);
    assert_eq!(code, 0, "{text}");
    let summary = text.lines().last().unwrap();
    assert!(summary.contains(&format!(": {files} files, ")), "{text}");
}

/// What mtools reads, by path.
fn read_with_mtools(image: &Path) -> BTreeMap<String, Vec<u8>> {
    let target = tempfile::tempdir().unwrap();
    let image = image.to_str().unwrap();
    let (code, text) = run("mcopy", &["-s", "-n", "-i", image, "::/", target.path().to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let mut found = BTreeMap::new();
    let mut open = vec![target.path().to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(target.path()).unwrap().to_str().unwrap().to_owned();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// What is to be read. Directories whose names differ in case only are one, which is called as the first of them.
fn expected(files: &[File]) -> BTreeMap<String, Vec<u8>> {
    let mut called = BTreeMap::new();
    let mut found = BTreeMap::new();
    for File { path, size } in files {
        let (mut at, mut parts) = (String::new(), path.split('/').peekable());
        while let Some(part) = parts.next() {
            at.push_str(part);
            if parts.peek().is_some() {
                at = called.entry(at.to_ascii_lowercase()).or_insert(at).clone() + "/";
            }
        }
        found.insert(at, content(path, *size));
    }
    found
}

#[test]
fn directories_whose_names_differ_in_case_only_are_one() {
    let file = |path: &str| File { path: path.to_owned(), size: 5 };
    let files = [file("Top/A/a"), file("top/a/B"), file("Top/A/c")];
    let layout = Layout::new(300 * MIB, 512, 7, "ANY", &files).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("any");
    write(&layout, &image, 300 * MIB, &ALL);
    assert_eq!(read_with_mtools(&image), expected(&files));
    assert_eq!(expected(&files).keys().collect::<Vec<_>>(), ["Top/A/B", "Top/A/a", "Top/A/c"]);
}

#[test]
fn an_esp_is_clean_and_reads_back_at_both_sector_sizes() {
    for sector in [512, 4096] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("esp");
        let files = esp_files();
        let layout = Layout::new(512 * MIB, sector, 0x1234_ABCD, "ESP", &files).unwrap();
        write(&layout, &image, 512 * MIB, &ALL);
        // Files, 5 directories and the label.
        assert_clean(&image, files.len() + 5 + 1);
        assert_eq!(read_with_mtools(&image), expected(&files), "sectors of {sector} bytes");
        let (_, text) = run("mdir", &["-i", image.to_str().unwrap(), "::/EFI/Linux"]);
        assert!(text.contains("Volume Serial Number is 1234-ABCD"), "{text}");
        assert!(text.contains("Volume in drive : is ESP"), "{text}");
        assert!(text.contains("DEBIAN~1 EFI  41943041 1980-01-01   0:00  debian_1+3.efi"), "{text}");
    }
}

#[test]
fn the_largest_esp_that_is_made_can_be_changed() {
    let size = metalstrap_release::manifest::MAX_ESP_BYTES;
    for sector in [512, 4096] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("esp");
        write(&Layout::new(size, sector, 1, "ESP", &esp_files()).unwrap(), &path, size, &ALL);
        let disk = fs::File::open(&path).unwrap();
        let read = |offset: u64, buffer: &mut [u8]| disk.read_exact_at(buffer, offset);
        let volume = Volume::open(size, sector, &read).unwrap();
        assert!(volume.free_bytes() > size - 100 * MIB, "{}", volume.free_bytes());
    }
}

#[test]
fn the_geometry_is_exact() {
    for (sector, data, clusters) in [(512, 16_384 + 2 * 524_288, 130_812), (4096, 131_072 + 2 * 524_288, 130_784)] {
        let layout = Layout::new(512 * MIB, sector, 1, "ESP", &[file("A", 1)]).unwrap();
        assert_eq!(layout.boot.data_offset(), data);
        assert_eq!(layout.boot.clusters, clusters);
        assert_eq!(layout.extents(), [Extent { path: "A".to_owned(), offset: data + 4096, size: 1 }]);
    }
}

#[test]
fn before_publishing_only_the_last_file_is_missing() {
    for sector in [512, 4096] {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("esp");
        let files = esp_files();
        let layout = Layout::new(512 * MIB, sector, 1, "ESP", &files).unwrap();
        write(&layout, &image, 512 * MIB, &[Stage::Tables, Stage::Reserved, Stage::BootSector]);
        let (code, text) = fsck(&image);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("Reclaimed 10241 unused clusters (41947136 bytes)."), "{text}");
        assert_eq!(read_with_mtools(&image), expected(files.split_last().unwrap().1));
        let publish: Vec<_> = layout.writes(Stage::Publish).collect();
        assert_eq!(publish.len(), 1);
        assert_eq!(publish[0].bytes.len(), usize::try_from(sector).unwrap());
    }
}

#[test]
fn without_boot_sectors_there_is_no_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("esp");
    let layout = Layout::new(512 * MIB, 512, 1, "ESP", &esp_files()).unwrap();
    write(
        &layout,
        &image,
        512 * MIB,
        &[Stage::Tables, Stage::Publish, Stage::Reserved, Stage::BootSector, Stage::Invalidate],
    );
    let (code, text) = fsck(&image);
    assert_ne!(code, 0);
    assert!(text.contains("Logical sector size is zero."), "{text}");
}

#[test]
fn what_does_not_fit_is_refused_with_the_numbers() {
    let refused = |size, files: &[File]| {
        let error = Layout::new(size, 512, 1, "ESP", files).unwrap_err();
        (code_of(&error), format!("{error:#}"))
    };
    assert_eq!(
        refused(512 * MIB, &[file("a", 500 * MIB), file("b", 12 * MIB)]),
        (
            Code::DiskTooSmall,
            "a file of 12582912 bytes does not fit the EFI system partition: 11513856 bytes are free of 535805952"
                .to_owned()
        )
    );
    assert_eq!(
        refused(256 * MIB, &[file("a", 1)]),
        (
            Code::DiskTooSmall,
            "a FAT32 file system of 268435456 bytes has 65404 clusters of 4096 bytes, not 65525 to 268435445"
                .to_owned()
        )
    );
    let text = |files: &[File]| refused(512 * MIB, files).1;
    assert_eq!(text(&[]), "laying out a FAT without files");
    assert_eq!(text(&[file("a", 1 << 32)]), r#"laying out "a": 4294967296 bytes are more than 4 GiB"#);
    assert_eq!(text(&[file("a/b", 1), file("A", 1)]), r#"laying out "A": there is a "A" already"#);
    assert_eq!(text(&[file("a", 1), file("A/b", 1)]), r#"laying out "A/b": "A" is a file already"#);
    assert_eq!(text(&[file("../b", 1)]), r#"laying out "../b": ".." is no name that a FAT file system can hold"#);
    assert_eq!(text(&[file("a//b", 1)]), r#"laying out "a//b": "" is no name that a FAT file system can hold"#);
    assert_eq!(
        text(&[file("loader.conf", 1), file("loader~1.con", 1)]),
        r#"laying out "loader~1.con": "loader~1.con" is the short name of another file"#
    );
    let long = "x".repeat(250);
    assert_eq!(text(&[file(&long, 1)]), format!("laying out {long:?}: its directory entry does not fit one sector"));
    let error = Layout::new(512 * MIB, 1024, 1, "ESP", &[file("a", 1)]).unwrap_err().to_string();
    assert_eq!(error, "laying out a FAT for sectors of 1024 bytes, not 512 or 4096");
}

fn any_files() -> impl Strategy<Value = Vec<File>> {
    let name = "[a-zA-Z0-9_+~.^-]{0,30}[a-zA-Z0-9]";
    let path = proptest::collection::vec(name, 1..4).prop_map(|parts| parts.join("/"));
    // Few top directories, so that some fill more than one sector and one cluster.
    let path = (0..3_u8, path).prop_map(|(top, rest)| format!("Top Directory {top}/{rest}"));
    let size = prop_oneof![0..5_u64, 4090..4100_u64, 0..300_000_u64];
    proptest::collection::vec((path, size).prop_map(|(path, size)| File { path, size }), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_files_are_clean_and_read_back(files in any_files(), sector in prop_oneof![Just(512_u32), Just(4096)],
                                         size in 260 * MIB..600 * MIB) {
        let layout = Layout::new(size, sector, 7, "ANY", &files);
        // Names that differ in case only, or a file where a directory must be: refused, which its own test covers.
        prop_assume!(layout.is_ok());
        let layout = layout.unwrap();
        let mut ends = layout.boot.data_offset();
        for extent in layout.extents().iter().filter(|extent| extent.size > 0) {
            prop_assert_eq!(extent.offset % CLUSTER, 0);
            prop_assert!(extent.offset >= ends);
            ends = extent.offset + extent.size.next_multiple_of(CLUSTER);
            prop_assert!(ends <= size);
        }
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("any");
        write(&layout, &image, size, &ALL);
        let (code, text) = fsck(&image);
        prop_assert_eq!(code, 0, "{}", text);
        prop_assert_eq!(read_with_mtools(&image), expected(&files));
    }
}
