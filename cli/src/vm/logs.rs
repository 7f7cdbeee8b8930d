//! The directory of a run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use metalstrap_qemu::{Machine, Serial};
use serde_json::Value;

use super::outcome::{Kind, Outcome, Phase};
use super::provision::MACHINE;

/// Where logs, disks and sockets of a run are.
#[derive(Debug)]
pub struct Logs {
    path: PathBuf,
    /// Asked for by name: it stays whatever comes of the run.
    named: bool,
    keep_disks: bool,
}

/// The machine's events as JSON lines.
const EVENTS: &str = "events.jsonl";

impl Logs {
    /// The directory `asked`, or a temporary one.
    ///
    /// # Errors
    /// When it is not empty, for a run must not find the disks of another one; or cannot be made.
    pub fn new(asked: Option<&Path>, keep_disks: bool) -> Result<Self> {
        let Some(path) = asked else {
            let dir = tempfile::Builder::new().prefix("metalstrap-vm-").tempdir();
            return Ok(Self { path: dir.context("making a directory for logs")?.keep(), named: false, keep_disks });
        };
        let making = || format!("making the directory {}", path.display());
        fs::create_dir_all(path).with_context(making)?;
        let mut entries = fs::read_dir(path).with_context(making)?;
        ensure!(entries.next().is_none(), "the directory {} for logs is not empty", path.display());
        Ok(Self { path: fs::canonicalize(path).with_context(making)?, named: true, keep_disks })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds what the installer told so far.
    pub fn add_events(&self, serial: &Serial) -> Result<()> {
        self.add_lines(EVENTS, serial.events().into_iter().map(|event| event.value))
    }

    /// Adds what QEMU's monitor told since the machine's power-on: resets, watchdog expiries, the end.
    pub fn add_monitor(&self, phase: Phase, machine: &Machine<'_>) -> Result<()> {
        let name = serde_json::to_value(phase).context("naming the log of QEMU's monitor")?;
        let name = name.as_str().unwrap_or_default();
        self.add_lines(&format!("monitor-{name}.jsonl"), machine.monitor_events())
    }

    fn add_lines(&self, name: &str, lines: impl IntoIterator<Item = Value>) -> Result<()> {
        let path = self.path.join(name);
        let text: String = lines.into_iter().map(|line| format!("{line}\n")).collect();
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Removes what is not to be kept, and puts the rest into the outcome.
    pub fn finish(&self, outcome: &mut Outcome) {
        let keep = self.named || outcome.kind != Kind::Installed;
        let removed = match (keep, self.keep_disks) {
            (false, _) => fs::remove_dir_all(&self.path),
            (true, true) => Ok(()),
            (true, false) => remove_state(&self.path),
        };
        if let Err(error) = removed {
            eprintln!("removing files in {}: {error}", self.path.display());
        }
        if keep {
            let events = self.path.join(EVENTS);
            outcome.events = events.exists().then_some(events);
            outcome.logs = Some(self.path.clone());
        }
    }
}

/// Removes everything that is no log: disks, the USB stick, firmware variables, the TPM's state, keys.
fn remove_state(dir: &Path) -> std::io::Result<()> {
    let machine = dir.join(MACHINE);
    for tree in [machine.join("stick"), dir.join("tpm/ca"), dir.join("ca")] {
        remove(fs::remove_dir_all(tree))?;
    }
    for place in [machine, dir.join("tpm")] {
        let Ok(entries) = fs::read_dir(place) else { continue };
        for entry in entries {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().ends_with(".log") {
                remove(fs::remove_file(entry.path()))?;
            }
        }
    }
    Ok(())
}

/// What is not there needs no removal.
fn remove(result: std::io::Result<()>) -> std::io::Result<()> {
    result.or_else(|error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run's directory with one file of each kind.
    fn filled(logs: &Logs) {
        for name in ["machine/serial.log", "machine/disk-0.raw", "machine/stick/EFI/x", "tpm/swtpm.log", "tpm/state"] {
            let path = logs.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
    }

    #[test]
    fn logs_are_kept_without_disks_where_they_were_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let logs = Logs::new(Some(&path), false).unwrap();
        filled(&logs);
        let mut outcome = Outcome { kind: Kind::Installed, ..Outcome::default() };
        logs.finish(&mut outcome);
        assert_eq!(outcome.logs, Some(fs::canonicalize(&path).unwrap()));
        let there = |name: &str| path.join(name).exists();
        assert!(there("machine/serial.log") && there("tpm/swtpm.log"));
        assert!(!there("machine/disk-0.raw") && !there("machine/stick") && !there("tpm/state"));
        let error = Logs::new(Some(&path), false).unwrap_err().to_string();
        assert_eq!(error, format!("the directory {} for logs is not empty", path.display()));
    }

    #[test]
    fn a_directory_that_nobody_named_stays_only_after_a_failure() {
        let logs = Logs::new(None, false).unwrap();
        filled(&logs);
        let mut outcome = Outcome { kind: Kind::Timeout, ..Outcome::default() };
        logs.finish(&mut outcome);
        assert!(logs.path().join("machine/serial.log").exists());
        outcome = Outcome { kind: Kind::Installed, ..Outcome::default() };
        logs.finish(&mut outcome);
        assert!(!logs.path().exists());
        assert_eq!(outcome.logs, None);
    }
}
