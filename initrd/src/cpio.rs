//! Writes cpio archives in the form that the kernel unpacks (newc; kernel: `Documentation/driver-api/early-userspace/
//! buffer-format.rst`).
//!
//! The bytes depend on names and contents alone: entries lie in the order of their names, times and owners are zero,
//! inode numbers count from 1.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, bail};

const TYPE_DIRECTORY: u32 = 0o040_000;
const TYPE_FILE: u32 = 0o100_000;
const TYPE_SYMLINK: u32 = 0o120_000;
const TYPE_CHARACTER: u32 = 0o020_000;

/// An archive in the making.
#[derive(Debug, Default, Clone)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    mode: u32,
    /// Major and minor number of a device node.
    device: (u32, u32),
    data: Vec<u8>,
}

impl Archive {
    /// An archive with no entry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory; `path` has no leading slash. Parents come along with mode 0755.
    ///
    /// # Errors
    ///
    /// A path that is empty, absolute or climbs (`..`), or that is there already as something else.
    pub fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        self.add(path, Entry { mode: TYPE_DIRECTORY | mode, device: (0, 0), data: Vec::new() })
    }

    /// Adds a regular file.
    ///
    /// # Errors
    ///
    /// As [`directory`](Self::directory); also a file that is there already, or one of 4 GiB and more.
    pub fn file(&mut self, path: &str, mode: u32, data: Vec<u8>) -> Result<()> {
        self.add(path, Entry { mode: TYPE_FILE | mode, device: (0, 0), data })
    }

    /// Adds a symbolic link to `target`.
    ///
    /// # Errors
    ///
    /// As [`file`](Self::file).
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        self.add(path, Entry { mode: TYPE_SYMLINK | 0o777, device: (0, 0), data: target.as_bytes().to_vec() })
    }

    /// Adds a character device.
    ///
    /// # Errors
    ///
    /// As [`file`](Self::file).
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> Result<()> {
        self.add(path, Entry { mode: TYPE_CHARACTER | mode, device: (major, minor), data: Vec::new() })
    }

    fn add(&mut self, path: &str, entry: Entry) -> Result<()> {
        if path.split('/').any(|part| matches!(part, "" | "." | "..")) || path.contains('\0') {
            bail!("{path:?} is no path for a cpio archive: relative, without empty, `.` or `..` parts");
        }
        if u32::try_from(entry.data.len()).is_err() {
            bail!("{path} is too large for a cpio archive");
        }
        for (at, _) in path.match_indices('/') {
            let parent = path.get(..at).unwrap_or_default().to_owned();
            let above = self.entries.entry(parent).or_insert_with(|| Entry {
                mode: TYPE_DIRECTORY | 0o755,
                device: (0, 0),
                data: Vec::new(),
            });
            if above.mode & TYPE_DIRECTORY == 0 {
                bail!("{path} lies below something that is no directory");
            }
        }
        let directory = entry.mode & 0o170_000 == TYPE_DIRECTORY;
        match self.entries.get(path) {
            Some(old) if !directory || old.mode & 0o170_000 != TYPE_DIRECTORY => {
                bail!("{path} is in the archive twice")
            }
            _ => self.entries.insert(path.to_owned(), entry),
        };
        Ok(())
    }

    /// The archive's bytes, a multiple of 4.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (inode, (path, entry)) in (1u32..).zip(&self.entries) {
            put(&mut out, inode, path, entry);
        }
        put(&mut out, 0, "TRAILER!!!", &Entry { mode: 0, device: (0, 0), data: Vec::new() });
        out
    }
}

/// Appends header, name and data, each padded to 4 bytes.
fn put(out: &mut Vec<u8>, inode: u32, path: &str, entry: &Entry) {
    // A link count of 2 and more would make the kernel look for hard links among regular files.
    let links = if entry.mode & 0o170_000 == TYPE_DIRECTORY { 2 } else { 1 };
    let (uid, gid, time, device) = (0, 0, 0, (0, 0));
    let size = u32::try_from(entry.data.len()).unwrap_or(u32::MAX);
    let name_size = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
    let fields = [
        inode,
        entry.mode,
        uid,
        gid,
        links,
        time,
        size,
        device.0,
        device.1,
        entry.device.0,
        entry.device.1,
        name_size,
        0,
    ];
    let mut header = String::from("070701");
    for field in fields {
        // Writing to a string cannot fail.
        let _ = write!(header, "{field:08X}");
    }
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out);
    out.extend_from_slice(&entry.data);
    pad(out);
}

/// Zeroes up to a multiple of 4.
pub(crate) fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use metalstrap_release::digest::Digest;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn sample() -> Archive {
        let mut archive = Archive::new();
        archive.file("etc/metalstrap/site.json", 0o644, b"{}\n".to_vec()).unwrap();
        archive.file("init", 0o755, vec![7; 4097]).unwrap();
        archive.directory("proc", 0o555).unwrap();
        archive.symlink("lib64", "lib").unwrap();
        archive.character_device("dev/console", 0o600, 5, 1).unwrap();
        archive
    }

    fn cpio(arguments: &[&str], input: &[u8], dir: &std::path::Path) -> String {
        let mut child = Command::new("cpio")
            .args(arguments)
            .current_dir(dir)
            .env("TZ", "UTC")
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_bytes_never_change() {
        let bytes = sample().to_bytes();
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(Digest::of(&bytes).to_string(), "719080f6754b6da88c1ded5c7fb64e24bd810d9a733af7793ef6c287b05476f7");
    }

    #[test]
    fn order_of_adding_does_not_matter() {
        let mut archive = Archive::new();
        archive.character_device("dev/console", 0o600, 5, 1).unwrap();
        archive.symlink("lib64", "lib").unwrap();
        archive.directory("proc", 0o555).unwrap();
        archive.file("init", 0o755, vec![7; 4097]).unwrap();
        archive.file("etc/metalstrap/site.json", 0o644, b"{}\n".to_vec()).unwrap();
        assert_eq!(archive.to_bytes(), sample().to_bytes());
    }

    #[test]
    fn cpio_lists_it() {
        let dir = tempfile::tempdir().unwrap();
        let list = cpio(&["-tv", "--quiet", "--numeric-uid-gid"], &sample().to_bytes(), dir.path());
        let words: Vec<Vec<&str>> = list.lines().map(|line| line.split_whitespace().collect()).collect();
        let seen: Vec<(&str, &str)> = words.iter().map(|w| (w[0], *w.last().unwrap())).collect();
        assert_eq!(
            seen,
            [
                ("drwxr-xr-x", "dev"),
                ("crw-------", "dev/console"),
                ("drwxr-xr-x", "etc"),
                ("drwxr-xr-x", "etc/metalstrap"),
                ("-rw-r--r--", "etc/metalstrap/site.json"),
                ("-rwxr-xr-x", "init"),
                ("lrwxrwxrwx", "lib"),
                ("dr-xr-xr-x", "proc"),
            ]
        );
        assert_eq!(&words[1][2..10], ["0", "0", "5,", "1", "Jan", "1", "1970", "dev/console"]);
    }

    #[test]
    fn cpio_unpacks_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = Archive::new();
        archive.file("a/b/odd", 0o640, vec![1, 2, 3, 4, 5]).unwrap();
        archive.file("a/empty", 0o600, Vec::new()).unwrap();
        archive.symlink("a/link", "b/odd").unwrap();
        cpio(&["-i", "--quiet"], &archive.to_bytes(), dir.path());
        assert_eq!(std::fs::read(dir.path().join("a/link")).unwrap(), [1, 2, 3, 4, 5]);
        assert!(std::fs::read(dir.path().join("a/empty")).unwrap().is_empty());
    }

    #[test]
    fn bad_paths_are_refused() {
        let mut archive = Archive::new();
        let error = archive.file("/etc/x", 0o644, Vec::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"/etc/x\" is no path for a cpio archive: relative, without empty, `.` or `..` parts"
        );
        assert!(archive.file("a/../b", 0o644, Vec::new()).is_err());
        archive.file("a", 0o644, Vec::new()).unwrap();
        assert_eq!(archive.file("a", 0o644, Vec::new()).unwrap_err().to_string(), "a is in the archive twice");
        assert_eq!(
            archive.file("a/b", 0o644, Vec::new()).unwrap_err().to_string(),
            "a/b lies below something that is no directory"
        );
    }
}
