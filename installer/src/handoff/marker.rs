//! The mark of a kexec in the firmware's variables: set before the jump, removed by the OS that it led to
//! ([`confirm`](super::confirm)). One that a later installer finds stands for a jump that led nowhere, and this machine is left
//! by a reboot from then on.
//!
//! It is written twice. Before the last report it says that a jump is prepared, so that a firmware that takes no variables is
//! reported; right before the jump it says that it comes, so that a machine that loses its power in between has not failed. Where
//! the jump then does not come, PID 1 takes that back.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::bootvars::{Efivarfs, Variables, write_checked};
use crate::remembered::VENDOR;

/// The variable.
pub const NAME: &str = "MetalstrapKexec";
const FORMAT: u32 = 1;

/// What is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Marker {
    format: u32,
    state: State,
    release: String,
    run: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    Ready,
    Jumped,
}

/// This machine's variables that are ours.
#[must_use]
pub fn variables() -> Efivarfs {
    Efivarfs::default().of_vendor(VENDOR)
}

impl Marker {
    /// Sets it: the run with this id is about to jump into `release`.
    ///
    /// # Errors
    /// The firmware's: full, read-only. What was there before is there still.
    pub fn prepare(variables: &dyn Variables, release: &str, run: &str) -> Result<Self> {
        let marker = Self { format: FORMAT, state: State::Ready, release: release.to_owned(), run: run.to_owned() };
        marker.write(variables)?;
        Ok(marker)
    }

    /// The jump comes now.
    ///
    /// # Errors
    /// The firmware's.
    pub fn jump(self, variables: &dyn Variables) -> Result<()> {
        Self { state: State::Jumped, ..self }.write(variables)
    }

    fn write(&self, variables: &dyn Variables) -> Result<()> {
        write_checked(variables, NAME, &serde_json::to_vec(self)?)
    }

    fn read(variables: &dyn Variables) -> Result<Option<Self>> {
        let Some(bytes) = variables.read(NAME)? else { return Ok(None) };
        let marker: Self = serde_json::from_slice(&bytes).context("parsing it")?;
        anyhow::ensure!(marker.format == FORMAT, "its format is {}, not {FORMAT}", marker.format);
        Ok(Some(marker))
    }
}

/// The jump that the run with this id said to come does not: nothing has failed, and nothing is remembered of it. What another
/// run has left is.
///
/// # Errors
/// The firmware's.
pub fn take_back(variables: &dyn Variables, run: &str) -> Result<()> {
    match Marker::read(variables)? {
        Some(marker) if marker.state == State::Jumped && marker.run == run => variables.remove(NAME),
        _ => Ok(()),
    }
}

/// What the variables say against a kexec, if they do. What cannot be understood does: a reboot is never wrong.
#[must_use]
pub fn failed_before(variables: &dyn Variables) -> Option<String> {
    let name = format!("{NAME}-{VENDOR}");
    match Marker::read(variables) {
        Ok(Some(Marker { state: State::Jumped, release, run, .. })) => Some(format!(
            "this machine's last kexec, into {release} by run {run}, was not confirmed by the OS and counts as failed (EFI \
             variable {name})"
        )),
        Ok(_) => None,
        Err(error) => Some(format!("the EFI variable {name}, which knows failed ones, cannot be read: {error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use nix::errno::Errno;

    use super::*;
    use crate::bootvars::variables::tests::Refusing;

    #[test]
    fn only_a_jump_that_nobody_confirmed_counts() {
        let place = tempfile::tempdir().unwrap();
        let variables = Efivarfs::at(place.path()).of_vendor(VENDOR);
        assert_eq!(failed_before(&variables), None);
        let marker = Marker::prepare(&variables, "debian_13.1", "5b9c").unwrap();
        // The power failed before the jump.
        assert_eq!(failed_before(&variables), None);
        marker.jump(&variables).unwrap();
        let expected = format!(
            "this machine's last kexec, into debian_13.1 by run 5b9c, was not confirmed by the OS and counts as failed (EFI \
             variable MetalstrapKexec-{VENDOR})"
        );
        assert_eq!(failed_before(&variables), Some(expected.clone()));
        // It is remembered until somebody removes it.
        assert_eq!(failed_before(&variables), Some(expected));
        let file = place.path().join(format!("MetalstrapKexec-{VENDOR}"));
        let bytes = fs::read(&file).unwrap();
        assert_eq!(&bytes[4..], br#"{"format":1,"state":"jumped","release":"debian_13.1","run":"5b9c"}"#);
        assert_eq!(bytes[..4], 7_u32.to_le_bytes());
        variables.remove(NAME).unwrap();
        assert_eq!(failed_before(&variables), None);
    }

    #[test]
    fn a_jump_that_is_taken_back_does_not_count() {
        let place = tempfile::tempdir().unwrap();
        let variables = Efivarfs::at(place.path()).of_vendor(VENDOR);
        // Of a release that cannot confirm there is no mark.
        take_back(&variables, "5b9c").unwrap();
        assert_eq!(variables.read(NAME).unwrap(), None);
        let marker = Marker::prepare(&variables, "debian_13.1", "5b9c").unwrap();
        take_back(&variables, "5b9c").unwrap();
        let ready = br#"{"format":1,"state":"ready","release":"debian_13.1","run":"5b9c"}"#;
        assert_eq!(variables.read(NAME).unwrap().unwrap(), ready);
        marker.jump(&variables).unwrap();
        assert!(failed_before(&variables).is_some());
        // By another run it was said of another jump.
        take_back(&variables, "5b9d").unwrap();
        assert!(failed_before(&variables).is_some());
        take_back(&variables, "5b9c").unwrap();
        assert_eq!((failed_before(&variables), variables.read(NAME).unwrap()), (None, None));
        // What cannot be understood stays.
        variables.write(NAME, b"?").unwrap();
        assert!(format!("{:#}", take_back(&variables, "5b9c").unwrap_err()).starts_with("parsing it: "));
        assert_eq!(variables.read(NAME).unwrap().unwrap(), b"?");
    }

    #[test]
    fn what_cannot_be_understood_counts_too() {
        let place = tempfile::tempdir().unwrap();
        let variables = Efivarfs::at(place.path()).of_vendor(VENDOR);
        variables.write(NAME, br#"{"format":2,"state":"ready","release":"a_1","run":"r"}"#).unwrap();
        let expected = format!(
            "the EFI variable MetalstrapKexec-{VENDOR}, which knows failed ones, cannot be read: its format is 2, not 1"
        );
        assert_eq!(failed_before(&variables), Some(expected));
        variables.write(NAME, b"?").unwrap();
        assert!(failed_before(&variables).unwrap().contains("cannot be read: parsing it: "));
    }

    #[test]
    fn a_firmware_that_takes_no_variables_is_an_error() {
        let place = tempfile::tempdir().unwrap();
        let variables = Efivarfs::at(&place.path().join("not-mounted")).of_vendor(VENDOR);
        let refused = |variables: &dyn Variables| {
            let error = Marker::prepare(variables, "debian_13.1", "5b9c").unwrap_err();
            assert_eq!(failed_before(variables), None);
            format!("{error:#}")
        };
        let writing = "writing the EFI variable MetalstrapKexec";
        assert_eq!(
            refused(&variables),
            format!(
                "{writing}: not started by UEFI, or efivarfs is not mounted: No such file or directory (os error 2)"
            )
        );
        for (errno, text) in [
            (Errno::ENOSPC, "the firmware's variable store is full: No space left on device (os error 28)"),
            (Errno::EROFS, "the firmware's variables are read-only: Read-only file system (os error 30)"),
        ] {
            let variables = Refusing(Efivarfs::at(place.path()).of_vendor(VENDOR), errno);
            assert_eq!(refused(&variables), format!("{writing}: {text}"));
        }
    }
}
