//! A UKI on the disk, checked and split in one pass.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, bail};
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::Boot;
use metalstrap_release::uki::{HEAD_BYTES, Section, Sections};
use metalstrap_release::verity::{BLOCK, BlockStore, Tree};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest as _, Sha256};

use crate::converge::each_piece;
use crate::disk::Region;

/// No command line is longer; the kernel takes 2 KiB.
const MOST_CMDLINE: u64 = 64 << 10;

/// Bytes of a kernel that say what kind of one it is.
const KERNEL_HEAD: u64 = 1024;

/// What is in a UKI.
#[derive(Debug)]
pub(super) struct Parts {
    /// `.linux`
    pub(super) kernel: File,
    /// `.ucode`, if there is one, then `.initrd`, then what comes behind: the order in which systemd-stub concatenates them.
    pub(super) initrd: File,
    /// SHA-256 of the whole UKI.
    pub(super) sha256: Digest,
}

/// Where a section's content goes.
struct Wanted<'a> {
    section: Section,
    into: &'a File,
    at: u64,
}

/// Reads the UKI once. Each byte that is used was checked in the buffer it is used from.
pub(super) fn split<S: BlockStore>(region: &Region, tree: &Tree<S>, boot: &Boot, behind: &[u8]) -> Result<Parts> {
    let memory = |name: &str| -> Result<File> {
        let file = memfd_create(name, MFdFlags::MFD_CLOEXEC).with_context(|| format!("making a memory file {name}"))?;
        Ok(file.into())
    };
    let (kernel, initrd, cmdline) = (memory("kernel")?, memory("initrd")?, memory("cmdline")?);
    let mut wanted = Vec::new();
    let mut hash = Sha256::new();
    each_piece(region, tree, boot.uki.size.div_ceil(BLOCK), |offset, piece| {
        if offset == 0 {
            let sections = Sections::parse(piece.get(..HEAD_BYTES).unwrap_or(piece))?;
            wanted = places(&sections, boot, &kernel, &initrd, &cmdline)?;
        }
        let rest = usize::try_from(boot.uki.size.saturating_sub(offset))?;
        hash.update(piece.get(..rest).unwrap_or(piece));
        wanted.iter().try_for_each(|wanted| wanted.take(offset, piece))
    })?;
    let sha256 = Digest(hash.finalize().into());
    if sha256 != boot.uki.sha256 {
        bail!("the UKI has SHA-256 {sha256}, but the manifest says {}", boot.uki.sha256);
    }
    check_cmdline(&cmdline, boot)?;
    append(&initrd, behind).context("adding the credentials to the initrd")?;
    Ok(Parts { kernel, initrd, sha256 })
}

/// Decides where each section goes and gives the memory files their sizes: what is not in the file reads as zeroes.
fn places<'a>(
    sections: &Sections,
    boot: &Boot,
    kernel: &'a File,
    initrd: &'a File,
    cmdline: &'a File,
) -> Result<Vec<Wanted<'a>>> {
    let (linux, main, line) =
        (sections.required(".linux")?, sections.required(".initrd")?, sections.required(".cmdline")?);
    if line.virtual_size > MOST_CMDLINE {
        bail!("the UKI's .cmdline has {} bytes, more than {MOST_CMDLINE}", line.virtual_size);
    }
    let mut wanted = vec![
        Wanted { section: linux.clone(), into: kernel, at: 0 },
        Wanted { section: line.clone(), into: cmdline, at: 0 },
    ];
    let mut end = 0;
    for section in sections.get(".ucode").into_iter().chain([main]) {
        wanted.push(Wanted { section: section.clone(), into: initrd, at: end });
        // The kernel looks for the next archive at a multiple of four bytes.
        end = (end + section.virtual_size).next_multiple_of(4);
    }
    for Wanted { section, into, at } in &wanted {
        let in_file = section.file_offset.checked_add(section.stored_size());
        if in_file.is_none_or(|end| end > boot.uki.size) {
            bail!("the UKI's section {} reaches behind the end of the file", section.name);
        }
        into.set_len(at + section.virtual_size).context("reserving memory")?;
    }
    Ok(wanted)
}

impl Wanted<'_> {
    /// Copies what `piece`, which lies at `offset` of the UKI, holds of the section.
    fn take(&self, offset: u64, piece: &[u8]) -> Result<()> {
        let start = self.section.file_offset.max(offset);
        let end = (self.section.file_offset + self.section.stored_size()).min(offset + piece.len() as u64);
        if start >= end {
            return Ok(());
        }
        let part = piece.get(usize::try_from(start - offset)?..usize::try_from(end - offset)?);
        let to = self.at + (start - self.section.file_offset);
        let copied =
            part.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()).and_then(|part| self.into.write_all_at(part, to));
        copied.with_context(|| format!("copying the UKI's section {} to memory", self.section.name))
    }
}

/// The first bytes of a kernel, or all of a shorter one.
pub(super) fn head(kernel: &File) -> Result<Vec<u8>> {
    let size = kernel.metadata().context("reading the kernel")?.len().min(KERNEL_HEAD);
    let mut head = vec![0; usize::try_from(size)?];
    kernel.read_exact_at(&mut head, 0).context("reading the kernel")?;
    Ok(head)
}

/// Puts an archive behind those that are in the memory file, where the kernel looks for it.
fn append(initrd: &File, archive: &[u8]) -> Result<()> {
    if archive.is_empty() {
        return Ok(());
    }
    let end = initrd.metadata()?.len().next_multiple_of(4);
    initrd.set_len(end)?;
    Ok(initrd.write_all_at(archive, end)?)
}

/// The command line that was planned with, and measured, is the UKI's.
fn check_cmdline(cmdline: &File, boot: &Boot) -> Result<()> {
    let mut bytes = vec![0; usize::try_from(cmdline.metadata().context("reading the UKI's command line")?.len())?];
    cmdline.read_exact_at(&mut bytes, 0).context("reading the UKI's command line")?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_end_matches(['\0', '\n']);
    if text != boot.cmdline {
        bail!("the UKI's command line is {text:?}, but the manifest says {:?}", boot.cmdline);
    }
    Ok(())
}
