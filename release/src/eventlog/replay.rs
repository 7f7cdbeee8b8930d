//! What both logs make of the PCRs, and whether that is what a TPM says.

use std::collections::BTreeMap;

use super::firmware::FirmwareLog;
use super::userspace::Record;
use super::{Log, PCRS};
use crate::digest::to_hex;
use crate::pcr::{Bank, BankDigest, Pcr};

/// Why the logs do not account for a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// No TPM has such a PCR.
    #[error("there is no PCR {0}")]
    NoPcr(u32),
    /// An event tells nothing of this bank.
    #[error("PCR {pcr} of bank {bank}: the {log}'s event {number} has no digest for it")]
    NoDigest {
        /// The PCR.
        pcr: u32,
        /// The bank.
        bank: Bank,
        /// Which log.
        log: Log,
        /// The event's number in it, from 0.
        number: usize,
    },
    /// The logs tell of another value.
    #[error(
        "PCR {pcr} of bank {bank} is {found}, but the logs, with {events} events for it, say {expected}: an event is missing \
         in them, is one too many, or stands in another place"
    )]
    Differs {
        /// The PCR.
        pcr: u32,
        /// The bank.
        bank: Bank,
        /// How often the logs say that it was extended.
        events: usize,
        /// What the TPM says, as hexadecimal text.
        found: String,
        /// What the logs make of it, as hexadecimal text.
        expected: String,
    },
}

/// The PCRs after all events of both logs.
#[derive(Debug, Clone)]
pub struct Replay(BTreeMap<(u32, Bank), State>);

#[derive(Debug, Clone)]
struct State {
    pcr: Pcr,
    /// Events that extended it.
    events: usize,
    /// The first event that has no digest for it.
    gap: Option<(Log, usize)>,
}

impl Replay {
    /// Replays both logs, the firmware's first. Where one is not at hand, the PCRs are as if nothing had been measured by it.
    #[must_use]
    pub fn new(firmware: Option<&FirmwareLog>, records: &[Record]) -> Self {
        let start = firmware.map_or(0, FirmwareLog::pcr0_start);
        let all = (0..PCRS).flat_map(|pcr| Bank::ALL.map(|bank| ((pcr, bank), State::start(pcr, bank, start))));
        let mut replay = Self(all.collect());
        for (number, event) in firmware.into_iter().flat_map(|log| log.events.iter().enumerate()) {
            if event.extends() {
                replay.extend(event.pcr, &event.digests, (Log::Firmware, number));
            }
        }
        for (number, record) in records.iter().enumerate() {
            if let Some(pcr) = record.pcr() {
                replay.extend(pcr, &record.digests, (Log::Userspace, number));
            }
        }
        replay
    }

    /// What firmware logs of a PCR that no TPM has is not in any.
    fn extend(&mut self, pcr: u32, digests: &[BankDigest], event: (Log, usize)) {
        for bank in Bank::ALL {
            let Some(state) = self.0.get_mut(&(pcr, bank)) else { continue };
            state.events += 1;
            match BankDigest::find(digests, bank) {
                Some(digest) => state.pcr.extend(digest),
                None => state.gap = state.gap.or(Some(event)),
            }
        }
    }

    /// The value of a PCR.
    ///
    /// # Errors
    /// There is no such PCR; or an event that extended it has no digest for this bank.
    pub fn value(&self, pcr: u32, bank: Bank) -> Result<&[u8], ReplayError> {
        self.state(pcr, bank).map(|state| state.pcr.value())
    }

    /// How many events extended a PCR.
    #[must_use]
    pub fn events(&self, pcr: u32) -> usize {
        // All banks count the same.
        self.0.get(&(pcr, Bank::Sha256)).map_or(0, |state| state.events)
    }

    /// Checks that the logs account for a value that a TPM says.
    ///
    /// # Errors
    /// As [`Replay::value`]; or they make another value of it.
    pub fn check(&self, pcr: u32, bank: Bank, value: &[u8]) -> Result<(), ReplayError> {
        let state = self.state(pcr, bank)?;
        if state.pcr.value() == value {
            return Ok(());
        }
        let (found, expected) = (to_hex(value), to_hex(state.pcr.value()));
        Err(ReplayError::Differs { pcr, bank, events: state.events, found, expected })
    }

    fn state(&self, pcr: u32, bank: Bank) -> Result<&State, ReplayError> {
        let state = self.0.get(&(pcr, bank)).ok_or(ReplayError::NoPcr(pcr))?;
        match state.gap {
            None => Ok(state),
            Some((log, number)) => Err(ReplayError::NoDigest { pcr, bank, log, number }),
        }
    }
}

impl State {
    /// As it is when the machine is switched on: zero, but for PCR 0's last byte; and ones where only a dynamic start of trusted
    /// code makes it zero (TCG PC Client Platform TPM Profile, "PCR Initial and Reset Values").
    fn start(pcr: u32, bank: Bank, pcr0: u8) -> Self {
        let mut value = vec![if (17..=22).contains(&pcr) { 0xff } else { 0 }; bank.size()];
        if let Some(last) = value.last_mut().filter(|_| pcr == 0) {
            *last = pcr0;
        }
        let pcr = Pcr::with_value(bank, &value).unwrap_or_else(|| Pcr::zero(bank));
        Self { pcr, events: 0, gap: None }
    }
}

#[cfg(test)]
mod tests;
