//! Where the programs are that this crate runs.

use std::env;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Directories of administration programs, which an ordinary user's PATH on Debian leaves out.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Where `scripts/deps` unpacks what must not be installed on the host.
const HOST_TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../out/host-tools/usr/sbin");

/// The path of the program `name`.
///
/// # Errors
/// "`name` is not installed: run `make deps`".
pub fn find(name: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = [PathBuf::from(HOST_TOOLS)].into_iter().chain(env::split_paths(&path)).chain(SBIN.map(PathBuf::from));
    for candidate in places.map(|place| place.join(name)) {
        if is_program(&candidate) {
            return Ok(candidate);
        }
    }
    bail!("{name} is not installed: run `make deps`")
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
        assert_eq!(format!("{error:#}"), "no-such-program is not installed: run `make deps`");
    }
}
