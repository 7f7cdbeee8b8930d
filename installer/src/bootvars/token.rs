//! The system token: a secret of this machine that systemd-boot mixes into the random seed on the ESP, so that copies of a disk
//! do not start with the same entropy (systemd `src/boot/random-seed.c`, Boot Loader Interface, `LoaderSystemToken`).

use anyhow::Result;

use super::{Variables, write_checked};

/// systemd-boot's namespace (Boot Loader Interface).
pub const VENDOR: &str = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
const NAME: &str = "LoaderSystemToken";
/// Bytes of a token; a longer one that is there will do.
const BYTES: usize = 32;

/// Gives the machine a token, `random` bytes, if it has none. Says whether it was written.
///
/// # Errors
/// The firmware's.
pub fn provide(variables: &dyn Variables, random: &[u8]) -> Result<bool> {
    if variables.read(NAME)?.is_some_and(|token| token.len() >= BYTES) {
        return Ok(false);
    }
    anyhow::ensure!(random.len() >= BYTES, "a system token of {} bytes", random.len());
    write_checked(variables, NAME, random)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::Efivarfs;
    use super::*;

    #[test]
    fn a_token_is_written_once_and_for_root_only() {
        let place = tempfile::tempdir().unwrap();
        let variables = Efivarfs::at(place.path()).of_vendor(VENDOR).secret();
        assert!(provide(&variables, &[7; 32]).unwrap());
        assert!(!provide(&variables, &[8; 32]).unwrap());
        let path = place.path().join(format!("{NAME}-{VENDOR}"));
        let file = std::fs::read(&path).unwrap();
        assert_eq!((&file[..4], &file[4..]), (&[7, 0, 0, 0][..], &[7; 32][..]));
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        // One that is too short is none.
        std::fs::write(&path, [7, 0, 0, 0, 1]).unwrap();
        assert!(provide(&variables, &[9; 32]).unwrap());
        assert_eq!(provide(&Efivarfs::at(place.path()), &[1]).unwrap_err().to_string(), "a system token of 1 bytes");
    }
}
