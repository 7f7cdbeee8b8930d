//! What a machine remembers from one installation to the next: the versions of the repository's metadata, so that
//! nobody can offer it an older state, and what has happened to its disks. In the netboot image EFI variables, which outlive
//! the disk; elsewhere files. The versions are in the TPM too ([`nv`]).
//!
//! A memory that cannot be read or written is a warning: it makes the machine as trusting as a new one, no more.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use metalstrap_release::metadata::Versions;
use uuid::Uuid;

use crate::bootvars::{Efivarfs, Variables as _};
use crate::disk::Identity;
use crate::intents::Intents;
use crate::plan::lasting_uuid;

pub mod nv;

/// Our own namespace of EFI variables (a random UUID).
pub(crate) const VENDOR: &str = "6f6b9b5c-2f0e-4b7b-9d57-0b5b4f6e8a31";
/// The variables in it.
const VERSIONS: &str = "MetalstrapVersions";
const INTENTS: &str = "MetalstrapIntents";
/// The file of an ordinary command.
const FILE: &str = "/var/lib/metalstrap/versions.json";
/// The file beside it that has the intents.
pub const INTENTS_FILE: &str = "intents.json";
/// What the file beside an image has behind the image's name.
const OF_IMAGE: &str = ".intents";
/// No memory is longer.
const MAX_BYTES: u64 = 4096;

/// Where the memory is.
#[derive(Debug)]
pub enum Memory {
    /// EFI variables.
    Variable(Efivarfs),
    /// Files.
    Files(Files),
}

/// The files of an ordinary command.
#[derive(Debug)]
pub struct Files {
    /// The versions.
    versions: PathBuf,
    /// The intents.
    intents: PathBuf,
    /// A file of intents that is older is about another image that had this name.
    since: Option<SystemTime>,
}

impl Memory {
    /// The machine's own.
    #[must_use]
    pub fn of_machine() -> Self {
        Self::Variable(Efivarfs::default().of_vendor(VENDOR))
    }

    /// The versions in `file`, or in that of all ordinary commands, and the intents beside it.
    #[must_use]
    pub fn at(file: Option<&Path>) -> Self {
        let versions = file.unwrap_or_else(|| Path::new(FILE)).to_owned();
        let intents = versions.with_file_name(INTENTS_FILE);
        Self::Files(Files { versions, intents, since: None })
    }

    /// The intents beside an `image`: those of others that look like it are no business of its.
    #[must_use]
    pub fn of_image(image: &Path) -> Self {
        let mut intents = image.as_os_str().to_owned();
        intents.push(OF_IMAGE);
        // Where the file system does not know when it was made, the file counts.
        let since = made(image);
        Self::Files(Files { versions: FILE.into(), intents: intents.into(), since })
    }

    /// The versions that are remembered; `None`: nothing yet.
    ///
    /// # Errors
    /// They cannot be read, or are not what was written.
    pub fn recall(&self) -> Result<Option<Versions>> {
        let versions = self.read(VERSIONS)?.map(|bytes| Versions::parse(&bytes)).transpose();
        versions.with_context(|| format!("reading the metadata versions in {}", self.place(VERSIONS)))
    }

    /// Remembers `versions`. Writes nothing if they are remembered already.
    ///
    /// # Errors
    /// The firmware's or the file system's.
    pub fn remember(&self, versions: &Versions) -> Result<()> {
        if self.recall().is_ok_and(|known| known.as_ref() == Some(versions)) {
            return Ok(());
        }
        self.write(VERSIONS, &versions.to_bytes())
    }

    /// What has happened to the machine's disks.
    ///
    /// # Errors
    /// It cannot be read, or is not what was written.
    pub fn intents(&self) -> Result<Intents> {
        let intents = self.read(INTENTS)?.map(|bytes| Intents::parse(&bytes)).transpose();
        Ok(intents.with_context(|| format!("reading the intents in {}", self.place(INTENTS)))?.unwrap_or_default())
    }

    /// Remembers that `intents` have happened to `disk`. Writes nothing if that is remembered already.
    ///
    /// # Errors
    /// The firmware's or the file system's. What cannot be read is not written to either: it may know of other disks.
    pub fn remember_intents(&self, disk: Uuid, intents: &[String]) -> Result<()> {
        if intents.is_empty() {
            return Ok(());
        }
        let bytes = self.read(INTENTS)?;
        // What is read and says nothing is written anew.
        let known = bytes.map_or_else(|| Ok(Intents::default()), |bytes| Intents::parse(&bytes));
        let wanted = known.as_ref().cloned().unwrap_or_default().with(disk, intents);
        if known.is_ok_and(|known| known.of(disk) == wanted.of(disk)) {
            return Ok(());
        }
        self.write(INTENTS, &wanted.to_bytes())
    }

    fn read(&self, what: &str) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Variable(variables) => variables.read(what),
            Self::Files(files) => {
                let path = files.of(what);
                let since = files.since.filter(|_| what == INTENTS);
                read(path, since).with_context(|| format!("reading {}", path.display()))
            }
        }
    }

    fn write(&self, what: &str, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Variable(variables) => variables.write(what, bytes),
            Self::Files(files) => {
                let path = files.of(what);
                replace(path, bytes).with_context(|| format!("writing {}", path.display()))
            }
        }
    }

    fn place(&self, what: &str) -> String {
        match self {
            Self::Variable(_) => format!("the EFI variable {what}-{VENDOR}"),
            Self::Files(files) => files.of(what).display().to_string(),
        }
    }
}

impl Files {
    fn of(&self, what: &str) -> &Path {
        if what == INTENTS { &self.intents } else { &self.versions }
    }
}

/// What an image is called in a memory that is not its own, since it has no serial number: by its path, and when it was made,
/// which tells it from another one that gets its name later.
#[must_use]
pub fn image_uuid(image: &Path) -> Option<Uuid> {
    let path = fs::canonicalize(image).unwrap_or_else(|_| image.to_owned());
    let made = made(image).and_then(|made| made.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let serial = format!("{} {}", path.display(), made.as_nanos());
    lasting_uuid(&Identity { serial: Some(serial), ..Identity::default() })
}

/// When a file was made, where its file system knows it.
fn made(file: &Path) -> Option<SystemTime> {
    fs::metadata(file).and_then(|found| found.created()).ok()
}

/// What is in the file, unless it is older than `since`.
fn read(path: &Path, since: Option<SystemTime>) -> Result<Option<Vec<u8>>> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found?,
    };
    anyhow::ensure!(found.len() <= MAX_BYTES, "it has more than {MAX_BYTES} bytes");
    let written = found.modified()?;
    if since.is_some_and(|since| written < since) {
        return Ok(None);
    }
    Ok(Some(fs::read(path)?))
}

/// Replaces the file as a whole, so that a power cut leaves the old one or the new one. Its owner alone can read it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let directory = path.parent().context("the path names no directory")?;
    let directory = if directory == Path::new("") { Path::new(".") } else { directory };
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use metalstrap_release::digest::Digest;

    use super::*;

    fn versions() -> Versions {
        let digest = Digest::of(b"keys");
        let (root, timestamp, snapshot, targets, hosts) = (1, 5, 4, 3, 2);
        Versions { format: 1, anchor: digest, root, online_keys: digest, timestamp, snapshot, targets, hosts }
    }

    fn remembers(memory: &Memory) {
        assert_eq!(memory.recall().unwrap(), None);
        memory.remember(&versions()).unwrap();
        assert_eq!(memory.recall().unwrap(), Some(versions()));
        let newer = Versions { timestamp: 6, ..versions() };
        memory.remember(&newer).unwrap();
        assert_eq!(memory.recall().unwrap(), Some(newer));
        let (disk, words) = (Uuid::from_u128(7), ["one".to_owned(), "two".to_owned()]);
        assert_eq!(memory.intents().unwrap(), Intents::default());
        memory.remember_intents(disk, &[]).unwrap();
        assert_eq!(memory.intents().unwrap(), Intents::default());
        memory.remember_intents(disk, &words[..1]).unwrap();
        memory.remember_intents(disk, &words).unwrap();
        assert_eq!(memory.intents().unwrap().of(disk), words);
        assert!(memory.recall().unwrap().is_some(), "the one does not touch the other");
    }

    #[test]
    fn a_file_and_a_variable_remember_the_same() {
        let place = tempfile::tempdir().unwrap();
        remembers(&Memory::at(Some(&place.path().join("lib/versions.json"))));
        assert!(place.path().join("lib/intents.json").exists());
        remembers(&Memory::Variable(Efivarfs::at(place.path()).of_vendor(VENDOR)));
        assert!(place.path().join(format!("{VERSIONS}-{VENDOR}")).exists());
    }

    #[test]
    fn a_memory_of_intents_that_cannot_be_read_stays_and_one_that_says_nothing_is_written_anew() {
        let place = tempfile::tempdir().unwrap();
        let (disk, words) = (Uuid::from_u128(7), ["one".to_owned()]);
        let (variable, file) = (place.path().join(format!("{INTENTS}-{VENDOR}")), place.path().join(INTENTS_FILE));
        let memories = [
            // The attributes are cut off.
            (
                Memory::Variable(Efivarfs::at(place.path()).of_vendor(VENDOR)),
                variable,
                vec![7; 3],
                [7, 0, 0, 0].to_vec(),
            ),
            (Memory::at(Some(&place.path().join("versions.json"))), file, vec![b'x'; 4097], Vec::new()),
        ];
        for (memory, path, unreadable, head) in memories {
            fs::write(&path, &unreadable).unwrap();
            memory.remember_intents(disk, &words).unwrap_err();
            assert_eq!(fs::read(&path).unwrap(), unreadable);
            fs::write(&path, [head, b"{}".to_vec()].concat()).unwrap();
            memory.remember_intents(disk, &words).unwrap();
            assert_eq!(memory.intents().unwrap().of(disk), words);
        }
    }

    /// As efivarfs has it after a write to a store that was full.
    #[test]
    fn an_empty_file_of_a_variable_is_a_memory_that_knows_nothing_yet() {
        let place = tempfile::tempdir().unwrap();
        for variable in [VERSIONS, INTENTS] {
            fs::write(place.path().join(format!("{variable}-{VENDOR}")), "").unwrap();
        }
        remembers(&Memory::Variable(Efivarfs::at(place.path()).of_vendor(VENDOR)));
    }

    #[test]
    fn what_is_not_a_memory_is_named() {
        let place = tempfile::NamedTempFile::new().unwrap();
        fs::write(place.path(), "{}").unwrap();
        let error = format!("{:#}", Memory::at(Some(place.path())).recall().unwrap_err());
        let expected = format!(
            "reading the metadata versions in {}: the memory of metadata versions is not valid",
            place.path().display()
        );
        assert!(error.starts_with(&expected), "{error}");
    }

    #[test]
    fn images_have_memories_of_their_own_which_say_nothing_of_those_made_later() {
        let place = tempfile::tempdir().unwrap();
        let images = ["one.img", "two.img"].map(|name| place.path().join(name));
        images.iter().for_each(|image| fs::write(image, "").unwrap());
        let known = |image: &Path| Memory::of_image(image).intents().unwrap().of(Uuid::nil()).to_vec();
        let intents = ["first".to_owned()];
        Memory::of_image(&images[0]).remember_intents(Uuid::nil(), &intents).unwrap();
        assert!(place.path().join("one.img.intents").exists());
        assert_eq!((known(&images[0]), known(&images[1])), (intents.to_vec(), vec![]));
        // As it is when the first one is deleted and another one made.
        let Memory::Files(files) = Memory::of_image(&images[0]) else { panic!("no files") };
        let later = Some(fs::metadata(&files.intents).unwrap().modified().unwrap() + std::time::Duration::from_secs(1));
        let memory = Memory::Files(Files { since: later, ..files });
        assert_eq!(memory.intents().unwrap(), Intents::default());
    }

    #[test]
    fn an_image_that_gets_the_name_of_another_one_is_not_taken_for_it() {
        let place = tempfile::tempdir().unwrap();
        let image = place.path().join("one.img");
        fs::write(&image, "").unwrap();
        let (first, since) = (image_uuid(&image).unwrap(), made(&image));
        fs::write(&image, "installed").unwrap();
        assert_eq!(image_uuid(&image), Some(first));
        if since.is_none() {
            return;
        }
        // Until the clock of the file system has gone on.
        while made(&image) == since {
            fs::remove_file(&image).unwrap();
            fs::write(&image, "").unwrap();
        }
        assert_ne!(image_uuid(&image), Some(first));
    }
}
