//! Where the programs are that this crate runs.

use std::env;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Directories of administration programs, which an ordinary user's PATH on Debian leaves out.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where `scripts/deps` unpacks what must not be installed on the host.
const HOST_TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../out/host-tools/usr/sbin");

/// The Debian packages of the programs that runs need.
const PACKAGES: [(&str, &str); 10] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("ip", "iproute2"),
    ("dnsmasq", "dnsmasq-base"),
    ("nginx", "nginx"),
    ("openssl", "openssl"),
    ("swtpm", "swtpm"),
    ("swtpm_setup", "swtpm-tools"),
    ("swtpm_localca", "swtpm-tools"),
];

/// The path of the program `name`.
///
/// # Errors
/// "`name` is not installed: it is in the Debian package …".
pub fn find(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = [PathBuf::from(HOST_TOOLS)].into_iter().chain(env::split_paths(&path)).chain(SBIN.map(PathBuf::from));
    for candidate in places.map(|place| place.join(name)) {
        if is_program(&candidate) {
            return Ok(candidate);
        }
    }
    bail!(not_installed(name))
}

/// Says that the program `name` is missing, and where it can be had.
pub(crate) fn not_installed(name: &str) -> String {
    match PACKAGES.iter().find(|(known, _)| *known == name) {
        Some((_, package)) => format!("{name} is not installed: it is in the Debian package {package}"),
        None => format!("{name} is not installed"),
    }
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn finds_a_program_of_sbin_and_names_a_missing_one() {
        assert!(super::find("ip").unwrap().ends_with("ip"));
        let error = super::find("no-such-program").unwrap_err();
        assert_eq!(format!("{error:#}"), "no-such-program is not installed");
    }
}
