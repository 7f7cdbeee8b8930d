//! EFI variables as a seam: efivarfs, and in tests a store that is full, read-only or lying.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::sys;

/// `EFI_GLOBAL_VARIABLE`, the namespace of `Boot####`, `BootOrder`, `BootNext` and `BootCurrent` (UEFI 2.10 §3.3).
pub const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// Where the kernel's are mounted.
pub(crate) const EFIVARFS: &str = "/sys/firmware/efi/efivars";
/// Non-volatile, and accessible before and after `ExitBootServices`.
const ATTRIBUTES: u32 = 7;
/// The same for what is written by updates that are signed with their time, and for these attributes
/// (`EFI_VARIABLE_TIME_BASED_AUTHENTICATED_WRITE_ACCESS`).
pub const SIGNED_ATTRIBUTES: u32 = ATTRIBUTES | 0x20;

/// The firmware's global variables.
pub trait Variables: fmt::Debug {
    /// The names of all.
    ///
    /// # Errors
    /// They cannot be listed: not started by UEFI, or efivarfs is not mounted.
    fn names(&self) -> Result<BTreeSet<String>>;

    /// A variable's data; `None` if there is no such variable.
    ///
    /// # Errors
    /// The firmware's.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>>;

    /// Sets a non-volatile variable in one go.
    ///
    /// # Errors
    /// The firmware's: full, read-only.
    fn write(&self, name: &str, data: &[u8]) -> Result<()>;

    /// Removes a variable.
    ///
    /// # Errors
    /// The firmware's.
    fn remove(&self, name: &str) -> Result<()>;
}

/// efivarfs (Linux `Documentation/filesystems/efivarfs.rst`): a file is 4 bytes of attributes, then the data.
///
/// A file without a byte is no variable: opening makes it, and it stays where the firmware then refuses what is written, as a
/// store that is full does (Linux 6.12 `fs/efivarfs/file.c`: `efivarfs_file_write` returns before it sets the size, and
/// `efivarfs_file_read` reads "uncommitted variables", which the firmware does not know, as EOF).
#[derive(Debug)]
pub struct Efivarfs {
    directory: PathBuf,
    namespace: &'static str,
    attributes: u32,
    /// Permissions of new variables.
    mode: u32,
}

/// Where the kernel's is mounted.
impl Default for Efivarfs {
    fn default() -> Self {
        Self::at(Path::new(EFIVARFS))
    }
}

impl Efivarfs {
    /// The variables below `directory`.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), namespace: GLOBAL, attributes: ATTRIBUTES, mode: 0o644 }
    }

    /// The same with the variables of `vendor`, a UUID, instead of the firmware's.
    #[must_use]
    pub fn of_vendor(self, vendor: &'static str) -> Self {
        Self { namespace: vendor, ..self }
    }

    /// The same; variables that are made can be read by root only.
    #[must_use]
    pub fn secret(self) -> Self {
        Self { mode: 0o600, ..self }
    }

    /// The same; what is written are signed updates (EFI_VARIABLE_AUTHENTICATION_2), and what is read is their content.
    #[must_use]
    pub fn authenticated(self) -> Self {
        Self { attributes: SIGNED_ATTRIBUTES, ..self }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}-{}", self.namespace))
    }

    /// Whether there is a file, which can be changed then.
    fn make_mutable(&self, name: &str) -> io::Result<bool> {
        match File::open(self.path(name)) {
            Ok(file) => sys::clear_immutable(&file).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a variable by `put`, one write to its file.
    fn write_by(&self, name: &str, data: &[u8], put: impl FnOnce(File, &[u8]) -> io::Result<usize>) -> Result<()> {
        let what = || format!("writing the EFI variable {name}");
        let was_there = self.make_mutable(name).with_context(what)?;
        // Not truncated: a write replaces the variable as a whole, and one of no size would be a deletion.
        let options = OpenOptions::new().write(true).create(true).truncate(false).mode(self.mode).to_owned();
        let file = options.open(self.path(name)).map_err(meaning).with_context(what)?;
        let bytes = [&self.attributes.to_le_bytes(), data].concat();
        let written = put(file, &bytes).map_err(meaning).with_context(what);
        // The file that was made stays where the firmware refuses its content, and stands for nothing. The error of the write is
        // the one to tell; a file that cannot be removed is read as none.
        if written.is_err() && !was_there && matches!(self.read(name), Ok(None)) {
            let _ = self.remove(name);
        }
        let written = written?;
        if written != bytes.len() {
            bail!("{}: the firmware took {written} of {} bytes", what(), bytes.len());
        }
        Ok(())
    }

    /// The names of all files that are more than a name. The size of a file may lag behind; what is read is the firmware's.
    fn list(&self) -> io::Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for file in fs::read_dir(&self.directory)? {
            let file = file?;
            let name = file.file_name().into_string().ok();
            let Some(name) =
                name.and_then(|name| Some(name.strip_suffix(self.namespace)?.strip_suffix('-')?.to_owned()))
            else {
                continue;
            };
            let empty = file.metadata().is_ok_and(|found| found.len() == 0);
            if !empty || !matches!(self.read(&name), Ok(None)) {
                names.insert(name);
            }
        }
        Ok(names)
    }
}

impl Variables for Efivarfs {
    fn names(&self) -> Result<BTreeSet<String>> {
        let names =
            self.list().with_context(|| format!("listing the EFI variables in {}", self.directory.display()))?;
        if names.is_empty() {
            bail!(
                "there are no EFI variables in {}: not started by UEFI, or efivarfs is not mounted",
                self.directory.display()
            );
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        match fs::read(self.path(name)) {
            Ok(bytes) => match bytes.split_at_checked(4) {
                Some((_, data)) => Ok(Some(data.to_vec())),
                None if bytes.is_empty() => Ok(None),
                None => bail!("the EFI variable {name} has no attributes"),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading the EFI variable {name}")),
        }
    }

    fn write(&self, name: &str, data: &[u8]) -> Result<()> {
        self.write_by(name, data, |mut file, bytes| file.write(bytes))
    }

    fn remove(&self, name: &str) -> Result<()> {
        let what = || format!("removing the EFI variable {name}");
        self.make_mutable(name).with_context(what)?;
        fs::remove_file(self.path(name)).map_err(meaning).with_context(what)
    }
}

/// What errno stands for here (Linux `drivers/firmware/efi/vars.c`, `efi_status_to_err`).
fn meaning(error: io::Error) -> anyhow::Error {
    let meaning = match error.kind() {
        io::ErrorKind::StorageFull => "the firmware's variable store is full",
        io::ErrorKind::ReadOnlyFilesystem => "the firmware's variables are read-only",
        io::ErrorKind::PermissionDenied => "the firmware or the kernel does not permit it",
        io::ErrorKind::InvalidInput => "the firmware does not take it",
        io::ErrorKind::NotFound => "not started by UEFI, or efivarfs is not mounted",
        _ => "the firmware failed",
    };
    anyhow::Error::new(error).context(meaning)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;
    use std::os::unix::fs::symlink;

    use nix::errno::Errno;

    use super::*;

    /// Variables that can be read, and are not taken: what the kernel says to that. A store that is full leaves an empty file, as
    /// efivarfs does, for good: as where the file cannot be removed.
    #[derive(Debug)]
    pub(crate) struct Refusing(pub(crate) Efivarfs, pub(crate) Errno);

    impl Variables for Refusing {
        fn names(&self) -> Result<BTreeSet<String>> {
            self.0.names()
        }

        fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
            self.0.read(name)
        }

        fn write(&self, name: &str, data: &[u8]) -> Result<()> {
            let refused = self.0.write_by(name, data, |_, _| Err(self.1.into()));
            if self.1 == Errno::ENOSPC {
                OpenOptions::new().append(true).create(true).open(self.0.path(name)).unwrap();
            }
            refused
        }

        fn remove(&self, name: &str) -> Result<()> {
            self.0.remove(name)
        }
    }

    #[test]
    fn what_the_kernel_says_of_variables_is_put_into_words() {
        for (errno, words) in [
            (Errno::ENOSPC, "the firmware's variable store is full"),
            (Errno::EROFS, "the firmware's variables are read-only"),
            (Errno::EPERM, "the firmware or the kernel does not permit it"),
            (Errno::ENOENT, "not started by UEFI, or efivarfs is not mounted"),
            (Errno::EIO, "the firmware failed"),
        ] {
            assert_eq!(meaning(errno.into()).to_string(), words);
        }
    }

    /// A device that is full answers as the kernel does for a store that is (`EFI_OUT_OF_RESOURCES`).
    #[test]
    fn a_store_that_is_full_is_told_with_the_variable() {
        let place = tempfile::tempdir().unwrap();
        symlink("/dev/full", place.path().join(format!("Name-{GLOBAL}"))).unwrap();
        let error = Efivarfs::at(place.path()).write("Name", b"data").unwrap_err();
        let text = "writing the EFI variable Name: the firmware's variable store is full: No space left on device (os error 28)";
        assert_eq!(format!("{error:#}"), text);
        // And so does the one of other tests.
        let error = Refusing(Efivarfs::at(place.path()), Errno::ENOSPC).write("Name", b"data").unwrap_err();
        assert_eq!(format!("{error:#}"), text);
    }

    #[test]
    fn an_empty_file_is_no_variable() {
        let place = tempfile::tempdir().unwrap();
        let variables = Efivarfs::at(place.path());
        let file = |name: &str| place.path().join(format!("{name}-{GLOBAL}"));
        let names = || variables.names().unwrap().into_iter().collect::<Vec<_>>();
        variables.write("BootNext", b"").unwrap();
        fs::write(file("BootOrder"), "").unwrap();
        assert_eq!((variables.read("BootOrder").unwrap(), names()), (None, vec!["BootNext".to_owned()]));
        assert_eq!(variables.read("BootNext").unwrap(), Some(Vec::new()));
        // It is one as soon as the firmware takes it.
        variables.write("BootOrder", &[1, 0]).unwrap();
        assert_eq!(variables.read("BootOrder").unwrap(), Some(vec![1, 0]));
        assert_eq!(names(), ["BootNext", "BootOrder"]);
        // Less than attributes is something else.
        for length in 1..4 {
            fs::write(file("BootOrder"), vec![7_u8; length]).unwrap();
            let error = variables.read("BootOrder").unwrap_err();
            assert_eq!(error.to_string(), "the EFI variable BootOrder has no attributes");
            assert_eq!(names(), ["BootNext", "BootOrder"]);
        }
    }

    #[test]
    fn a_write_that_is_refused_leaves_no_file_of_its_own() {
        let place = tempfile::tempdir().unwrap();
        let variables = Efivarfs::at(place.path());
        let file = place.path().join(format!("Name-{GLOBAL}"));
        let refused = || {
            let made = Cell::new(false);
            let error = variables.write_by("Name", b"data", |_, _| {
                made.set(file.exists());
                Err(Errno::ENOSPC.into())
            });
            (made.get(), format!("{:#}", error.unwrap_err()))
        };
        let text = "writing the EFI variable Name: the firmware's variable store is full: No space left on device (os error 28)";
        assert_eq!((refused(), file.exists()), ((true, text.to_owned()), false));
        // What was there before stays.
        for before in [Vec::new(), vec![7_u8, 0, 0, 0, 1]] {
            fs::write(&file, &before).unwrap();
            assert_eq!(refused(), (true, text.to_owned()));
            assert_eq!(fs::read(&file).unwrap(), before);
        }
        // And so does what was taken, whatever is said of it.
        fs::remove_file(&file).unwrap();
        let error = variables.write_by("Name", b"data", |mut file, bytes| {
            file.write_all(bytes)?;
            Err(Errno::EIO.into())
        });
        let text = "writing the EFI variable Name: the firmware failed: Input/output error (os error 5)";
        assert_eq!(format!("{:#}", error.unwrap_err()), text);
        assert_eq!(variables.read("Name").unwrap().unwrap(), b"data");
    }
}
