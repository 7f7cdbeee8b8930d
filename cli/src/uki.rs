//! What publishing must know of a UKI.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use metalstrap_release::digest::Digest;
use metalstrap_release::uki::{HEAD_BYTES, Section, Sections, cmdline_limit, read_section};

/// The most bytes of a command line that are looked at; no x86 kernel takes as many.
const MAX_CMDLINE: u64 = 64 << 10;
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
}

impl UkiFacts {
    /// Reads the UKI at `path`.
    ///
    /// # Errors
    /// When it is no UKI, or does not say which root it starts.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path).with_context(|| format!("reading the UKI {}", path.display()))
    }

    fn parse(path: &Path) -> Result<Self> {
        let mut file = File::open(path)?;
        let mut head = Vec::new();
        std::io::Read::by_ref(&mut file).take(HEAD_BYTES as u64).read_to_end(&mut head)?;
        let sections = Sections::parse(&head)?;
        let kernel = sections.required(".linux")?;
        let kernel_head = Section { virtual_size: kernel.virtual_size.min(KERNEL_HEAD), ..kernel.clone() };
        let limit = cmdline_limit(&read_section(&mut file, &kernel_head, KERNEL_HEAD)?)?;
        let cmdline = read_section(&mut file, sections.required(".cmdline")?, MAX_CMDLINE)?;
        let cmdline = String::from_utf8(cmdline).context("its command line is not UTF-8")?;
        let cmdline = cmdline.trim_end_matches(['\0', '\n', ' ']).to_owned();
        let root_hash = root_hash(&cmdline)?;
        Ok(Self { cmdline, cmdline_limit: limit, root_hash })
    }

    /// Whether the kernel looks at the backup partition table when the primary one is damaged.
    pub fn has_gpt(&self) -> bool {
        self.cmdline.split(' ').any(|word| word == "gpt")
    }
}

/// The one root hash that a command line names.
fn root_hash(cmdline: &str) -> Result<Digest> {
    let mut hashes = cmdline.split(' ').filter_map(|word| word.strip_prefix("roothash="));
    match (hashes.next(), hashes.next()) {
        (Some(hash), None) => hash.parse().context("its command line's roothash="),
        (None, _) => bail!("its command line has no roothash=, so it would not start from a verified root"),
        (Some(_), Some(_)) => bail!("its command line has several roothash="),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_names_one_root() {
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(root_hash(&format!("quiet roothash={hash} gpt")).unwrap().to_string(), hash);
        let refusal = |cmdline: &str| format!("{:#}", root_hash(cmdline).unwrap_err());
        assert_eq!(
            refusal("quiet usrhash=00"),
            "its command line has no roothash=, so it would not start from a verified root"
        );
        assert_eq!(refusal(&format!("roothash={hash} roothash={hash}")), "its command line has several roothash=");
        assert_eq!(
            refusal("roothash=00"),
            "its command line's roothash=: not a SHA-256 digest (64 lower-case hexadecimal characters): \"00\""
        );
    }
}
