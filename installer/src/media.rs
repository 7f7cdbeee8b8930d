//! A medium with settings: a file system with our label on a USB disk, a removable disk or in an optical drive, which is what
//! people plug in and BMCs show as virtual media. It is read here and not mounted, so that no driver of the kernel meets it.
//!
//! A fixed disk is not believed: it may be one that was left behind, by whoever had the machine before. Nothing is waited for:
//! what the drivers have brought by now is looked at, and a drive without a medium is an empty one. One that does not answer, as
//! with a damaged disc, for which the kernel takes minutes, is passed over.

mod fat;
mod iso9660;
#[cfg(test)]
pub(crate) mod tests;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Result;
use metalstrap_release::discovery::medium::{FILE, LABEL, MAX_BYTES};

use crate::disk::{Identity, sysfs_text};
use crate::failure::{Code, WithCode as _, coded};
use crate::inventory::{is_disk, is_optical, parts, transport};

/// [`FILE`] as FAT stores it.
const SHORT: &[u8; 11] = b"SETTINGSTXT";

/// A drive says by then whether it has our label: a command may fail once by its time-out of 30 s.
const PATIENCE: Duration = Duration::from_secs(45);

/// Reads bytes at an offset.
type ReadAt<'a> = &'a dyn Fn(u64, &mut [u8]) -> io::Result<()>;

/// A medium with settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Medium {
    /// As a person knows it: kernel name, model and serial number.
    pub name: String,
    /// The file's bytes.
    pub text: Vec<u8>,
}

/// Looks for one among the drives below `sys` (`/sys`), whose nodes are in `dev` (`/dev`). `warn` gets what is not believed, and
/// what would be and cannot be read.
///
/// # Errors
/// [`Code::Discovery`]: there are several, or one without a file that can be read.
pub fn look(sys: &Path, dev: &Path, warn: &dyn Fn(&str)) -> Result<Option<Medium>> {
    let (believed, others): (Vec<_>, Vec<_>) = drives(&sys.join("block"))
        .iter()
        .flat_map(|drive| drive.labelled(dev, warn))
        .partition(|found| found.is_believed);
    for other in others {
        let name = other.name;
        warn(&format!(
            "{name} has the label {LABEL} and is not believed: it is neither on USB nor removable nor optical"
        ));
    }
    let [found] = believed.as_slice() else {
        let names: Vec<_> = believed.iter().map(|found| found.name.as_str()).collect();
        let text =
            format!("there may be one medium with the label {LABEL}, and there are several: {}", names.join("; "));
        return if names.is_empty() { Ok(None) } else { Err(coded(Code::Discovery, text)) };
    };
    let name = found.name.clone();
    match found.settings().code(Code::Discovery, || format!("reading {FILE} on {name}"))? {
        Some(text) => Ok(Some(Medium { name, text })),
        None => Err(coded(Code::Discovery, format!("{name} has the label {LABEL} and no file {FILE}"))),
    }
}

/// A disk or an optical drive.
struct Drive {
    /// Its directory in sysfs.
    block: PathBuf,
    name: String,
    is_believed: bool,
}

/// A device with our label.
struct Found {
    file: File,
    name: String,
    is_believed: bool,
}

/// A file system of either kind.
enum Volume<'a> {
    Fat(fat::Volume<'a>),
    Iso(iso9660::Volume<'a>),
}

/// All of them, in the order of their names. Where sysfs cannot be read there are none: who looks for disks says so.
fn drives(directory: &Path) -> Vec<Drive> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    let drive = |name: String| {
        let block = directory.join(&name);
        let optical = is_optical(&name);
        let removable = || sysfs_text(&block.join("removable")).as_deref() == Some("1");
        let is_believed = optical || removable() || transport(&block, &name) == "usb";
        (optical || is_disk(&block, &name)).then_some(Drive { block, name, is_believed })
    };
    names.into_iter().filter_map(drive).collect()
}

impl Drive {
    /// What of it has our label: the whole of it, else its partitions.
    fn labelled(&self, dev: &Path, warn: &dyn Fn(&str)) -> Vec<Found> {
        let mut found = Vec::new();
        for (_, name) in parts(&self.block, &self.name) {
            // In names of devices the kernel has `!` for `/`.
            let path = dev.join(name.replace('!', "/"));
            match labelled_within(path, PATIENCE) {
                Ok(Some(file)) => {
                    found.push(Found { file, name: self.described(&name), is_believed: self.is_believed });
                    if name == self.name {
                        break;
                    }
                }
                Ok(None) => {}
                // A drive without a medium, and one that has just gone.
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOMEDIUM | libc::ENOENT | libc::ENXIO)) => {}
                Err(error) => {
                    let text = format!("looking for the label {LABEL} on {}: {error}", self.described(&name));
                    // Of a fixed disk it is told when disks are looked at.
                    if self.is_believed {
                        warn(&text)
                    } else {
                        log::info!("{text}")
                    }
                    // Its partitions would take as long.
                    if error.kind() == io::ErrorKind::TimedOut {
                        break;
                    }
                }
            }
        }
        found
    }

    fn described(&self, name: &str) -> String {
        let Identity { model, serial, .. } = Identity::read(&self.block);
        let serial = serial.map(|serial| format!("serial {serial}"));
        let details: Vec<_> = model.into_iter().chain(serial).collect();
        if details.is_empty() { name.to_owned() } else { format!("{name} ({})", details.join(", ")) }
    }
}

/// The same as [`labelled`], but an error where the answer takes too long: a thread that waits for a device cannot be ended.
fn labelled_within(path: PathBuf, limit: Duration) -> io::Result<Option<File>> {
    let (answer, answers) = mpsc::channel();
    std::thread::Builder::new().stack_size(256 * 1024).spawn(move || {
        // Who asked may have gone on.
        let _ = answer.send(labelled(&path));
    })?;
    answers.recv_timeout(limit).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The device at `path`, if it has our label.
fn labelled(path: &Path) -> io::Result<Option<File>> {
    let file = File::open(path)?;
    let has_label = Volume::open(&|at, buffer| file.read_exact_at(buffer, at))?.is_some();
    Ok(has_label.then_some(file))
}

impl Found {
    /// The bytes of the file.
    fn settings(&self) -> io::Result<Option<Vec<u8>>> {
        match Volume::open(&|at, buffer| self.file.read_exact_at(buffer, at))? {
            Some(Volume::Fat(volume)) => volume.file(SHORT, MAX_BYTES),
            Some(Volume::Iso(volume)) => volume.file(FILE, MAX_BYTES),
            None => Ok(None),
        }
    }
}

impl<'a> Volume<'a> {
    /// The file system with our label.
    fn open(read: ReadAt<'a>) -> io::Result<Option<Self>> {
        let is_ours = |label: &str| label.eq_ignore_ascii_case(LABEL);
        if let Some(volume) = iso9660::Volume::open(read)?.filter(|volume| is_ours(&volume.label)) {
            return Ok(Some(Self::Iso(volume)));
        }
        match fat::Volume::open(read)? {
            Some(volume) if is_ours(&volume.label()?) => Ok(Some(Self::Fat(volume))),
            _ => Ok(None),
        }
    }
}
