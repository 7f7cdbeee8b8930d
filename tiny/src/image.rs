//! Makes the tiny target: root image, hash tree and UKI.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use metalstrap_initrd::cpio::Archive;
use metalstrap_initrd::image::compress;
use metalstrap_initrd::modules::Selection;
use metalstrap_initrd::uki::Uki;
use metalstrap_initrd::{BootTools, Kernel};
use metalstrap_release::digest::Digest;
use metalstrap_release::verity::{self, BLOCK, BLOCK_SIZE, Block};
use uuid::Uuid;

use crate::machine::{MODULES, PROBE};

/// Disks of test machines: NVMe is built into the cloud kernel.
const DRIVERS: [&str; 4] = ["virtio_blk", "virtio_scsi", "sd_mod", "ahci"];
/// What a probe may want to see.
const FOR_A_PROBE: &str = "efivarfs";

/// What a tiny target is made of.
#[derive(Debug, Clone)]
pub struct TinyOptions {
    /// The kernel and its modules.
    pub kernel: Kernel,
    /// The static `metalstrap-tiny-init`.
    pub init: PathBuf,
    /// ukify and the stub.
    pub tools: BootTools,
    /// MiB of the root image.
    pub mebibytes: u64,
    /// Images of different seeds differ in every block that is not zero.
    pub seed: u64,
    /// Goes behind the standard kernel command line.
    pub cmdline_extra: String,
    /// Further files of the initrd (path, mode, bytes). One at [`PROBE`] is run before the report.
    pub extra_files: Vec<(String, u32, Vec<u8>)>,
    /// The directory that `root.raw`, `root.verity.raw` and `tiny.efi` are written to.
    pub out: PathBuf,
}

/// What was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tiny {
    /// Root hash of the image.
    pub root_hash: Digest,
    /// Salt of its hash tree.
    pub salt: Vec<u8>,
    /// Bytes of the UKI.
    pub uki: u64,
}

/// Makes the tiny target. The same options give the same bytes.
///
/// # Errors
///
/// A part that cannot be read or written, or ukify's words.
pub fn tiny(options: &TinyOptions) -> Result<Tiny> {
    let out = |name: &str| options.out.join(name);
    std::fs::create_dir_all(&options.out).with_context(|| format!("making {}", options.out.display()))?;
    let blocks = options.mebibytes * (1 << 20) / BLOCK;
    let salt = Digest::of(format!("salt of tiny target {}", options.seed).as_bytes()).0.to_vec();
    root_image(&out("root.raw"), blocks, options.seed)?;
    let root_hash = hash_tree(&out("root.raw"), &out("root.verity.raw"), blocks, &salt)?;
    let initrd = out("tiny.initrd");
    std::fs::write(&initrd, compress(&initrd_archive(options)?.to_bytes())?)
        .with_context(|| format!("writing {}", initrd.display()))?;
    // no_timer_check: without KVM on a busy host Linux now and then takes its timer for broken, and panics.
    let cmdline = format!("roothash={root_hash} gpt console=ttyS0 panic=30 no_timer_check {}", options.cmdline_extra);
    let uki = Uki {
        linux: &options.kernel.vmlinuz,
        initrd: &initrd,
        cmdline: cmdline.trim(),
        uname: &options.kernel.version,
        os_release: &format!("ID=metalstrap-tiny\nNAME=\"metalstrap tiny target\"\nVERSION_ID={}\n", options.seed),
    };
    options.tools.assemble(&uki, &out("tiny.efi"))?;
    let uki = std::fs::metadata(out("tiny.efi")).context("reading the UKI made")?.len();
    Ok(Tiny { root_hash, salt, uki })
}

fn hash_tree(image: &Path, tree: &Path, blocks: u64, salt: &[u8]) -> Result<Digest> {
    let making = || format!("making the hash tree {}", tree.display());
    let mut data = File::open(image).with_context(making)?;
    let mut out = BufWriter::new(File::create(tree).with_context(making)?);
    let uuid = salt.first_chunk().map_or(Uuid::nil(), |bytes| Uuid::from_bytes(*bytes));
    let root_hash = verity::build(&mut data, blocks, salt, uuid, &mut out).with_context(making)?;
    out.flush().with_context(making)?;
    Ok(root_hash)
}

fn initrd_archive(options: &TinyOptions) -> Result<Archive> {
    let mut archive = Archive::new();
    for path in ["dev", "proc", "sys"] {
        archive.directory(path, 0o755)?;
    }
    archive.character_device("dev/console", 0o600, 5, 1)?;
    let mut init = Vec::new();
    File::open(&options.init)
        .and_then(|mut file| file.read_to_end(&mut init))
        .with_context(|| format!("reading {}", options.init.display()))?;
    if init.is_empty() {
        bail!("{} is empty", options.init.display());
    }
    archive.file("init", 0o755, init)?;
    for (path, mode, bytes) in &options.extra_files {
        archive.file(path, *mode, bytes.clone())?;
    }
    let probes = options.extra_files.iter().any(|(path, ..)| path == PROBE.trim_start_matches('/'));
    let drivers: Vec<&str> = DRIVERS.into_iter().chain(probes.then_some(FOR_A_PROBE)).collect();
    let selection = Selection::named(&options.kernel, &drivers)?;
    selection.put(&options.kernel, &mut archive)?;
    let version = &options.kernel.version;
    let list: String = selection.load_order().iter().map(|file| format!("/lib/modules/{version}/{file}\n")).collect();
    archive.file(MODULES.trim_start_matches('/'), 0o644, list.into_bytes())?;
    Ok(archive)
}

/// A root image of `blocks` blocks: runs of zero blocks, of text that compresses and of noise that does not.
fn root_image(path: &Path, blocks: u64, seed: u64) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    let mut out = BufWriter::new(File::create(path).with_context(writing)?);
    for index in 0..blocks {
        out.write_all(&root_block(index, seed)).with_context(writing)?;
    }
    out.flush().with_context(writing)
}

/// Runs of 16 blocks (64 KiB): of each four runs one is zero, one is text, two are noise.
fn root_block(index: u64, seed: u64) -> Block {
    let mut block = [0; BLOCK_SIZE];
    match index / 16 % 4 {
        3 => {}
        1 => {
            let line = format!("tiny target {seed}, block {index}. ");
            block.iter_mut().zip(line.bytes().cycle()).for_each(|(byte, text)| *byte = text);
        }
        _ => {
            let (chunks, _) = block.as_chunks_mut::<32>();
            for (number, chunk) in (0u64..).zip(chunks) {
                *chunk = Digest::of(&[seed.to_le_bytes(), index.to_le_bytes(), number.to_le_bytes()].concat()).0;
            }
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_image_never_changes_and_has_zero_blocks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.raw");
        root_image(&path, 256, 1).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len(), 1 << 20);
        assert_eq!(bytes.chunks(4096).filter(|block| block.iter().all(|byte| *byte == 0)).count(), 64);
        assert_eq!(Digest::of(&bytes).to_string(), "4c488c4833d35b2b28745878b6a75ccc88b579b946e70f0569bf9bbc9c459a95");
    }

    #[test]
    fn veritysetup_agrees_with_the_tree() {
        let dir = tempfile::tempdir().unwrap();
        let (image, tree) = (dir.path().join("root.raw"), dir.path().join("root.verity.raw"));
        root_image(&image, 1024, 7).unwrap();
        let root_hash = hash_tree(&image, &tree, 1024, &[9; 32]).unwrap();
        let mut veritysetup = std::process::Command::new("/usr/sbin/veritysetup");
        let status = veritysetup.arg("verify").args([&image, &tree]).arg(root_hash.to_string()).status().unwrap();
        assert!(status.success());
    }
}
