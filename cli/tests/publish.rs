//! `metalstrap publish` as an operator runs it, on an image whose hash tree `veritysetup` made.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy sees no test in the helpers of an integration test"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::Manifest;
use serde_json::Value;
use tempfile::TempDir;

/// Blocks of the root image: two levels of tree.
const BLOCKS: usize = 300;

/// A PE32+ file with these sections, which is all of a UKI that publishing looks at.
fn pe(sections: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = vec![0; 0x400];
    let mut put = |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
    put(0, b"MZ");
    put(0x3c, &[0x80, 0, 0, 0]);
    put(0x80, b"PE\0\0\x64\x86");
    put(0x86, &u16::try_from(sections.len()).unwrap().to_le_bytes());
    put(0x94, &112_u16.to_le_bytes());
    put(0x98, &[0x0b, 0x02]);
    for (index, (name, content)) in sections.iter().enumerate() {
        let header = 0x108 + index * 40;
        let start = u32::try_from(bytes.len()).unwrap();
        let size = u32::try_from(content.len()).unwrap();
        let numbers = [size, 0, size, start].map(u32::to_le_bytes).concat();
        bytes[header..header + name.len()].copy_from_slice(name.as_bytes());
        bytes[header + 8..header + 24].copy_from_slice(&numbers);
        bytes.extend_from_slice(content);
    }
    bytes
}

/// The first bytes of a kernel that takes 2047 bytes of command line, and some more.
fn kernel() -> Vec<u8> {
    let mut kernel = vec![0x90; 5000];
    kernel[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\x6aHdrS");
    kernel[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    kernel[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
    kernel
}

struct Inputs {
    directory: TempDir,
    root_hash: String,
}

impl Inputs {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let root: Vec<u8> = (0..BLOCKS * 512).flat_map(|word| (word as u64 / 100).to_le_bytes()).collect();
        fs::write(path("root"), root).unwrap();
        let output = Command::new("veritysetup")
            .args(["format", "--data-block-size=4096", "--hash-block-size=4096"])
            .args([path("root"), path("verity")])
            .output()
            .expect("veritysetup, of Debian's package cryptsetup-bin");
        let text = String::from_utf8(output.stdout).unwrap();
        let root_hash = text.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim().to_owned();
        fs::write(path("loader"), pe(&[(".text", vec![1; 100])])).unwrap();
        let inputs = Self { directory, root_hash };
        inputs.write_uki(&format!("quiet gpt roothash={}", inputs.root_hash));
        inputs
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write_uki(&self, cmdline: &str) {
        let sections = [(".cmdline", format!("{cmdline}\n\0").into_bytes()), (".linux", kernel())];
        fs::write(self.path("uki"), pe(&sections)).unwrap();
    }

    fn flip(&self, name: &str, byte: usize) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        bytes[byte] ^= 1;
        fs::write(self.path(name), bytes).unwrap();
    }

    fn publish(&self, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_metalstrap"));
        command.args(["publish", "--name", "os", "--version", "1", "--level", "3"]).args(more);
        for name in ["root", "verity", "uki", "loader", "repository"] {
            command.arg(format!("--{name}")).arg(self.path(name));
        }
        command.output().unwrap()
    }

    /// What publishing says when it refuses; it must leave no manifest.
    fn refusal(&self, more: &[&str]) -> String {
        let output = self.publish(more);
        assert!(!output.status.success());
        assert_eq!(output.stdout, b"");
        assert_eq!(files(&self.path("repository/targets")), Vec::<String>::new());
        let text = String::from_utf8(output.stderr).unwrap().replace(self.directory.path().to_str().unwrap(), "D");
        text.lines().last().unwrap_or_default().to_owned()
    }
}

/// Names in a directory, sorted; none where there is no directory.
fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every file of the repository under its path.
fn contents(repository: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |part: &str| {
        let directory = repository.join(part);
        files(&directory).into_iter().map(move |name| (name.clone(), fs::read(directory.join(name)).unwrap()))
    };
    read("payloads").chain(read("targets").collect::<Vec<_>>()).collect()
}

#[test]
fn a_release_is_published_whole_and_the_same_again() {
    let inputs = Inputs::new();
    let output = inputs.publish(&[]);
    let messages = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{messages}");
    assert!(!messages.contains("warning"), "{messages}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let repository = inputs.path("repository");
    let text = fs::read(repository.join(result["manifest"].as_str().unwrap())).unwrap();
    assert_eq!(result["sha256"], Digest::of(&text).to_string());
    assert_eq!(result["manifest"], format!("targets/{}.os_1.json", Digest::of(&text)));
    assert_eq!(result["bytes"]["root"]["content"], BLOCKS * 4096);
    let manifest = Manifest::parse(&text).unwrap();
    assert_eq!(manifest.root().unwrap().root_hash.to_string(), inputs.root_hash);
    assert_eq!(manifest.boot.cmdline, format!("quiet gpt roothash={}", inputs.root_hash));
    assert_eq!(manifest.boot.cmdline_limit, 2047);
    assert_eq!(manifest.boot.uki.salt.0, Digest::of(b"os").0);
    let layout = &manifest.layout;
    assert_eq!((layout.esp_size, layout.root_size, layout.root_verity_size), (512 << 20, 256 << 20, 3 << 20));

    let first = contents(&repository);
    assert_eq!(first.len(), 7, "six payloads and a manifest, and no temporary file");
    for (name, bytes) in &first {
        assert_eq!(name.get(..64), Some(Digest::of(bytes).to_string().as_str()), "{name}");
    }
    let data = repository.join(format!("payloads/{}.zst", manifest.root().unwrap().data.sha256));
    let output = Command::new("zstd").args(["-d", "-q", "-c"]).arg(data).output().expect("zstd");
    assert!(output.stdout == fs::read(inputs.path("root")).unwrap());

    assert!(inputs.publish(&["--threads", "3"]).status.success());
    assert!(contents(&repository) == first, "publishing again changes nothing");
}

#[test]
fn files_may_be_longer_than_the_image_as_partitions_are() {
    let inputs = Inputs::new();
    assert!(inputs.publish(&[]).status.success());
    let first = contents(&inputs.path("repository"));
    for name in ["root", "verity"] {
        let longer = [fs::read(inputs.path(name)).unwrap(), vec![7; 8192]].concat();
        fs::write(inputs.path(name), longer).unwrap();
    }
    assert!(inputs.publish(&[]).status.success());
    assert!(contents(&inputs.path("repository")) == first);
}

#[test]
fn a_changed_root_image_is_refused() {
    let inputs = Inputs::new();
    inputs.flip("root", 299 * 4096 + 5);
    let text = inputs.refusal(&[]);
    let start = "metalstrap: publishing the root image: reading the content: block 299 has digest ";
    assert!(text.starts_with(start) && text.contains(", but the hash tree says "), "{text}");
    let payloads = files(&inputs.path("repository/payloads"));
    assert!(payloads.iter().all(|name| name.ends_with(".zst")), "{payloads:?}");
}

#[test]
fn a_hash_tree_that_is_not_of_the_root_hash_is_refused() {
    let inputs = Inputs::new();
    inputs.flip("verity", 2 * 4096);
    let text = inputs.refusal(&[]);
    let start = "metalstrap: checking the hash tree D/verity against the root hash of the UKI: \
                 hash tree block 2 has digest ";
    assert!(text.starts_with(start) && text.contains(", but the block above says "), "{text}");

    let other = "00".repeat(32);
    inputs.write_uki(&format!("gpt roothash={other}"));
    let text = inputs.refusal(&[]);
    assert!(text.ends_with(&format!(", but the root hash says {other}")), "{text}");
}

#[test]
fn a_uki_that_does_not_fit_is_refused() {
    let inputs = Inputs::new();
    let (other, root_hash) = ("00".repeat(32), inputs.root_hash.clone());
    assert_eq!(
        inputs.refusal(&["--root-hash", &other]),
        format!("metalstrap: the UKI's command line names root hash {root_hash}, not {other}")
    );
    inputs.write_uki("quiet gpt");
    assert_eq!(
        inputs.refusal(&[]),
        "metalstrap: reading the UKI D/uki: its command line has no roothash=, so it would not start from a verified \
         root"
    );
    inputs.write_uki(&format!("{} roothash={root_hash}", "a".repeat(2000)));
    assert_eq!(
        inputs.refusal(&[]),
        "metalstrap: checking the manifest: the manifest's boot.cmdline has 2074 bytes, but the kernel takes 2047"
    );
    fs::write(inputs.path("uki"), b"no UKI").unwrap();
    assert_eq!(
        inputs.refusal(&[]),
        "metalstrap: reading the UKI D/uki: the UKI is no PE file: it does not start with MZ"
    );
}

#[test]
fn a_kernel_that_ignores_the_backup_table_is_warned_of() {
    let inputs = Inputs::new();
    inputs.write_uki(&format!("roothash={}", inputs.root_hash));
    let output = inputs.publish(&[]);
    assert!(output.status.success());
    let messages = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        messages.lines().next(),
        Some(
            "warning: the UKI's command line lacks `gpt`: its kernel will not look at the backup partition table when \
             the primary one is damaged"
        )
    );
}

#[test]
fn a_name_or_layout_that_does_not_fit_is_refused() {
    let inputs = Inputs::new();
    assert_eq!(
        inputs.refusal(&["--layout-root-size", "1M"]),
        "metalstrap: checking the manifest: the manifest's layout.root_size is 1048576, not a multiple of 1 MiB from \
         1228800 to 17592186044416"
    );
    let mut command = Command::new(env!("CARGO_BIN_EXE_metalstrap"));
    command.args(["publish", "--name", "My OS", "--version", "1"]);
    for name in ["root", "verity", "uki", "loader", "repository"] {
        command.arg(format!("--{name}")).arg(inputs.path(name));
    }
    assert_eq!(
        String::from_utf8(command.output().unwrap().stderr).unwrap(),
        "metalstrap: the manifest's name \"My OS\" is not 1 to 16 of a-z, 0-9 and '-'\n"
    );
}
