//! What publishing must know of a UKI.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::MAX_BOOT_BYTES;
use metalstrap_release::os_release::OsRelease;
use metalstrap_release::pcr::{self, Bank, Extension, Pcr, Prediction};
use metalstrap_release::uki::{
    HEAD_BYTES, MAX_CMDLINE, MAX_HANDED, Section, Sections, cmdline_limit, read_section, root_hash, trim_cmdline,
};

/// The most bytes of an os-release file that are looked at.
const MAX_OS_RELEASE: u64 = 64 << 10;
/// The most bytes of a public key that are looked at.
const MAX_KEY: u64 = 64 << 10;
/// Bytes of a kernel that hold its boot header.
const KERNEL_HEAD: u64 = 1024;

/// What is read from a UKI.
#[derive(Debug)]
pub struct UkiFacts {
    /// Its kernel command line.
    pub cmdline: String,
    /// The most bytes of command line that its kernel takes.
    pub cmdline_limit: u32,
    /// The root hash on its command line.
    pub root_hash: Digest,
    /// By what systemd-boot lists it, and puts it in order.
    pub os_release: OsRelease,
}

impl UkiFacts {
    /// Reads the UKI at `path`.
    ///
    /// # Errors
    /// When it is no UKI, cannot be split for kexec, or does not say which root it starts.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path).with_context(|| format!("reading the UKI {}", path.display()))
    }

    fn parse(path: &Path) -> Result<Self> {
        let (mut file, head) = open(path)?;
        let sections = Sections::parse(&head)?;
        sections.check_split(file.metadata()?.len())?;
        let kernel = sections.required(".linux")?;
        let kernel_head = Section { virtual_size: kernel.virtual_size.min(KERNEL_HEAD), ..kernel.clone() };
        let limit = cmdline_limit(&read_section(&mut file, &kernel_head, KERNEL_HEAD)?)?;
        let cmdline = read_section(&mut file, sections.required(".cmdline")?, MAX_CMDLINE)?;
        let cmdline = String::from_utf8(cmdline).context("its command line is not UTF-8")?;
        let cmdline = trim_cmdline(&cmdline).to_owned();
        let root_hash = root_hash(&cmdline)?;
        let os_release = read_section(&mut file, sections.required(".osrel")?, MAX_OS_RELEASE)?;
        let os_release = OsRelease::parse(&String::from_utf8_lossy(&os_release));
        Ok(Self { cmdline, cmdline_limit: limit, root_hash, os_release })
    }

    /// Whether systemd-boot starts it as the release of this version: it lists what has a title, and goes by the version in
    /// the UKI before it goes by its name.
    ///
    /// # Errors
    /// When it does not.
    pub fn check_version(&self, version: &str) -> Result<()> {
        ensure!(
            self.os_release.title().is_some(),
            "the UKI's .osrel has no PRETTY_NAME, IMAGE_ID, NAME or ID: systemd-boot would not list it"
        );
        match self.os_release.get("IMAGE_VERSION") {
            Some(other) => ensure!(
                other == version,
                "the UKI's .osrel says IMAGE_VERSION={other}, not {version}: systemd-boot would put it in order as that"
            ),
            None => eprintln!(
                "warning: the UKI's .osrel has no IMAGE_VERSION: systemd-boot puts it in order by {} before it looks at names",
                self.os_release.version().map_or_else(|| "no version".to_owned(), |other| format!("version {other}"))
            ),
        }
        Ok(())
    }

    /// Whether the kernel looks at the backup partition table when the primary one is damaged.
    pub fn has_gpt(&self) -> bool {
        self.cmdline.split(' ').any(|word| word == "gpt")
    }
}

/// The file, and the bytes of it that hold its headers.
fn open(path: &Path) -> Result<(File, Vec<u8>)> {
    let mut file = File::open(path)?;
    let mut head = Vec::new();
    std::io::Read::by_ref(&mut file).take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok((file, head))
}

/// What systemd-stub extends PCR 11 with when it starts this profile of the UKI at `path`.
///
/// # Errors
/// It is no UKI, has no such profile, or what is measured depends on the machine.
pub fn extensions(path: &Path, profile: usize) -> Result<Vec<Extension>> {
    let read = || -> Result<_> {
        let (mut file, head) = open(path)?;
        Ok(pcr::extensions(&mut file, &Sections::parse_profile(&head, profile)?, &Bank::ALL)?)
    };
    read().with_context(|| format!("predicting PCR 11 of the UKI {}", path.display()))
}

/// PCR 11 in every bank after the machine was started from the UKI at `path`, before any phase.
///
/// # Errors
/// As [`extensions`].
pub fn pcrs_after(path: &Path) -> Result<Vec<Pcr>> {
    let measured = extensions(path, 0)?;
    Ok(Pcr::zeroes().iter().map(|pcr| pcr.after(&measured)).collect())
}

/// PCR 11 at each phase, if it is `start` before all of this is measured.
///
/// # Errors
/// A bank is missing in `start`.
pub fn predictions(start: &[Pcr], measured: &[Extension]) -> Result<Vec<Prediction>> {
    let stub: Vec<_> = start.iter().map(|pcr| pcr.after(measured)).collect();
    Prediction::all(&stub).context("predicting PCR 11: a bank is missing")
}

/// The public key in the UKI's `.pcrpkey`, if it has one.
///
/// # Errors
/// It is no UKI.
pub fn pcr_public_key(path: &Path) -> Result<Option<Vec<u8>>> {
    if_there(path, ".pcrpkey", MAX_KEY)
}

/// The signed policies in the UKI's `.pcrsig`, if it has one.
///
/// # Errors
/// It is no UKI.
pub fn pcr_signatures(path: &Path) -> Result<Option<Vec<u8>>> {
    if_there(path, ".pcrsig", MAX_HANDED)
}

/// The content of the UKI's section of this name, unless there is none or it is empty.
fn if_there(path: &Path, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
    let read = || -> Result<_> {
        let (mut file, head) = open(path)?;
        let sections = Sections::parse(&head)?;
        let section = sections.get(name).filter(|section| section.virtual_size > 0);
        Ok(section.map(|section| read_section(&mut file, section, limit)).transpose()?)
    };
    read().with_context(|| format!("reading the UKI {}", path.display()))
}

/// The kernel in the UKI at `path`.
///
/// # Errors
/// It is no UKI, or has no kernel.
pub fn kernel(path: &Path) -> Result<Vec<u8>> {
    let read = || -> Result<_> {
        let (mut file, head) = open(path)?;
        let sections = Sections::parse(&head)?;
        Ok(read_section(&mut file, sections.required(".linux")?, MAX_BOOT_BYTES)?)
    };
    read().with_context(|| format!("reading the UKI {}", path.display()))
}
