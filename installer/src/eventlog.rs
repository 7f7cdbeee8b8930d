//! Measuring: each input goes into the TPM right after it is loaded and before it is parsed, with an event log.
//!
//! The log has systemd's userspace format, so that the installed OS can read it beside its own: JSON text sequences
//! (RFC 7464) of a subset of TCG CEL-JSON, one record a measurement. systemd-pcrlock holds that the digest of a record
//! whose `content_type` is `systemd` is that of its `content.string`, if it has one, whatever its `eventType`: it marks others as
//! wrong (systemd, src/pcrlock/pcrlock.c, event_log_record_validate_hash_userspace). So the records here have none, but an
//! `eventType` of our own and `content.input`, in PCR 11 and 12 too: docs/measurements.md says by that which bytes they stand for.

mod file;
pub mod firmware;

use std::path::Path;

use anyhow::{Result, bail};
use metalstrap_release::host::TpmPolicy;
use serde_json::{Map, Value, json};

use crate::failure::{Code, WithCode as _, coded};
use crate::tpm::{self, Bank, BankDigest, PcrIndex, Tpm};

pub use file::EventLog;
pub(crate) use file::STICKY;
use file::{Input, Left};

/// Where the log is while the installer runs.
pub const LOG: &str = "/run/metalstrap/tpm2-measure.log";

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
                Left { text, incomplete: false } if text.is_empty() => State::Absent,
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

    /// Whether it leaves the TPM alone.
    #[must_use]
    pub fn is_off(&self) -> bool {
        matches!(self.state, State::Off)
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
                    self.state = State::Failed { cause: cause.clone(), log: log.left() };
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
