//! Assembles UKIs with systemd's ukify.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// ukify, the EFI stub and the boot loader, from the packages systemd-ukify, systemd-boot-efi and python3-pefile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootTools {
    /// The Python program.
    pub ukify: PathBuf,
    /// Directory of the Python modules that it imports.
    pub python: PathBuf,
    /// `linuxx64.efi.stub`.
    pub stub: PathBuf,
    /// `systemd-bootx64.efi`.
    pub loader: PathBuf,
}

/// What a UKI is made of.
#[derive(Debug, Clone, Copy)]
pub struct Uki<'a> {
    /// The kernel image.
    pub linux: &'a Path,
    /// The initrd.
    pub initrd: &'a Path,
    /// The kernel command line.
    pub cmdline: &'a str,
    /// The kernel's version.
    pub uname: &'a str,
    /// Text in the form of os-release(5).
    pub os_release: &'a str,
}

impl BootTools {
    /// Finds them in the tree that the packages were unpacked to.
    ///
    /// # Errors
    ///
    /// The first file that is missing.
    pub fn find(root: &Path) -> Result<Self> {
        let tools = Self {
            ukify: root.join("usr/bin/ukify"),
            python: root.join("usr/lib/python3/dist-packages"),
            stub: root.join("usr/lib/systemd/boot/efi/linuxx64.efi.stub"),
            loader: root.join("usr/lib/systemd/boot/efi/systemd-bootx64.efi"),
        };
        for path in [&tools.ukify, &tools.python, &tools.stub, &tools.loader] {
            if !path.exists() {
                bail!("{} is missing: run scripts/fetch-kernels", path.display());
            }
        }
        Ok(tools)
    }

    /// Writes a UKI to `output`. The same parts give the same bytes.
    ///
    /// # Errors
    ///
    /// What ukify says.
    pub fn assemble(&self, uki: &Uki<'_>, output: &Path) -> Result<()> {
        let making = || format!("making the UKI {}", output.display());
        let result = self.command(uki, output).output().with_context(making)?;
        if !result.status.success() {
            bail!("{}: ukify: {}", making(), String::from_utf8_lossy(&result.stderr).trim());
        }
        Ok(())
    }

    /// What [`BootTools::assemble`] runs, to which more options of ukify may be added.
    #[must_use]
    pub fn command(&self, uki: &Uki<'_>, output: &Path) -> Command {
        let path = |option: &str, path: &Path| format!("{option}={}", path.display());
        // Debian's own interpreter: the packages' modules are made for it.
        let mut command = Command::new("/usr/bin/python3");
        command
            .env("PYTHONPATH", &self.python)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(&self.ukify)
            .arg("build")
            // Without it ukify would read the host's /etc/kernel/uki.conf.
            .arg("--config=/dev/null")
            .arg(path("--linux", uki.linux))
            .arg(path("--initrd", uki.initrd))
            .arg(path("--stub", &self.stub))
            .arg(path("--output", output))
            .arg(format!("--cmdline={}", uki.cmdline))
            .arg(format!("--uname={}", uki.uname))
            .arg(format!("--os-release={}", uki.os_release));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = BootTools::find(dir.path()).unwrap_err();
        let text = error.to_string().replace(&dir.path().display().to_string(), "R");
        assert_eq!(text, "R/usr/bin/ukify is missing: run scripts/fetch-kernels");
    }
}
