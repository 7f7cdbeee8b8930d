//! Firmware that takes no boot entry: the installation is complete all the same, and whoever reads the report learns of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail};
use nix::errno::Errno;
use serde_json::json;

use super::published::good;
use super::trial::Trial;
use crate::bootvars::variables::tests::Refusing;
use crate::bootvars::{Efivarfs, GLOBAL, Variables};
use crate::machine::{Firmware, Seams};

/// What is wrong with the firmware's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    /// The kernel says this to what is written.
    Refusing(Errno),
    /// It says that it has what was written.
    Lying,
    /// Started by a BIOS, or without efivarfs.
    Absent,
}

impl Store {
    /// It, with the files of its variables in `place` where it has such.
    fn variables(self, place: &Path) -> Box<dyn Variables + Send + Sync> {
        match self {
            Self::Refusing(errno) => Box::new(Refusing(Efivarfs::at(place), errno)),
            Self::Lying | Self::Absent => Box::new(self),
        }
    }
}

impl Variables for Store {
    fn names(&self) -> Result<BTreeSet<String>> {
        if *self == Self::Absent {
            bail!("there are no EFI variables");
        }
        Ok(BTreeSet::from(["BootOrder".to_owned()]))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        if *self == Self::Absent {
            bail!("reading the EFI variable {name}: the firmware failed");
        }
        Ok(None)
    }

    fn write(&self, _: &str, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        bail!("nobody removes {name}")
    }
}

/// Lesson 9 of the field: installations ended with an error after a perfect copy, because the firmware's store was full.
#[tokio::test]
async fn lesson_9_a_firmware_that_takes_no_boot_entry_is_told_of_and_the_run_goes_on() {
    let lies = "the firmware took the EFI variable Boot0000, but reading it gives something else";
    let full = "the firmware's variable store is full: No space left on device (os error 28)";
    let read_only = "the firmware's variables are read-only: Read-only file system (os error 30)";
    let [full, read_only] = [full, read_only].map(|why| format!("writing the EFI variable Boot0000: {why}"));
    let cases = [
        (Store::Refusing(Errno::ENOSPC), 2, full.as_str()),
        (Store::Refusing(Errno::EROFS), 2, read_only.as_str()),
        (Store::Lying, 2, lies),
        (Store::Absent, 3, "there are no EFI variables"),
    ];
    for (store, count, why) in cases {
        let place = tempfile::tempdir().unwrap();
        fs::write(place.path().join(format!("BootOrder-{GLOBAL}")), [7, 0, 0, 0]).unwrap();
        let at = place.path().to_owned();
        let mut trial = Trial::of(&good());
        trial.changes = Arc::new(move |seams: Seams| {
            let [boot, loader, keys, database] = [store; 4].map(|store| store.variables(&at));
            let firmware = Firmware { boot, loader, keys, database };
            Seams { firmware: Some(firmware), ..seams }
        });
        let outcome = trial.run().await;
        outcome.installed();
        let events = outcome.events();
        let (entry, last) = (events.iter().filter(|event| event["step"] == "boot-entry"), events.last().unwrap());
        let (states, fields): (Vec<_>, Vec<_>) = entry.map(|event| (&event["state"], &event["fields"])).unzip();
        let mut expected = vec!["warning"; count];
        expected.insert(0, "started");
        expected.push("done");
        assert_eq!(json!(states), json!(expected), "{store:?}");
        let warning = format!("the firmware has no boot entry for the installed OS: {why}");
        assert_eq!(fields[1]["message"], warning);
        assert_eq!((&last["step"], &last["state"]), (&json!("run"), &json!("finished")));
        assert_eq!(last["fields"]["boot_entry"], json!({"name": null, "warnings": [warning]}));
    }
}
