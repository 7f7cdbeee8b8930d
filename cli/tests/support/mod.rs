//! What is published in tests: a root image, its hash tree, a UKI that names it, a boot loader.
#![allow(dead_code, reason = "not every test needs all of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Blocks of the root image: two levels of tree.
pub const BLOCKS: usize = 300;

/// A PE32+ file with these sections, which is all of a UKI that publishing looks at.
pub fn pe(sections: &[(&str, Vec<u8>)]) -> Vec<u8> {
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
pub fn kernel() -> Vec<u8> {
    let mut kernel = vec![0x90; 5000];
    kernel[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\x6aHdrS");
    kernel[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    kernel[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
    kernel
}

/// A PE32+ file with these sections that can be signed, and that a kernel's boot header fits.
pub fn signable(sections: &[(&str, Vec<u8>)]) -> Vec<u8> {
    const ALIGNMENT: usize = 512;
    let mut bytes = vec![0; 0x400];
    let mut put = |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
    put(0, b"MZ");
    put(0x3c, &[0x80, 0, 0, 0]);
    put(0x80, b"PE\0\0\x64\x86");
    put(0x86, &u16::try_from(sections.len()).unwrap().to_le_bytes());
    // An optional header of 240 bytes; an executable image.
    put(0x94, &[240, 0, 0x22]);
    let optional = 0x98;
    put(optional, &[0x0b, 0x02]);
    // Alignment in memory and in the file, bytes of all headers, EFI application, 16 data directories.
    put(optional + 32, &[0, 0x10]);
    put(optional + 36, &[0, 0x02]);
    put(optional + 60, &[0, 0x04]);
    put(optional + 68, &[10]);
    put(optional + 108, &[16]);
    let mut contents = Vec::new();
    for (index, (name, content)) in sections.iter().enumerate() {
        let header = 0x188 + index * 40;
        let start = u32::try_from(0x400 + contents.len()).unwrap();
        let size = u32::try_from(content.len()).unwrap();
        let address = 0x1000 * u32::try_from(index + 1).unwrap();
        contents.extend_from_slice(content);
        contents.resize(contents.len().next_multiple_of(ALIGNMENT), 0);
        let stored = u32::try_from(0x400 + contents.len()).unwrap() - start;
        put(header, name.as_bytes());
        put(header + 8, &[size, address, stored, start].map(u32::to_le_bytes).concat());
    }
    bytes.extend(contents);
    bytes
}

/// A kernel that takes 2047 bytes of command line, and can be signed.
pub fn signable_kernel() -> Vec<u8> {
    let mut kernel = signable(&[(".text", vec![0x90; 5000])]);
    kernel[0x1fe..0x206].copy_from_slice(b"\x55\xaa\xeb\x6aHdrS");
    kernel[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    kernel[0x238..0x23c].copy_from_slice(&2047_u32.to_le_bytes());
    kernel
}

/// Runs a program in a directory, to its good end; what it prints.
pub fn tool(directory: &Path, program: &str, line: &str) -> String {
    let output = Command::new(program).args(line.split(' ')).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{program} {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Files to publish, in a directory of their own.
pub struct Inputs {
    pub directory: TempDir,
    pub root_hash: String,
}

impl Inputs {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let root: Vec<u8> = (0..BLOCKS * 512).flat_map(|word| (word as u64 / 100).to_le_bytes()).collect();
        fs::write(path("root"), root).unwrap();
        let root_hash = veritysetup(&path("root"), &path("verity"), &[]);
        fs::write(path("loader"), pe(&[(".text", vec![1; 100])])).unwrap();
        let inputs = Self { directory, root_hash };
        inputs.write_uki(&format!("quiet gpt roothash={}", inputs.root_hash));
        inputs
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn write_uki(&self, cmdline: &str) {
        self.write_uki_of(cmdline, "NAME=Test\n");
    }

    pub fn write_uki_of(&self, cmdline: &str, os_release: &str) {
        let cmdline = format!("{cmdline}\n\0").into_bytes();
        let sections = [(".osrel", os_release.into()), (".cmdline", cmdline), (".linux", kernel())];
        fs::write(self.path("uki"), pe(&sections)).unwrap();
    }

    pub fn flip(&self, name: &str, byte: usize) {
        let mut bytes = fs::read(self.path(name)).unwrap();
        bytes[byte] ^= 1;
        fs::write(self.path(name), bytes).unwrap();
    }
}

/// Names in a directory, sorted; none where there is no directory.
pub fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Every file of the repository under its path.
pub fn contents(repository: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |part: &str| {
        let directory = repository.join(part);
        files(&directory).into_iter().map(move |name| (name.clone(), fs::read(directory.join(name)).unwrap()))
    };
    ["payloads", "targets", "metadata"].into_iter().flat_map(read).collect()
}

/// Makes the hash tree of `root`, and returns its root hash.
pub fn veritysetup(root: &Path, verity: &Path, more: &[&str]) -> String {
    let output = Command::new("veritysetup")
        .args(["format", "--data-block-size=4096", "--hash-block-size=4096"])
        .args(more)
        .args([root, verity])
        .output()
        .expect("veritysetup, of Debian's package cryptsetup-bin");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().find_map(|line| line.strip_prefix("Root hash:")).unwrap().trim().to_owned()
}
