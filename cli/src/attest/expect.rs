//! What a verifier wants to be true, as the command line says it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use metalstrap_initrd::authenticode;
use metalstrap_release::attest::{Expected, Introduction, Program, Release};
use metalstrap_release::host::Host;
use metalstrap_release::pcr::{Bank, BankDigest};
use metalstrap_release::tpm2::Ek;
use metalstrap_release::uki::{HEAD_BYTES, Sections, read_section};

use super::ek_certificate::{self, Roots};
use super::read;
use crate::{clock, ek};

/// No kernel is larger.
const MAX_KERNEL: u64 = 512 << 20;

/// Whether Secure Boot was on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum SecureBoot {
    /// It was.
    On,
    /// It was not.
    Off,
}

/// What is expected. What is not said is looked at all the same, and does not count.
#[derive(Debug, Default, clap::Args)]
pub struct ExpectArgs {
    /// Directory or file with certificates of makers of TPMs that are trusted, in PEM or DER. Several times for several
    #[arg(long, value_name = "PATH")]
    ek_roots: Vec<PathBuf>,
    /// An endorsement key that is trusted without a certificate, as `host add` takes it. Several times for several
    #[arg(long, value_name = "FILE")]
    ek: Vec<PathBuf>,
    /// Manifest of the release that was to be installed
    #[arg(long, value_name = "FILE")]
    release: Option<PathBuf>,
    /// Host config that the machine was to go by, as it lies in the repository
    #[arg(long, value_name = "FILE")]
    host_config: Option<PathBuf>,
    /// A program that the firmware may have started: the netboot UKI, and what was started before it. Several times for several;
    /// no other may have been, and a UKI must be the last. Not proved of a machine that leaves the installer by kexec, or has
    #[arg(long, value_name = "FILE")]
    netboot: Vec<PathBuf>,
    /// Whether Secure Boot was to be on
    #[arg(long, value_name = "STATE")]
    secure_boot: Option<SecureBoot>,
}

/// The same, read.
#[derive(Debug)]
pub struct Expectations {
    roots: Roots,
    known: Vec<Ek>,
    release: Option<Release>,
    host_config: Option<Vec<u8>>,
    programs: Vec<Program>,
    secure_boot: Option<bool>,
}

impl ExpectArgs {
    /// Reads the files.
    ///
    /// # Errors
    /// One cannot be read, or is not what it should be.
    pub fn read(&self) -> Result<Expectations> {
        let release = |path: &PathBuf| {
            let checking = || format!("checking the manifest {}", path.display());
            Release::of_manifest(read(path, "manifest")?).with_context(checking)
        };
        let host_config = |path: &PathBuf| {
            let bytes = read(path, "host config")?;
            Host::parse(&bytes).with_context(|| format!("checking the host config {}", path.display()))?;
            Ok::<_, anyhow::Error>(bytes)
        };
        Ok(Expectations {
            roots: Roots::read(&self.ek_roots)?,
            known: self.ek.iter().map(|path| ek::read(path)).collect::<Result<_>>()?,
            release: self.release.as_ref().map(release).transpose()?,
            host_config: self.host_config.as_ref().map(host_config).transpose()?,
            programs: self.netboot.iter().map(|path| program(path)).collect::<Result<_>>()?,
            secure_boot: self.secure_boot.map(|state| state == SecureBoot::On),
        })
    }
}

impl Expectations {
    /// Whether roots were given to check certificates by.
    pub fn has_roots(&self) -> bool {
        !self.roots.is_empty()
    }

    /// Whether the key is one of those given.
    pub fn knows(&self, ek: &Ek) -> bool {
        self.known.contains(ek)
    }

    /// What is expected of the machine with this introduction; `accepted` says whether its key was accepted before.
    ///
    /// # Errors
    /// Its key is none, or the clock cannot be read.
    pub fn of(&self, introduction: &Introduction, accepted: &[Ek]) -> Result<Expected> {
        let ek = introduction.ek()?;
        let known = [self.known.as_slice(), accepted].concat();
        Ok(Expected {
            ek: ek_certificate::look(introduction, &ek, &self.roots, &known, clock::now()?),
            release: self.release.clone(),
            host_config: self.host_config.clone(),
            programs: self.programs.clone(),
            secure_boot: self.secure_boot,
        })
    }
}

/// A program, with the kernel in it if it is a UKI.
fn program(path: &Path) -> Result<Program> {
    let bytes = read(path, "program")?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let kernel = kernel(&bytes);
    let digests = authenticode(bytes, &Bank::ALL).with_context(|| format!("hashing the program {}", path.display()))?;
    Ok(Program { name, digests, kernel })
}

/// The digests of the kernel in a UKI; `None` if it is no UKI.
fn kernel(program: &[u8]) -> Option<Vec<BankDigest>> {
    let sections = Sections::parse(program.get(..HEAD_BYTES).unwrap_or(program)).ok()?;
    let kernel = sections.get(".linux")?;
    let content = read_section(&mut std::io::Cursor::new(program), kernel, MAX_KERNEL).ok();
    // What is no program cannot have been started as one.
    Some(content.and_then(|content| authenticode(content, &Bank::ALL).ok()).unwrap_or_default())
}
