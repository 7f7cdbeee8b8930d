//! A UKI on the disk, checked, split and hashed in one pass.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, Result, bail};
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::Boot;
use metalstrap_release::pcr::{Bank, Extension, Hasher, measured};
use metalstrap_release::uki::{HANDED, HEAD_BYTES, Section, Sections, UkiError, trim_cmdline};
use metalstrap_release::verity::{BLOCK, BlockStore, Tree};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sha2::{Digest as _, Sha256};

use crate::converge::each_piece;
use crate::disk::Region;

/// Bytes of a kernel that say what kind of one it is.
const KERNEL_HEAD: u64 = 1024;

/// What is in a UKI.
#[derive(Debug)]
pub struct Parts {
    /// `.linux`
    pub(super) kernel: File,
    /// `.ucode` and `.initrd`, where they are there, then what was put behind: the order in which systemd-stub concatenates them.
    pub(super) initrd: File,
    /// SHA-256 of the whole UKI.
    pub(super) sha256: Digest,
    /// What systemd-stub would extend PCR 11 with, in the banks that were asked for; or why that cannot be known.
    pub(super) extensions: Result<Vec<Extension>, UkiError>,
    /// The sections that are handed over as files, with their content.
    pub(super) handed: Vec<(&'static str, Vec<u8>)>,
}

/// Where a section's content goes.
#[derive(Debug)]
struct Wanted<'a> {
    section: Section,
    into: &'a File,
    at: u64,
}

/// The memory files that sections go to.
#[derive(Debug)]
struct Files {
    kernel: File,
    initrd: File,
    /// `.cmdline` and those that are handed over, one behind the other.
    small: File,
}

/// What was done when a memory file could not be had, or not grow: the disk is not to blame.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Holding(String);

/// A section that is measured, while it goes by.
#[derive(Debug)]
struct Hashed {
    name: &'static str,
    section: Section,
    hasher: Hasher,
}

/// Reads the UKI once, and hashes what is measured in `banks`. Each byte that is used was checked in the buffer it is used from.
pub(super) fn split<S: BlockStore>(region: &Region, tree: &Tree<S>, boot: &Boot, banks: &[Bank]) -> Result<Parts> {
    split_into(region, tree, boot, banks, |name| Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC)?.into()))
}

/// The same with the files that `memory` makes, each by its name.
pub(super) fn split_into<S: BlockStore>(
    region: &Region,
    tree: &Tree<S>,
    boot: &Boot,
    banks: &[Bank],
    memory: fn(&str) -> io::Result<File>,
) -> Result<Parts> {
    let memory = |name: &str| memory(name).with_context(|| Holding(format!("making a memory file {name}")));
    let files = Files { kernel: memory("kernel")?, initrd: memory("initrd")?, small: memory("small")? };
    let (mut wanted, mut hashed) = (Vec::new(), Ok(Vec::new()));
    let mut hash = Sha256::new();
    each_piece(region, tree, boot.uki.size.div_ceil(BLOCK), |offset, piece| {
        if offset == 0 {
            let sections = Sections::parse(piece.get(..HEAD_BYTES).unwrap_or(piece))?;
            sections.check_split(boot.uki.size)?;
            wanted = places(&sections, &files)?;
            hashed = to_hash(&sections, banks);
        }
        let rest = usize::try_from(boot.uki.size.saturating_sub(offset))?;
        hash.update(piece.get(..rest).unwrap_or(piece));
        hashed.iter_mut().flatten().try_for_each(|hashed| hashed.take(offset, piece))?;
        wanted.iter().try_for_each(|wanted| wanted.take(offset, piece))
    })?;
    let sha256 = Digest(hash.finalize().into());
    if sha256 != boot.uki.sha256 {
        bail!("the UKI has SHA-256 {sha256}, but the manifest says {}", boot.uki.sha256);
    }
    let mut handed = Vec::new();
    for wanted in &wanted {
        if wanted.section.name == ".cmdline" {
            check_cmdline(&wanted.content()?, boot)?;
        } else if let Some((name, _)) = HANDED.iter().find(|(name, _)| *name == wanted.section.name) {
            handed.push((*name, wanted.content()?));
        }
    }
    let extensions = match hashed {
        Ok(hashed) => Ok(hashed.into_iter().map(Hashed::finish).collect::<io::Result<Vec<_>>>()?.concat()),
        Err(error) => Err(error),
    };
    let Files { kernel, initrd, .. } = files;
    Ok(Parts { kernel, initrd, sha256, extensions, handed })
}

/// Decides where each section goes and gives the memory files their sizes: what is not in the file reads as zeroes.
fn places<'a>(sections: &Sections, files: &'a Files) -> Result<Vec<Wanted<'a>>> {
    let (linux, line) = (sections.required(".linux")?, sections.required(".cmdline")?);
    let initrds = [".ucode", ".initrd"].into_iter().filter_map(|name| sections.get(name));
    let handed = HANDED.iter().filter_map(|(name, _)| sections.get(name)).filter(|section| section.virtual_size > 0);
    let mut wanted = vec![Wanted { section: linux.clone(), into: &files.kernel, at: 0 }];
    wanted.extend(one_behind_the_other(&files.initrd, initrds));
    wanted.extend(one_behind_the_other(&files.small, std::iter::once(line).chain(handed)));
    for Wanted { section, into, at } in &wanted {
        let reserving = || Holding(format!("reserving memory for the UKI's section {}", section.name));
        into.set_len(at + section.virtual_size).with_context(reserving)?;
    }
    Ok(wanted)
}

/// In their order. The kernel looks for the next archive at a multiple of four bytes.
fn one_behind_the_other<'a, 'b>(into: &'a File, sections: impl Iterator<Item = &'b Section>) -> Vec<Wanted<'a>> {
    let mut end = 0;
    let place = |section: &Section| {
        let at = end;
        end = (end + section.virtual_size).next_multiple_of(4);
        Wanted { section: section.clone(), into, at }
    };
    sections.map(place).collect()
}

/// What is measured, or why that depends on the machine.
fn to_hash(sections: &Sections, banks: &[Bank]) -> Result<Vec<Hashed>, UkiError> {
    let hashed = |(name, section): (&'static str, &Section)| Hashed {
        name,
        section: section.clone(),
        hasher: Hasher::new(banks),
    };
    Ok(measured(sections)?.into_iter().map(hashed).collect())
}

/// What `piece`, which lies at `offset` of the UKI, holds of a section, with its place in it.
fn part<'a>(section: &Section, offset: u64, piece: &'a [u8]) -> Result<Option<(u64, &'a [u8])>> {
    let start = section.file_offset.max(offset);
    let end = (section.file_offset + section.stored_size()).min(offset + piece.len() as u64);
    if start >= end {
        return Ok(None);
    }
    let part = piece.get(usize::try_from(start - offset)?..usize::try_from(end - offset)?);
    let part = part.with_context(|| format!("the UKI ends within its section {}", section.name))?;
    Ok(Some((start - section.file_offset, part)))
}

impl Wanted<'_> {
    /// Copies what `piece` holds of the section.
    fn take(&self, offset: u64, piece: &[u8]) -> Result<()> {
        let Some((at, part)) = part(&self.section, offset, piece)? else { return Ok(()) };
        let copied = self.into.write_all_at(part, self.at + at);
        copied.with_context(|| Holding(format!("copying the UKI's section {} to memory", self.section.name)))
    }

    /// The content of one that is small.
    fn content(&self) -> Result<Vec<u8>> {
        let reading = || format!("reading the UKI's section {}", self.section.name);
        let mut bytes = vec![0; usize::try_from(self.section.virtual_size)?];
        self.into.read_exact_at(&mut bytes, self.at).with_context(reading)?;
        Ok(bytes)
    }
}

impl Hashed {
    /// Hashes what `piece` holds of the section. Pieces come in their order, without gaps.
    fn take(&mut self, offset: u64, piece: &[u8]) -> Result<()> {
        let Some((_, part)) = part(&self.section, offset, piece)? else { return Ok(()) };
        self.hasher.write_all(part).with_context(|| format!("hashing the UKI's section {}", self.section.name))
    }

    /// Adds the zeroes that are not in the file.
    fn finish(mut self) -> io::Result<[Extension; 2]> {
        let zeroes = self.section.virtual_size.saturating_sub(self.section.stored_size());
        io::copy(&mut io::Read::take(io::repeat(0), zeroes), &mut self.hasher)?;
        Ok(Extension::of_section(self.name, self.hasher.finish()))
    }
}

impl Parts {
    /// Puts an archive behind those that are in the initrd, where the kernel looks for it.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn append(&self, archive: &[u8]) -> io::Result<()> {
        if archive.is_empty() {
            return Ok(());
        }
        let end = self.initrd.metadata()?.len().next_multiple_of(4);
        self.initrd.set_len(end)?;
        self.initrd.write_all_at(archive, end)
    }

    /// What systemd-stub would extend PCR 11 with.
    ///
    /// # Errors
    /// It depends on the machine's hardware.
    pub fn extensions(&self) -> Result<&[Extension], &UkiError> {
        self.extensions.as_deref()
    }
}

/// The first bytes of a kernel, or all of a shorter one.
pub(super) fn head(kernel: &File) -> Result<Vec<u8>> {
    let size = kernel.metadata().context("reading the kernel")?.len().min(KERNEL_HEAD);
    let mut head = vec![0; usize::try_from(size)?];
    kernel.read_exact_at(&mut head, 0).context("reading the kernel")?;
    Ok(head)
}

/// The command line that was planned with, and measured, is the UKI's.
fn check_cmdline(bytes: &[u8], boot: &Boot) -> Result<(), UkiError> {
    let text = String::from_utf8_lossy(bytes);
    let [found, said] = [&*text, boot.cmdline.as_str()].map(trim_cmdline);
    if found != said {
        return Err(UkiError::OtherCommandLine { found: found.to_owned(), said: said.to_owned() });
    }
    Ok(())
}
