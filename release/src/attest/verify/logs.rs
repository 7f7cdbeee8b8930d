//! Whether the logs account for the values that the TPM vouches for.

use std::ops::RangeInclusive;

use super::super::{Base64, Finding, Outcome};
use super::quotes::Values;
use crate::eventlog::firmware::{self, FirmwareLog};
use crate::eventlog::replay::Replay;
use crate::eventlog::userspace::{self, Record};
use crate::pcr::Bank;

/// The PCR that the installer measures into.
const INSTALLER: u32 = 13;
/// The PCR of the kernel's IMA, whose log is another one.
const IMA: u32 = 10;
/// Up to here the firmware measures, and nothing behind it.
const LAST_OF_FIRMWARE: u32 = 7;
/// What systemd measures there behind the firmware's part, which hides nothing (systemd 261, systemd-pcrosseparator.service).
const OS_SEPARATOR: &[u8] = b"os-separator";

/// Both logs, and what is proved of them.
#[derive(Debug)]
pub(super) struct Logs {
    /// The firmware's, if there is one that can be read.
    firmware: Option<FirmwareLog>,
    records: Vec<Record>,
    replay: Replay,
    /// What was found of the firmware's.
    pub(super) firmware_log: Finding,
    /// What was found of the installer's.
    pub(super) userspace_log: Finding,
    values: Values,
}

impl Logs {
    /// Reads both and replays them.
    pub(super) fn read(firmware_log: Option<&Base64>, userspace_log: &str, values: Values) -> Self {
        let firmware = firmware_log.map(|log| firmware::parse(&log.0)).transpose();
        let records = userspace::parse(userspace_log);
        // Of one that cannot be read nothing counts.
        let readable = firmware.as_ref().ok().and_then(Option::as_ref);
        let replay = Replay::new(readable, records.as_deref().unwrap_or_default());
        let has_firmware = readable.is_some();
        let firmware_log = match &firmware {
            Err(error) => Finding::new("firmware-log", Outcome::Refuted, error.to_string()),
            Ok(None) => Finding::new("firmware-log", Outcome::Unknown, "there is none"),
            Ok(Some(_)) => of_firmware(&replay, &values, records.as_deref().unwrap_or_default()),
        };
        let userspace_log = match &records {
            Err(error) => Finding::new("userspace-log", Outcome::Refuted, error.to_string()),
            Ok(records) => of_userspace(&replay, &values, of_installer(records).count(), has_firmware),
        };
        let (firmware, records) = (firmware.ok().flatten(), records.unwrap_or_default());
        Self { firmware, records, replay, firmware_log, userspace_log, values }
    }

    /// The installer's records, if their digests and their order are proved; their names never are.
    pub(super) fn proved(&self) -> Option<Vec<&Record>> {
        (self.userspace_log.outcome == Outcome::Proved).then(|| of_installer(&self.records).collect())
    }

    /// The firmware's log, if it is proved for one of its PCRs; or why it is not.
    pub(super) fn of_pcr(&self, pcr: u32) -> Result<&FirmwareLog, String> {
        let values = self.values(pcr);
        let proved = |(bank, value): &(Bank, &[u8])| self.replay.check(pcr, *bank, value).is_ok();
        let log = self.firmware.as_ref().filter(|_| !values.is_empty() && values.iter().all(proved));
        let log = log.ok_or_else(|| format!("no firmware log accounts for PCR {pcr}"))?;
        in_both(&self.records, pcr..=pcr).map_or(Ok(log), Err)
    }

    /// The values of a PCR that the TPM vouches for.
    pub(super) fn values(&self, pcr: u32) -> Vec<(Bank, &[u8])> {
        values_of(&self.values, pcr)
    }

    /// The banks that the TPM vouches for, the weakest first.
    pub(super) fn banks(&self) -> Vec<Bank> {
        let mut banks: Vec<_> = self.values.keys().map(|(_, bank)| *bank).collect();
        banks.sort_unstable();
        banks.dedup();
        banks
    }
}

/// The records of the PCR that the installer measures into. Nobody may have asked for those that a log has others of.
fn of_installer(records: &[Record]) -> impl Iterator<Item = &Record> {
    records.iter().filter(|record| record.pcr() == Some(INSTALLER))
}

/// The values of a PCR in each bank.
fn values_of(values: &Values, pcr: u32) -> Vec<(Bank, &[u8])> {
    values.iter().filter(|((other, _), _)| *other == pcr).map(|((_, bank), value)| (*bank, value.as_slice())).collect()
}

/// Why the firmware's log may lack events of these PCRs of its own: the other log has some, and both are replayed together.
fn in_both(records: &[Record], pcrs: RangeInclusive<u32>) -> Option<String> {
    let others = records.iter().enumerate().filter(|(_, record)| !record.is_of(OS_SEPARATOR));
    let mut others = others.filter_map(|(number, record)| Some((number, record.pcr()?)));
    let (number, pcr) = others.find(|(_, pcr)| pcrs.contains(pcr))?;
    Some(format!(
        "the userspace event log's event {number} is of PCR {pcr}, which is the firmware's, and nothing tells which of \
         the logs an event is of"
    ))
}

fn of_firmware(replay: &Replay, values: &Values, records: &[Record]) -> Finding {
    let finding = |outcome, text: String| Finding::new("firmware-log", outcome, text);
    let mut of_firmware = values.iter().filter(|((pcr, _), _)| *pcr <= LAST_OF_FIRMWARE).peekable();
    if of_firmware.peek().is_none() {
        return finding(Outcome::Unknown, "no quote vouches for PCRs 0 to 7".to_owned());
    }
    if let Err(error) = of_firmware.try_for_each(|((pcr, bank), value)| replay.check(*pcr, *bank, value)) {
        return finding(Outcome::Refuted, error.to_string());
    }
    match in_both(records, 0..=LAST_OF_FIRMWARE) {
        None => finding(Outcome::Proved, "it accounts for the PCRs up to 7 that the TPM vouches for".to_owned()),
        Some(problem) => finding(Outcome::Unknown, problem),
    }
}

fn of_userspace(replay: &Replay, values: &Values, records: usize, has_firmware: bool) -> Finding {
    let finding = |outcome, text: String| Finding::new("userspace-log", outcome, text);
    let ours = values_of(values, INSTALLER);
    if ours.is_empty() {
        return finding(Outcome::Unknown, format!("no quote vouches for PCR {INSTALLER}"));
    }
    if let Err(error) = ours.iter().try_for_each(|(bank, value)| replay.check(INSTALLER, *bank, value)) {
        return finding(Outcome::Refuted, error.to_string());
    }
    let others = values.iter().filter(|((pcr, _), _)| *pcr > LAST_OF_FIRMWARE && ![IMA, INSTALLER].contains(pcr));
    let apart = if values_of(values, IMA).is_empty() { String::new() } else { format!(" but {IMA}, which is IMA's") };
    let failed = others.map(|((pcr, bank), value)| replay.check(*pcr, *bank, value)).find_map(Result::err);
    match failed {
        // What the stub measures is in the firmware's log.
        Some(error) if has_firmware => finding(Outcome::Refuted, error.to_string()),
        Some(_) => finding(
            Outcome::Proved,
            format!(
                "its {records} records account for PCR {INSTALLER}; what is in other PCRs above {LAST_OF_FIRMWARE} cannot be known without the firmware's log"
            ),
        ),
        None => finding(
            Outcome::Proved,
            format!(
                "its {records} records account for PCR {INSTALLER}, and both logs for all above {LAST_OF_FIRMWARE}{apart}"
            ),
        ),
    }
}
