//! The Debian target as another release without another build: the same file system under a hash tree with another salt, and a
//! UKI that names its root hash and its version.

use std::fs::{self, File};
use std::io::{BufWriter, Cursor, Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use metalstrap_release::digest::Digest;
use metalstrap_release::uki::{HEAD_BYTES, Section, Sections, read_section};
use metalstrap_release::verity::{self, BLOCK_SIZE, Superblock};
use uuid::Uuid;

/// The most bytes of a section with words.
const MAX_WORDS: u64 = 64 << 10;

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
