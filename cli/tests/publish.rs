//! `metalstrap publish` as an operator runs it, on an image whose hash tree `veritysetup` made.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy sees no test in the helpers of an integration test"
)]

use std::fs;
use std::process::{Command, Output};

use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::Manifest;
use serde_json::Value;

mod support;
#[path = "publish/uki.rs"]
mod uki;

use support::{BLOCKS, Inputs, contents, files, veritysetup};

/// Runs the command.
fn metalstrap(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_metalstrap")).args(arguments).output().unwrap()
}

/// What an operator does with the inputs.
trait Publish {
    fn publish(&self, more: &[&str]) -> Output;
    fn refusal(&self, more: &[&str]) -> String;
    fn last_line(&self, output: &Output) -> String;
}

impl Publish for Inputs {
    fn publish(&self, more: &[&str]) -> Output {
        let keys = self.path("keys");
        if !keys.exists() {
            assert!(metalstrap(&["keygen", "--keys", keys.to_str().unwrap()]).status.success());
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_metalstrap"));
        command.args(["publish", "--name", "os"]).args(more);
        for (option, value) in [("--version", "1"), ("--level", "3")] {
            if !more.contains(&option) {
                command.args([option, value]);
            }
        }
        for name in ["root", "verity", "uki", "loader", "repository", "keys"] {
            command.arg(format!("--{name}")).arg(self.path(name));
        }
        command.output().unwrap()
    }

    /// What publishing says when it refuses; it must leave no manifest.
    fn refusal(&self, more: &[&str]) -> String {
        let output = self.publish(more);
        assert_eq!(files(&self.path("repository/targets")), Vec::<String>::new());
        self.last_line(&output)
    }

    fn last_line(&self, output: &Output) -> String {
        assert!(!output.status.success());
        assert_eq!(output.stdout, b"");
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        let text = text.replace(self.directory.path().to_str().unwrap(), "D");
        text.lines().last().unwrap_or_default().to_owned()
    }
}

#[test]
fn a_release_is_published_whole_and_the_same_again() {
    let inputs = Inputs::new();
    inputs.write_uki_of(&format!("quiet gpt roothash={}", inputs.root_hash), "NAME=Test\nIMAGE_VERSION=1\n");
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
    assert_eq!(result["published"], true);
    assert_eq!(result["metadata"]["versions"]["timestamp"], 1);
    let metadata = ["1.root.json", "1.snapshot.json", "1.targets.json", "timestamp.json"];
    assert_eq!(files(&repository.join("metadata")), metadata);
    let manifest = Manifest::parse(&text).unwrap();
    assert_eq!(manifest.root().unwrap().root_hash.to_string(), inputs.root_hash);
    assert_eq!(manifest.boot.cmdline, format!("quiet gpt roothash={}", inputs.root_hash));
    assert_eq!(manifest.boot.cmdline_limit, 2047);
    assert_eq!(manifest.boot.uki.salt.0, Digest::of(b"os").0);
    let layout = &manifest.layout;
    assert_eq!((layout.esp_size, layout.root_size, layout.root_verity_size), (512 << 20, 256 << 20, 3 << 20));

    let first = contents(&repository);
    let payloads = manifest.payloads().len();
    assert_eq!((payloads, manifest.root().unwrap().fine.is_some()), (7, true));
    assert_eq!(first.len(), payloads + 5, "payloads, a manifest, four of metadata, and no temporary file");
    for (name, bytes) in &first[..=payloads] {
        assert_eq!(name.get(..64), Some(Digest::of(bytes).to_string().as_str()), "{name}");
    }
    let data = repository.join(format!("payloads/{}.zst", manifest.root().unwrap().data.sha256));
    let output = Command::new("zstd").args(["-d", "-q", "-c"]).arg(data).output().expect("zstd");
    assert!(output.stdout == fs::read(inputs.path("root")).unwrap());

    for options in [["--threads", "3"], ["--level", "5"]] {
        let output = inputs.publish(&options);
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["published"], false);
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "os 1 is already published\n");
        assert!(contents(&repository) == first, "publishing again changes nothing");
    }
}

#[test]
fn a_published_version_never_changes() {
    let inputs = Inputs::new();
    assert!(inputs.publish(&[]).status.success());
    let repository = inputs.path("repository");
    let first = contents(&repository);
    let refusal = |what: &str| {
        format!(
            "metalstrap: os 1 is published already, with another {what}: a published version never changes; publish \
             under another --version"
        )
    };
    let output = inputs.publish(&["--layout-root-size", "512M"]);
    assert_eq!(inputs.last_line(&output), refusal("layout of the disk"));
    inputs.write_uki(&format!("verbose gpt roothash={}", inputs.root_hash));
    assert_eq!(inputs.last_line(&inputs.publish(&[])), refusal("UKI"));
    inputs.flip("root", 5);
    let root_hash = veritysetup(&inputs.path("root"), &inputs.path("verity"), &[]);
    inputs.write_uki(&format!("gpt roothash={root_hash}"));
    inputs.flip("loader", 0x300);
    let all = refusal("root file system and another UKI and another boot loader");
    assert_eq!(inputs.last_line(&inputs.publish(&[])), all);
    assert!(contents(&repository) == first, "nothing on the disk has changed");

    assert!(inputs.publish(&["--version", "2"]).status.success());
    let second = contents(&repository);
    assert!(first.iter().all(|file| file.0 == "timestamp.json" || second.contains(file)));
}

#[test]
fn what_got_lost_is_published_again() {
    let inputs = Inputs::new();
    assert!(inputs.publish(&[]).status.success());
    let repository = inputs.path("repository");
    let first = contents(&repository);
    let payloads = repository.join("payloads");
    let lost = payloads.join(&files(&payloads)[0]);
    fs::remove_file(&lost).unwrap();
    fs::write(payloads.join(".new-left"), "of a killed run").unwrap();
    let output = inputs.publish(&[]);
    assert!(output.status.success(), "{output:?}");
    assert!(contents(&repository) == first);
    let mut damaged = fs::read(&lost).unwrap();
    damaged[9] ^= 1;
    fs::write(&lost, damaged).unwrap();
    let output = inputs.publish(&[]);
    assert!(output.status.success(), "{output:?}");
    assert!(contents(&repository) == first, "a payload of the same size with other bytes is made again");
    let manifest = first.iter().find(|(name, _)| name.ends_with(".os_1.json")).unwrap();
    fs::write(repository.join("targets").join(&manifest.0), "{}").unwrap();
    let output = inputs.publish(&[]);
    assert!(output.status.success(), "{output:?}");
    assert!(contents(&repository) == first);
    fs::remove_file(&lost).unwrap();
    assert_eq!(
        inputs.last_line(&inputs.publish(&["--level", "19", "--frame-size", "4K"])),
        "metalstrap: os_1.json is published already, with other content: a published version never changes"
    );
}

#[test]
fn only_the_keys_of_the_repository_publish() {
    let inputs = Inputs::new();
    assert!(inputs.publish(&[]).status.success());
    let first = contents(&inputs.path("repository"));
    fs::rename(inputs.path("keys/timestamp.pem"), inputs.path("timestamp")).unwrap();
    assert_eq!(
        inputs.last_line(&inputs.publish(&["--version", "2"])),
        "metalstrap: D/keys/timestamp.pem is missing: without this key, timestamp metadata cannot be signed"
    );
    fs::copy(inputs.path("keys/targets.pem"), inputs.path("keys/timestamp.pem")).unwrap();
    assert_eq!(
        inputs.last_line(&inputs.publish(&["--version", "2"])),
        "metalstrap: signing the repository's metadata: looking for the key D/keys/timestamp.pem: the role timestamp \
         must be signed by 1 of its keys, and 0 of them are at hand"
    );
    fs::rename(inputs.path("keys"), inputs.path("own")).unwrap();
    assert_eq!(
        inputs.last_line(&inputs.publish(&["--version", "2"])),
        "metalstrap: reading the metadata of D/repository: metadata/timestamp.json has 0 valid signatures by keys that \
         are trusted with it, but needs 1"
    );
    let now = contents(&inputs.path("repository"));
    let metadata = |files: &[(String, Vec<u8>)]| {
        files.iter().filter(|(name, _)| !name.contains("os_2")).cloned().collect::<Vec<_>>()
    };
    assert!(metadata(&now).iter().all(|file| first.contains(file) || file.0.ends_with(".zst")));
}

#[test]
fn a_uki_that_systemd_boot_would_take_for_another_version_is_refused() {
    let inputs = Inputs::new();
    let says = |os_release: &str| {
        inputs.write_uki_of(&format!("quiet gpt roothash={}", inputs.root_hash), os_release);
        inputs.refusal(&[])
    };
    assert_eq!(
        says("NAME=Test\nIMAGE_VERSION=2\n"),
        "metalstrap: the UKI's .osrel says IMAGE_VERSION=2, not 1: systemd-boot would put it in order as that"
    );
    assert_eq!(
        says("VERSION_ID=1\n"),
        "metalstrap: the UKI's .osrel has no PRETTY_NAME, IMAGE_ID, NAME or ID: systemd-boot would not list it"
    );
    inputs.write_uki_of(&format!("quiet gpt roothash={}", inputs.root_hash), "ID=test\nVERSION_ID=13\n");
    let output = inputs.publish(&[]);
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stderr).lines().next().unwrap(),
        "warning: the UKI's .osrel has no IMAGE_VERSION: systemd-boot puts it in order by version 13 before it looks at names"
    );
}

#[test]
fn two_publishers_do_not_meet() {
    let inputs = Inputs::new();
    assert!(inputs.publish(&[]).status.success());
    let lock = fs::File::open(inputs.path("repository/.lock")).unwrap();
    lock.try_lock().unwrap();
    assert_eq!(
        inputs.last_line(&inputs.publish(&[])),
        "metalstrap: D/repository is being written to by another metalstrap: wait until it is done"
    );
    drop(lock);
    assert!(inputs.publish(&[]).status.success());
}

#[test]
fn an_image_of_another_builder_is_taken() {
    let inputs = Inputs::new();
    let image = inputs.path("root");
    fs::remove_file(&image).unwrap();
    let status = Command::new("mkfs.ext4").args(["-q", "-b", "4096"]).arg(&image).arg("8M").status();
    assert!(status.expect("mkfs.ext4, of Debian's package e2fsprogs").success());
    for salt in ["-", "00", &"5a".repeat(256)] {
        let root_hash = veritysetup(&image, &inputs.path("verity"), &[&format!("--salt={salt}")]);
        inputs.write_uki(&format!("gpt roothash={root_hash}"));
        fs::remove_dir_all(inputs.path("repository")).unwrap_or_default();
        let output = inputs.publish(&[]);
        assert!(output.status.success(), "{output:?}");
        let result: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(result["bytes"]["root"]["content"], 8 << 20);
        let manifest = fs::read(inputs.path("repository").join(result["manifest"].as_str().unwrap())).unwrap();
        let root = Manifest::parse(&manifest).unwrap().root().unwrap().clone();
        assert_eq!(root.root_hash.to_string(), root_hash);
        let found: String = root.salt.0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, salt.trim_matches('-'));
    }
}

#[test]
fn hash_trees_of_another_form_are_refused_by_the_field() {
    let inputs = Inputs::new();
    for (option, expected) in [
        ("--hash=sha512", "algorithm sha512, not sha256"),
        ("--format=0", "hash type 0, not 1"),
        ("--data-block-size=1024", "data block size 1024, not 4096"),
        ("--hash-block-size=1024", "hash block size 1024, not 4096"),
        ("--no-superblock", ""),
    ] {
        fs::remove_file(inputs.path("verity")).unwrap();
        let root_hash = veritysetup(&inputs.path("root"), &inputs.path("verity"), &[option]);
        inputs.write_uki(&format!("gpt roothash={}", root_hash.get(..64).unwrap()));
        let start = "metalstrap: checking the hash tree D/verity: the hash tree's superblock has ";
        let text = inputs.refusal(&[]);
        if expected.is_empty() {
            assert!(text.starts_with(&format!("{start}signature ")), "{text}");
            assert!(text.ends_with(", not 7665726974790000"), "{text}");
        } else {
            assert_eq!(text, format!("{start}{expected}"));
        }
    }
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
    inputs.write_uki_of(&format!("roothash={}", inputs.root_hash), "NAME=Test\nIMAGE_VERSION=1\n");
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
fn partitions_behind_the_slots_come_from_a_file() {
    let inputs = Inputs::new();
    let file = inputs.path("layout.json");
    let option = ["--layout", file.to_str().unwrap()];
    assert_eq!(
        inputs.refusal(&option),
        "metalstrap: reading the layout D/layout.json: No such file or directory (os error 2)"
    );
    fs::write(&file, r#"[{"type": "var", "label": "var", "size_min": 1000}]"#).unwrap();
    assert_eq!(
        inputs.refusal(&option),
        "metalstrap: reading the layout D/layout.json: the layout's list of partitions has a partition \"var\" whose size_min \
         is 1000, not a multiple of 4096 from 4096 to 9007199254740992"
    );
    fs::write(&file, r#"[{"type": "var", "label": "os_1"}]"#).unwrap();
    assert_eq!(
        inputs.refusal(&option),
        "metalstrap: checking the manifest: the manifest's layout.partitions has another partition with the label \"os_1\""
    );
    fs::write(&file, r#"[{"type": "var", "label": "var", "size_min": 1048576, "keep": true}]"#).unwrap();
    let output = inputs.publish(&option);
    assert!(output.status.success(), "{output:?}");
    let result: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = fs::read(inputs.path("repository").join(result["manifest"].as_str().unwrap())).unwrap();
    let layout = Manifest::parse(&text).unwrap().layout;
    let partition = &layout.partitions[0];
    assert_eq!((layout.free_size, layout.partitions.len()), (0, 1));
    assert_eq!((partition.label.as_str(), partition.size_min, partition.keep), ("var", Some(1 << 20), true));
    assert_eq!(
        inputs.last_line(&inputs.publish(&[])),
        "metalstrap: os 1 is published already, with another layout of the disk: a published version never changes; \
         publish under another --version"
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
    for name in ["root", "verity", "uki", "loader", "repository", "keys"] {
        command.arg(format!("--{name}")).arg(inputs.path(name));
    }
    assert_eq!(
        String::from_utf8(command.output().unwrap().stderr).unwrap(),
        "metalstrap: the manifest's name \"My OS\" is not 1 to 16 of a-z, 0-9 and '-'\n"
    );
}
