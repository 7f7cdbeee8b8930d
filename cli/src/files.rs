//! Files that appear whole or not at all, and stay when the power fails.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result};
use tempfile::NamedTempFile;

/// How files start that are not finished.
pub const UNFINISHED: &str = ".new-";

/// A file in `directory` that has no name of its own yet.
///
/// # Errors
/// When it cannot be made.
pub fn temporary(directory: &Path, mode: u32) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(UNFINISHED).permissions(Permissions::from_mode(mode));
    builder.tempfile_in(directory).with_context(|| format!("making a file in {}", directory.display()))
}

/// Gives the file its name, once its bytes are on the disk.
///
/// # Errors
/// When that fails; nothing has the name then, or what had it before.
pub fn keep(file: NamedTempFile, path: &Path) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    file.as_file().sync_all().with_context(writing)?;
    file.persist(path).with_context(writing)?;
    sync_directory(path).with_context(writing)
}

/// Writes a file, in place of the one that had the name before.
///
/// # Errors
/// When it cannot be written; what was there stays.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut file = temporary(directory_of(path), mode)?;
    file.write_all(bytes).with_context(|| format!("writing {}", path.display()))?;
    keep(file, path)
}

/// Writes a new file.
///
/// # Errors
/// When there is one already, or it cannot be written.
pub fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let writing = || format!("writing {}", path.display());
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).with_context(writing)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).with_context(writing)?;
    sync_directory(path).with_context(writing)
}

/// Puts the names in the directory of `path` on the disk.
fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(directory_of(path)).and_then(|directory| directory.sync_all())
}

/// The directory that a file is in; of a bare name that is the current one.
fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}
