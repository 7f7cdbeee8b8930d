//! The files of a release: what they are called, and how they are made.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use metalstrap_release::digest::Digest;
use metalstrap_release::manifest::{FileSystem, Manifest, data_uuid, verity_uuid};
use sha2::{Digest as _, Sha256};

use crate::artifact::{self, open_tree};
use crate::checked::Checked;
use crate::progress::Progress;
use crate::repository::Repository;

/// zlib's own default: higher levels take several times as long for a few percent.
const LEVEL: u32 = 6;
/// Bytes that are copied at once.
const PIECE: usize = 1 << 20;

/// What a release consists of, as systemd-sysupdate transfers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The hash tree: digests do not compress.
    RootVerity,
    /// The root file system, compressed.
    Root,
    /// The UKI, whose parts are compressed already.
    Uki,
}

/// The files that a release is published from.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The root file system.
    pub root: &'a Path,
    /// Its hash tree.
    pub verity: &'a Path,
    /// The UKI.
    pub uki: &'a Path,
}

impl Kind {
    /// All, in the order in which they are written.
    pub const ALL: [Self; 3] = [Self::RootVerity, Self::Root, Self::Uki];

    /// What stands between the release and the architecture in a file name.
    fn part(self) -> &'static str {
        match self {
            Self::RootVerity => "root-verity",
            Self::Root => "root",
            Self::Uki => "uki",
        }
    }

    /// The name of a file, with `version` and, where it goes into a partition, its `uuid`. With the wildcards `@v` and `@u` in
    /// their place it is the pattern of these names.
    pub fn named(self, name: &str, version: &str, architecture: &str, uuid: &str) -> String {
        let start = format!("{name}_{version}.{}-{architecture}", self.part());
        match self {
            Self::RootVerity => format!("{start}.{uuid}.raw"),
            Self::Root => format!("{start}.{uuid}.raw.gz"),
            Self::Uki => format!("{start}.efi"),
        }
    }

    /// The file of this release. The UUIDs are those by which the root hash on the UKI's command line finds the partitions.
    ///
    /// # Errors
    /// The manifest has no root file system.
    pub fn file_name(self, manifest: &Manifest) -> Result<String> {
        let hash = &manifest.root().context("naming the images")?.root_hash;
        let uuid = if self == Self::Root { data_uuid(hash) } else { verity_uuid(hash) };
        Ok(self.named(&manifest.name, &manifest.version, &manifest.architecture, &uuid.to_string()))
    }
}

/// Whether `file` is one of the files of a release, which is given by the name of its manifest.
pub fn is_of(file: &str, release: &str) -> bool {
    let rest = release.strip_suffix(".json").and_then(|label| file.strip_prefix(label)?.strip_prefix('.'));
    rest.is_some_and(|rest| Kind::ALL.iter().any(|kind| rest.starts_with(&format!("{}-", kind.part()))))
}

/// Writes a file of the release to `directory` of the repository. Returns its digest.
///
/// # Errors
/// An input that cannot be read, or is not what the manifest says.
pub fn write(
    repository: &Repository,
    directory: &str,
    kind: Kind,
    manifest: &Manifest,
    inputs: &Inputs<'_>,
) -> Result<Digest> {
    let name = kind.file_name(manifest)?;
    let mut file = repository.temporary(directory)?;
    let digest = fill(file.as_file_mut(), kind, manifest, inputs).with_context(|| format!("writing {name}"))?;
    let uki = &manifest.boot.uki.sha256;
    ensure!(kind != Kind::Uki || digest == *uki, "the UKI {} has changed meanwhile", inputs.uki.display());
    repository.keep(file, &format!("{directory}/{name}"))?;
    Ok(digest)
}

/// Writes all of a file. Returns its digest.
fn fill(file: &mut File, kind: Kind, manifest: &Manifest, inputs: &Inputs<'_>) -> Result<Digest> {
    let mut output = Hashed { to: BufWriter::with_capacity(PIECE, file), hasher: Sha256::new() };
    content(kind, manifest, inputs, &mut output)?;
    output.flush()?;
    Ok(Digest(output.hasher.finalize().into()))
}

fn content(kind: Kind, manifest: &Manifest, inputs: &Inputs<'_>, output: &mut impl Write) -> Result<()> {
    match kind {
        Kind::RootVerity => {
            let size = manifest.root()?.hash_tree.content_size;
            copy("hash tree for systemd-sysupdate", &mut open(inputs.verity)?.take(size), size, output)
        }
        Kind::Root => root(inputs, manifest.root()?, output),
        Kind::Uki => {
            let size = manifest.boot.uki.size;
            copy("UKI for systemd-sysupdate", &mut open(inputs.uki)?.take(size), size, output)
        }
    }
}

/// The root file system, each block of which is checked as it is read, so that nothing else is ever compressed.
fn root(inputs: &Inputs<'_>, root: &FileSystem, output: &mut impl Write) -> Result<()> {
    let (_, tree) = open_tree(inputs.verity, root.root_hash)?;
    let mut content = Checked::new(open(inputs.root)?, &tree);
    // One member: what systemd-pull makes of several is not documented. The header has no time and no name.
    let mut encoder = GzEncoder::new(output, Compression::new(LEVEL));
    copy("root image for systemd-sysupdate", &mut content, root.data.content_size, &mut encoder)?;
    encoder.finish().context("compressing the root image").map(drop)
}

fn copy(what: &str, content: &mut impl Read, size: u64, output: &mut impl Write) -> Result<()> {
    let mut progress = Progress::new(what, size);
    let (mut piece, mut done) = (vec![0; PIECE], 0);
    loop {
        let length = content.read(&mut piece).with_context(|| format!("reading the {what}"))?;
        if length == 0 {
            break;
        }
        output.write_all(piece.get(..length).unwrap_or_default()).with_context(|| format!("writing the {what}"))?;
        done += length as u64;
        progress.update(done);
    }
    ensure!(done == size, "the {what} has {done} bytes, not {size}");
    Ok(())
}

fn open(path: &Path) -> Result<BufReader<File>> {
    Ok(BufReader::with_capacity(PIECE, artifact::open(path)?))
}

/// Hashes what is written.
struct Hashed<W> {
    to: W,
    hasher: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_belong_to_the_release_that_they_name() {
        let uuid = "00000000-0000-0000-0000-000000000001";
        let names = Kind::ALL.map(|kind| kind.named("os", "1.2", "x86-64", uuid));
        assert_eq!(
            names,
            [
                "os_1.2.root-verity-x86-64.00000000-0000-0000-0000-000000000001.raw",
                "os_1.2.root-x86-64.00000000-0000-0000-0000-000000000001.raw.gz",
                "os_1.2.uki-x86-64.efi",
            ]
        );
        assert!(names.iter().all(|name| is_of(name, "os_1.2.json")));
        for other in ["os_1.json", "os_1.2", "os_1.2.3.json", "s_1.2.json", "os_1.2.root-x86-64.json"] {
            assert!(names.iter().all(|name| !is_of(name, other)), "{other}");
        }
    }
}
