//! The unpacked tree of a Debian kernel package.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A kernel and its modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What `uname -r` will print, such as `6.12.107+deb13-amd64`.
    pub version: String,
    /// The bootable image.
    pub vmlinuz: PathBuf,
    /// The directory `lib/modules/VERSION`, with the indexes that depmod makes.
    pub modules: PathBuf,
}

impl Kernel {
    /// Finds the one kernel below `root`, the tree that `dpkg -x` makes of a linux-image package.
    ///
    /// # Errors
    ///
    /// No kernel or several of them, no `boot/vmlinuz-VERSION`, or no `modules.dep` (the package has none: depmod
    /// makes it).
    pub fn find(root: &Path) -> Result<Self> {
        let base = ["lib/modules", "usr/lib/modules"]
            .iter()
            .map(|below| root.join(below))
            .find(|dir| dir.is_dir())
            .with_context(|| format!("{} holds no lib/modules: is it an unpacked kernel package?", root.display()))?;
        let version = only_entry(&base)?;
        let modules = base.join(&version);
        let vmlinuz = root.join("boot").join(format!("vmlinuz-{version}"));
        if !vmlinuz.is_file() {
            bail!("{} is missing", vmlinuz.display());
        }
        if !modules.join("modules.dep").is_file() {
            bail!("{} holds no modules.dep: run depmod -b {} {version}", modules.display(), root.display());
        }
        Ok(Self { version, vmlinuz, modules })
    }
}

/// The name of the one entry of `dir`.
fn only_entry(dir: &Path) -> Result<String> {
    let reading = || format!("reading {}", dir.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).with_context(reading)? {
        names.push(entry.with_context(reading)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    match names.as_slice() {
        [name] => Ok(name.clone()),
        [] => bail!("{} holds no kernel version", dir.display()),
        several => bail!("{} holds {} kernel versions: {}", dir.display(), several.len(), several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        dir
    }

    #[test]
    fn a_package_of_trixie_is_found() {
        let dir = tree(&["boot/vmlinuz-6.12.1-amd64", "usr/lib/modules/6.12.1-amd64/modules.dep"]);
        assert_eq!(
            Kernel::find(dir.path()).unwrap(),
            Kernel {
                version: "6.12.1-amd64".into(),
                vmlinuz: dir.path().join("boot/vmlinuz-6.12.1-amd64"),
                modules: dir.path().join("usr/lib/modules/6.12.1-amd64"),
            }
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |files: &[&str]| {
            let dir = tree(files);
            let text = Kernel::find(dir.path()).unwrap_err().to_string();
            text.replace(&dir.path().display().to_string(), "R")
        };
        assert_eq!(error(&["x"]), "R holds no lib/modules: is it an unpacked kernel package?");
        assert_eq!(error(&["lib/modules/1/x"]), "R/boot/vmlinuz-1 is missing");
        assert_eq!(
            error(&["lib/modules/1/x", "boot/vmlinuz-1"]),
            "R/lib/modules/1 holds no modules.dep: run depmod -b R 1"
        );
        assert_eq!(error(&["lib/modules/1/x", "lib/modules/2/x"]), "R/lib/modules holds 2 kernel versions: 1, 2");
    }
}
