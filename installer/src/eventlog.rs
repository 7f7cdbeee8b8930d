//! Measuring: each input goes into the TPM right after it is loaded and before it is parsed, with an event log.
//!
//! The log has systemd's userspace format, so that the installed OS can read it beside its own: JSON text sequences
//! (RFC 7464) of a subset of TCG CEL-JSON, one record a measurement. systemd-pcrlock holds that the digest of a record
//! whose `content_type` is `systemd` is that of its `content.string`, if it has one, whatever its `eventType`: it marks others as
//! wrong (systemd, src/pcrlock/pcrlock.c, event_log_record_validate_hash_userspace). So the records here have none, but an
//! `eventType` of our own and `content.input`, in PCR 11 and 12 too: docs/measurements.md says by that which bytes they stand for.

pub mod firmware;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use metalstrap_release::host::TpmPolicy;
use nix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::failure::{Code, WithCode as _, coded};
use crate::tpm::{self, Bank, BankDigest, PcrIndex, Tpm};

/// Where the log is while the installer runs.
pub const LOG: &str = "/run/metalstrap/tpm2-measure.log";

/// Set on the file while a record is being made: a log that has it misses a measurement (as in systemd's log).
const STICKY: u32 = 0o1000;

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
struct Input<'a> {
    pcr: PcrIndex,
    what: &'a str,
    /// One in each active bank.
    digests: &'a [BankDigest],
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

    /// Lock, extend the TPM, append: whoever reads the log under its lock sees what the PCR holds.
    fn measure(&mut self, tpm: &mut dyn Tpm, input: Input<'_>) -> Result<()> {
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

    fn record(&self, Input { pcr, what, digests }: Input<'_>) -> Result<String> {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).context("reading CLOCK_BOOTTIME")?;
        let timestamp = u64::try_from(now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000).unwrap_or(0);
        let content = Content { input: what, boot_id: &self.boot_id, timestamp, event_type: "metalstrap" };
        let record = Record { pcr, digests, content_type: "systemd", content };
        Ok(format!("\u{1e}{}\n", serde_json::to_string(&record).context("writing an event log record")?))
    }
}

/// One input that went by: what the caller tells as an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measurement {
    /// Into which PCR.
    pub pcr: PcrIndex,
    /// What was measured, as docs/measurements.md lists it.
    pub what: String,
    /// What each active bank was extended with; empty if nothing was measured.
    pub digests: Vec<BankDigest>,
    /// Why nothing was measured.
    pub skipped: Option<String>,
}

impl Measurement {
    /// The fields of its event.
    #[must_use]
    pub fn fields(&self) -> Map<String, Value> {
        let mut fields = Map::from_iter([("what".to_owned(), json!(self.what))]);
        match &self.skipped {
            None => {
                fields.insert("pcr".to_owned(), json!(self.pcr));
                fields.insert("digests".to_owned(), json!(self.digests));
            }
            Some(why) => drop(fields.insert("skipped".to_owned(), json!(why))),
        }
        fields
    }
}

/// Measures into the TPM and its log, or knows why it does not.
///
/// Site config and host config are measured before they are parsed, and only the latter says whether a TPM is required: until
/// [`Measurer::decide`], a failure is kept; from then on it ends the run or is passed over, as the host config says.
#[derive(Debug)]
pub struct Measurer {
    state: State,
    required: bool,
    /// A run that goes on without measuring has not said so yet.
    unsaid: bool,
}

#[derive(Debug)]
enum State {
    Measuring {
        tpm: Box<dyn Tpm>,
        log: EventLog,
    },
    /// The log is kept: what was measured before the failure, or by an earlier run, stays true.
    Failed {
        cause: String,
        log: Left,
    },
    Absent,
    Off,
}

/// What there is of a log to which nothing is added any more.
#[derive(Debug)]
struct Left {
    text: String,
    /// A measurement may have been made that it does not have.
    incomplete: bool,
}

impl Left {
    /// What an earlier run of this boot has left at `path`, as far as it can be read: whole records.
    fn at(path: &Path) -> Self {
        let incomplete = fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & STICKY != 0);
        let mut text = fs::read_to_string(path).unwrap_or_default();
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        Self { text, incomplete }
    }
}

/// What [`Measurer::decide`] decided, for the console and an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// Whether inputs are measured from here on.
    pub measuring: bool,
    /// One sentence.
    pub text: String,
}

impl Measurer {
    /// For a machine that is being installed: its TPM, if it has one, and the log at [`LOG`].
    #[must_use]
    pub fn start() -> Self {
        Self::with(tpm::open(), Path::new(LOG))
    }

    /// For an ordinary command, which leaves the TPM of the machine it runs on alone.
    #[must_use]
    pub fn off() -> Self {
        Self { state: State::Off, required: false, unsaid: false }
    }

    /// With this TPM and a log at `path`.
    #[must_use]
    pub fn with(tpm: Result<Option<Box<dyn Tpm>>>, path: &Path) -> Self {
        let state = match tpm.and_then(|tpm| tpm.map(|tpm| Ok((tpm, EventLog::open(path)?))).transpose()) {
            Ok(Some((tpm, log))) => State::Measuring { tpm, log },
            Ok(None) => match Left::at(path) {
                Left { text, .. } if text.is_empty() => State::Absent,
                log => State::Failed { cause: "the TPM of an earlier run of this boot is gone".to_owned(), log },
            },
            Err(error) => State::Failed { cause: format!("{error:#}"), log: Left::at(path) },
        };
        Self { state, required: false, unsaid: false }
    }

    /// The banks in which is measured: none where nothing is.
    #[must_use]
    pub fn banks(&self) -> &[Bank] {
        match &self.state {
            State::Measuring { tpm, .. } => tpm.banks(),
            State::Failed { .. } | State::Absent | State::Off => &[],
        }
    }

    /// Measures `bytes`, which are called `what` in the log.
    ///
    /// # Errors
    /// [`Code::Tpm`]: the TPM or the log failed, and the host config requires a TPM.
    pub fn measure(&mut self, pcr: PcrIndex, what: &str, bytes: &[u8]) -> Result<Measurement> {
        let digests = self.banks().iter().map(|bank| bank.digest(bytes)).collect();
        self.extend(pcr, what, digests)
    }

    /// Measures what has these digests in [`Measurer::banks`].
    ///
    /// # Errors
    /// As [`Measurer::measure`].
    pub fn extend(&mut self, pcr: PcrIndex, what: &str, digests: Vec<BankDigest>) -> Result<Measurement> {
        let done = |digests, skipped| Measurement { pcr, what: what.to_owned(), digests, skipped };
        match &mut self.state {
            State::Absent => Ok(done(Vec::new(), Some("the machine has no TPM".to_owned()))),
            State::Off => Ok(done(Vec::new(), Some("measuring is off".to_owned()))),
            State::Failed { cause, .. } => Ok(done(Vec::new(), Some(cause.clone()))),
            State::Measuring { tpm, log } => match log.measure(tpm.as_mut(), Input { pcr, what, digests: &digests }) {
                Ok(()) => Ok(done(digests, None)),
                Err(error) if self.required => Err(error).code(Code::Tpm, || format!("measuring the {what}")),
                Err(error) => {
                    let cause = format!("measuring the {what}: {error:#}");
                    let log = Left { text: log.text.clone(), incomplete: log.incomplete };
                    self.state = State::Failed { cause: cause.clone(), log };
                    Ok(done(Vec::new(), Some(cause)))
                }
            },
        }
    }

    /// Applies the host config's rule to what has happened so far and to all that follows.
    ///
    /// # Errors
    /// [`Code::Tpm`]: a TPM is required, and there is none, or it failed.
    pub fn decide(&mut self, policy: TpmPolicy) -> Result<Decision> {
        self.required = policy == TpmPolicy::Required;
        let (measuring, text) = match &self.state {
            State::Measuring { tpm, .. } => {
                let banks: Vec<_> = tpm.banks().iter().map(ToString::to_string).collect();
                (true, format!("measuring into {} of the banks {}", PcrIndex::Installer, banks.join(", ")))
            }
            State::Absent => (false, "nothing is measured: the machine has no TPM".to_owned()),
            State::Off => (false, "nothing is measured: this is not the netboot image".to_owned()),
            State::Failed { cause, .. } => (false, format!("nothing more is measured: {cause}")),
        };
        if self.required && !measuring {
            return Err(coded(Code::Tpm, format!("the host config requires a TPM, but {text}")));
        }
        self.unsaid = true;
        Ok(Decision { measuring, text })
    }

    /// Why nothing more is measured, where the TPM or the log has failed.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        match &self.state {
            State::Failed { cause, .. } => Some(cause),
            State::Measuring { .. } | State::Absent | State::Off => None,
        }
    }

    /// What a person is to read where the TPM or the log has failed and the host config lets the run go on: once.
    pub fn complaint(&mut self) -> Option<String> {
        let State::Failed { cause, .. } = &self.state else { return None };
        std::mem::take(&mut self.unsaid).then(|| format!("the installation goes on without measuring: {cause}"))
    }

    /// The log, for the final report and the installed OS; empty if nothing was measured.
    #[must_use]
    pub fn log(&self) -> &str {
        match &self.state {
            State::Measuring { log, .. } => log.to_text(),
            State::Failed { log, .. } => &log.text,
            State::Absent | State::Off => "",
        }
    }

    /// Whether a measurement may have been made that the log does not have: by this run, or an earlier one of the same boot.
    #[must_use]
    pub fn lacks_records(&self) -> bool {
        matches!(&self.state, State::Failed { log, .. } if log.incomplete)
    }

    /// Whether the log has an input whose word begins so, of this run or an earlier one of the same boot.
    #[must_use]
    pub fn has_measured(&self, what: &str) -> bool {
        self.log().contains(&format!("\"input\":\"{what}"))
    }

    /// The TPM, for what is not measured; `None` where there is none, or it is left alone.
    ///
    /// # Errors
    /// It has failed before, so it is not asked any more.
    pub fn tpm(&mut self) -> Result<Option<&mut (dyn Tpm + 'static)>> {
        match &mut self.state {
            State::Measuring { tpm, .. } => Ok(Some(tpm.as_mut())),
            State::Failed { cause, .. } => bail!("{cause}"),
            State::Absent | State::Off => Ok(None),
        }
    }

    /// The value of a PCR in every active bank; empty where nothing is measured.
    ///
    /// # Errors
    /// [`Code::Tpm`]: the TPM failed.
    pub fn read(&mut self, pcr: PcrIndex) -> Result<Vec<BankDigest>> {
        match &mut self.state {
            State::Measuring { tpm, .. } => tpm.read(pcr).code(Code::Tpm, || "reading the TPM".to_owned()),
            State::Failed { .. } | State::Absent | State::Off => Ok(Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests;
