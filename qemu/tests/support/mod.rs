//! What the tests of the harness start: a kernel without an initrd (it says a few lines and panics), and a UKI of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The top of the tree.
fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Runs a command and returns what it printed.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {} {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn apt_fetch(arguments: &[&str]) {
    run(Command::new(top().join("scripts/apt-fetch")).args(arguments));
}

/// Debian's cloud kernel with ukify and its stub, unpacked once into out/cache/harness.
fn unpacked() -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let cache = top().join("out/cache/harness");
    let (root, done, meta) = (cache.join("root"), cache.join("done"), cache.join("meta"));
    if !done.exists() {
        // A file of another version from a run that was cut off would be ambiguous.
        if meta.exists() {
            std::fs::remove_dir_all(&meta).unwrap();
        }
        apt_fetch(&["--deb", "trixie", meta.to_str().unwrap(), "linux-image-cloud-amd64"]);
        let deb = std::fs::read_dir(&meta).unwrap().next().unwrap().unwrap().path();
        let depends = run(Command::new("dpkg-deb").arg("-f").arg(deb).arg("Depends"));
        let kernel = depends.split_whitespace().find(|word| word.starts_with("linux-image-")).unwrap();
        apt_fetch(&["trixie", root.to_str().unwrap(), kernel, "systemd-ukify", "systemd-boot-efi"]);
        std::fs::write(done, "").unwrap();
    }
    root
}

/// The kernel.
pub fn kernel() -> PathBuf {
    let boot = std::fs::read_dir(unpacked().join("boot")).unwrap().map(|entry| entry.unwrap().path());
    boot.into_iter().find(|path| path.to_str().unwrap().contains("/vmlinuz-")).unwrap()
}

/// A UKI of the kernel in `dir`.
pub fn uki(dir: &Path, command_line: &str) -> PathBuf {
    let (root, uki) = (unpacked(), dir.join("hello.efi"));
    // Debian's: another one in PATH would not have python3-pefile.
    run(Command::new("/usr/bin/python3")
        .arg(root.join("usr/bin/ukify"))
        .arg("build")
        .arg("--linux")
        .arg(kernel())
        .args(["--cmdline", command_line, "--stub"])
        .arg(root.join("usr/lib/systemd/boot/efi/linuxx64.efi.stub"))
        .arg("--output")
        .arg(&uki));
    uki
}
