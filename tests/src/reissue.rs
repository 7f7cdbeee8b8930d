//! The Debian target as another release without another build: the same file system under a hash tree with another salt, and a
//! UKI that names its root hash and its version.

use std::fs::{self, File};
use std::io::{BufWriter, Cursor, Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use metalstrap_initrd::uki::Uki;
use metalstrap_release::digest::Digest;
use metalstrap_release::uki::{HEAD_BYTES, Section, Sections, read_section};
use metalstrap_release::verity::{self, BLOCK_SIZE, Superblock};
use uuid::Uuid;

use crate::artifacts::{boot_tools, built};

/// The most bytes of a section with words.
const MAX_WORDS: u64 = 64 << 10;
/// No section of a UKI is larger.
const MAX_SECTION: u64 = 512 << 20;

/// Makes from the `images` of version 1 those of `version` (one digit), in `dir`. Gives the root hash.
///
/// # Errors
/// The images cannot be read, or are not as mkosi makes them.
pub fn reissue(images: &Path, version: &str, dir: &Path) -> Result<Digest> {
    let making = || format!("making version {version} of {}", images.display());
    fs::create_dir_all(dir).with_context(making)?;
    let root = fs::canonicalize(images.join("root.raw")).with_context(making)?;
    symlink(&root, dir.join("root.raw")).with_context(making)?;
    let blocks = data_blocks(&images.join("root.verity.raw")).with_context(making)?;
    let salt = Digest::of(format!("salt of version {version}").as_bytes());
    let mut data = File::open(&root).with_context(making)?;
    let mut tree = BufWriter::new(File::create(dir.join("root.verity.raw")).with_context(making)?);
    let uuid = salt.0.first_chunk().map_or(Uuid::nil(), |bytes| Uuid::from_bytes(*bytes));
    let root_hash = verity::build(&mut data, blocks, &salt.0, uuid, &mut tree).with_context(making)?;
    tree.flush().with_context(making)?;
    let uki = fs::read(images.join("uki.efi")).with_context(making)?;
    fs::write(dir.join("uki.efi"), renamed(uki, version, &root_hash).with_context(making)?).with_context(making)?;
    Ok(root_hash)
}

/// Makes a UKI anew, by ukify, from its own parts with the signed policies and the public half of the key that has signed them.
///
/// # Errors
/// It is no UKI as mkosi makes them, or the words of ukify.
pub(crate) fn sign_pcr11(uki: &Path, [key, public]: [&Path; 2]) -> Result<()> {
    let making = || format!("signing PCR 11 of {}", uki.display());
    let bytes = fs::read(uki).with_context(making)?;
    let sections = Sections::parse(bytes.get(..HEAD_BYTES).unwrap_or(&bytes)).with_context(making)?;
    let read = |name: &str| -> Result<Vec<u8>> {
        Ok(read_section(&mut Cursor::new(&bytes), sections.required(name)?, MAX_SECTION)?)
    };
    let text = |name: &str| -> Result<String> { Ok(String::from_utf8(read(name)?)?.trim_end_matches('\0').to_owned()) };
    let [linux, initrd] = ["linux", "initrd"].map(|name| uki.with_extension(name));
    for (name, path) in [(".linux", &linux), (".initrd", &initrd)] {
        fs::write(path, read(name).with_context(making)?).with_context(making)?;
    }
    let (cmdline, uname, os_release) = (text(".cmdline")?, text(".uname")?, text(".osrel")?);
    let parts = Uki { linux: &linux, initrd: &initrd, cmdline: &cmdline, uname: &uname, os_release: &os_release };
    let mut command = boot_tools()?.command(&parts, uki);
    let option = |name: &str, path: &Path| format!("--{name}={}", path.display());
    command.args([option("pcr-private-key", key), option("pcr-public-key", public)]);
    command.arg(option("tools", &built("systemd-measure")?));
    let made = command.output().with_context(making)?;
    ensure!(made.status.success(), "{}: ukify: {}", making(), String::from_utf8_lossy(&made.stderr).trim());
    Ok(())
}

fn data_blocks(tree: &Path) -> Result<u64> {
    let mut block = [0; BLOCK_SIZE];
    File::open(tree).and_then(|mut file| file.read_exact(&mut block)).context("reading the superblock")?;
    Ok(Superblock::parse(&block)?.data_blocks)
}

/// The UKI with another root hash and version, both as long as before. It is not signed, and has no checksum that firmware looks at.
fn renamed(mut uki: Vec<u8>, version: &str, root_hash: &Digest) -> Result<Vec<u8>> {
    let sections = Sections::parse(uki.get(..HEAD_BYTES).unwrap_or(&uki))?;
    let (cmdline, osrel) = (sections.required(".cmdline")?, sections.required(".osrel")?);
    let words = String::from_utf8(read_section(&mut Cursor::new(&uki), cmdline, MAX_WORDS)?)?;
    let old = words.split_whitespace().find(|word| word.starts_with("roothash=")).context("finding roothash=")?;
    replace(&mut uki, cmdline, old.trim_end_matches('\0'), &format!("roothash={root_hash}"))?;
    replace(&mut uki, osrel, "IMAGE_VERSION=\"1\"", &format!("IMAGE_VERSION=\"{version}\""))?;
    Ok(uki)
}

fn replace(uki: &mut [u8], section: &Section, old: &str, new: &str) -> Result<()> {
    let name = &section.name;
    ensure!(old.len() == new.len(), "{new:?} is not as long as {old:?}");
    let start = usize::try_from(section.file_offset)?;
    let end = start + usize::try_from(section.stored_size())?;
    let content = uki.get_mut(start..end).with_context(|| format!("reading the section {name}"))?;
    let at = content.windows(old.len()).position(|words| words == old.as_bytes());
    let at = at.with_context(|| format!("finding {old:?} in the section {name}"))?;
    let place = content.get_mut(at..at + new.len()).context("replacing it")?;
    place.copy_from_slice(new.as_bytes());
    Ok(())
}
