//! What the tests of the harness start: a kernel without an initrd (it says a few lines and panics), and a UKI of it.
//! Both from what `scripts/fetch-kernels` fetches.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory that `scripts/fetch-kernels` makes.
fn fetched(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("out").join(name);
    assert!(dir.is_dir(), "{} is missing: run scripts/fetch-kernels", dir.display());
    dir
}

/// Runs a command and returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {} {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// The kernel for virtual machines.
pub fn kernel() -> PathBuf {
    let boot = std::fs::read_dir(fetched("kernels/cloud/boot")).unwrap().map(|entry| entry.unwrap().path());
    boot.into_iter().find(|path| path.to_str().unwrap().contains("/vmlinuz-")).unwrap()
}

/// A UKI of the kernel in `dir`.
pub fn uki(dir: &Path, command_line: &str) -> PathBuf {
    let (tools, uki) = (fetched("boot-tools"), dir.join("hello.efi"));
    // Debian's: another one in PATH would not have python3-pefile.
    run(Command::new("/usr/bin/python3")
        .arg(tools.join("usr/bin/ukify"))
        .arg("build")
        .arg("--linux")
        .arg(kernel())
        .args(["--cmdline", command_line, "--stub"])
        .arg(tools.join("usr/lib/systemd/boot/efi/linuxx64.efi.stub"))
        .arg("--output")
        .arg(&uki));
    uki
}
