//! The log's file: records as systemd writes them, each behind its extension of the TPM.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::tpm::{BankDigest, PcrIndex, Tpm};

/// Set on the file while a record is being made: a log that has it misses a measurement (as in systemd's log).
pub(crate) const STICKY: u32 = 0o1000;

/// One record, as systemd writes it (src/shared/tpm2-util.c, tpm2_userspace_log).
#[derive(Debug, Serialize)]
struct Record<'a> {
    pcr: PcrIndex,
    digests: &'a [BankDigest],
    content_type: &'static str,
    content: Content<'a>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    input: &'a str,
    boot_id: &'a str,
    /// Microseconds of CLOCK_BOOTTIME.
    timestamp: u64,
    event_type: &'static str,
}

/// What is measured, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Input<'a> {
    pub(super) pcr: PcrIndex,
    pub(super) what: &'a str,
    /// One in each active bank.
    pub(super) digests: &'a [BankDigest],
}

/// The measurements made since the machine was switched on: in a file, and whole in memory.
#[derive(Debug)]
pub struct EventLog {
    file: File,
    text: String,
    boot_id: String,
    /// As [`STICKY`] on the file.
    incomplete: bool,
}

impl EventLog {
    /// Opens the log. What an earlier run of this boot wrote stays: its measurements are in the PCR too.
    ///
    /// # Errors
    /// The file cannot be made or read, or an earlier run was stopped between the TPM and the log.
    pub fn open(path: &Path) -> Result<Self> {
        let what = || format!("opening the event log {}", path.display());
        if let Some(directory) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(directory).with_context(what)?;
        }
        let options = OpenOptions::new().read(true).append(true).create(true).mode(0o600).to_owned();
        let mut file = options.open(path).with_context(what)?;
        file.lock().with_context(what)?;
        let stopped = file.metadata().with_context(what)?.permissions().mode() & STICKY != 0;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(what)?;
        file.unlock().with_context(what)?;
        if stopped {
            bail!(
                "{}: an earlier run was stopped while measuring, so a record may be missing; only a restart of the machine clears that",
                what()
            );
        }
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").context("reading the boot id")?;
        Ok(Self { file, text, boot_id: boot_id.trim().replace('-', ""), incomplete: false })
    }

    /// All records, as in the file.
    #[must_use]
    pub fn to_text(&self) -> &str {
        &self.text
    }

    /// What there is of it, once nothing is added any more.
    pub(super) fn left(&self) -> Left {
        Left { text: self.text.clone(), incomplete: self.incomplete }
    }

    /// Lock, extend the TPM, append: whoever reads the log under its lock sees what the PCR holds.
    pub(super) fn measure(&mut self, tpm: &mut dyn Tpm, input: Input<'_>) -> Result<()> {
        // A bank without digest would stay as it is, and look as if nothing had been measured.
        if !input.digests.iter().map(|digest| digest.bank).eq(tpm.banks().iter().copied()) {
            bail!("what {} is to be extended with is not for the banks that the TPM has", input.pcr);
        }
        let record = self.record(input)?;
        self.file.lock().context("locking the event log")?;
        let result = self.extend_and_append(tpm, input, &record);
        self.file.unlock().context("unlocking the event log")?;
        result
    }

    fn extend_and_append(&mut self, tpm: &mut dyn Tpm, input: Input<'_>, record: &str) -> Result<()> {
        let mark = |file: &File, mode| file.set_permissions(Permissions::from_mode(mode));
        mark(&self.file, 0o600 | STICKY).context("marking the event log as incomplete")?;
        self.incomplete = true;
        tpm.extend(input.pcr, input.digests)?;
        self.text.push_str(record);
        self.file
            .seek(SeekFrom::End(0))
            .and_then(|_| self.file.write_all(record.as_bytes()))
            .context("appending to the event log")?;
        self.incomplete = false;
        mark(&self.file, 0o600).context("marking the event log as complete")
    }

    pub(super) fn record(&self, Input { pcr, what, digests }: Input<'_>) -> Result<String> {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).context("reading CLOCK_BOOTTIME")?;
        let timestamp = u64::try_from(now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000).unwrap_or(0);
        let content = Content { input: what, boot_id: &self.boot_id, timestamp, event_type: "metalstrap" };
        let record = Record { pcr, digests, content_type: "systemd", content };
        Ok(format!("\u{1e}{}\n", serde_json::to_string(&record).context("writing an event log record")?))
    }
}

/// What there is of a log to which nothing is added any more.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) text: String,
    /// A measurement may have been made that it does not have.
    pub(super) incomplete: bool,
}

impl Left {
    /// What an earlier run of this boot has left at `path`, as far as it can be read: whole records.
    pub(super) fn at(path: &Path) -> Self {
        let incomplete = fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & STICKY != 0);
        let mut text = fs::read_to_string(path).unwrap_or_default();
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        Self { text, incomplete }
    }
}
