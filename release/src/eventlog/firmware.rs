//! The firmware's log, as Linux gives it out in `/sys/kernel/security/tpm0/binary_bios_measurements` (TCG PC Client Platform
//! Firmware Profile, "Event Logging").
//!
//! Its first event has the form of TPM 1.2. If that is a `Spec ID Event03`, all others have the crypto-agile form, with a digest
//! for each bank that the first one names; else they are like the first, and the log is of the bank of SHA-1 alone.

mod event;
mod fields;
mod kind;

use super::{Log, LogError, MAX_BYTES, MAX_DIGESTS, MAX_EVENTS};
use crate::pcr::{Bank, BankDigest};
pub(crate) use event::GLOBAL;
pub use event::{Event, OtherDigest, Tagged, Variable};
use fields::Fields;
pub use kind::Kind;

/// How the data of the event begins that says which algorithms the log has.
const SPEC_ID: &[u8; 16] = b"Spec ID Event03\0";
/// How the data of the event begins that says from which locality the TPM was started; the locality follows.
const STARTUP_LOCALITY: &[u8; 16] = b"StartupLocality\0";
/// Bytes of the longest digests that a TPM makes.
const MAX_DIGEST: usize = 64;
/// What PCR 0 begins with behind an H-CRTM (TPM 2.0 Library, Part 1, "H-CRTM before TPM2_Startup() ...").
const HCRTM: u8 = 4;

/// A firmware's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareLog {
    /// The algorithms of its digests; that of SHA-1 alone in a log of the old form.
    pub algorithms: Vec<Algorithm>,
    /// All events, the one that names the algorithms included. Their numbers are those of tpm2_eventlog.
    pub events: Vec<Event>,
}

/// An algorithm that a log has digests of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Algorithm {
    /// Its `TPM_ALG_ID`.
    pub id: u16,
    /// Bytes of a digest.
    pub size: usize,
}

impl Algorithm {
    /// The bank that it makes digests for; `None` if it is an algorithm that is not known here.
    #[must_use]
    pub fn bank(self) -> Option<Bank> {
        Bank::of_id(self.id)
    }
}

/// Parses a firmware's log. One without a byte has no event.
///
/// # Errors
/// Says which event is wrong, where it begins, and what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<FirmwareLog, LogError> {
    let log = Log::Firmware;
    if bytes.len() > MAX_BYTES {
        return Err(LogError::TooLong { log, length: bytes.len() });
    }
    let (mut fields, mut found) = (Fields::new(bytes), FirmwareLog { algorithms: sha1(), events: Vec::new() });
    let mut agile = false;
    while !fields.is_empty() {
        let (number, offset) = (found.events.len(), fields.offset());
        if number == MAX_EVENTS {
            return Err(LogError::TooMany(log));
        }
        let failed = |problem| LogError::Event { log, number, offset, problem };
        let event = if agile { agile_event(&mut fields, &found.algorithms) } else { old_event(&mut fields) };
        let event = event.map_err(failed)?;
        if number == 0 && event.kind == Kind::NO_ACTION && event.data.starts_with(SPEC_ID) {
            (found.algorithms, agile) = (algorithms(&event.data).map_err(failed)?, true);
        }
        if locality(&event).is_some() && found.startup_locality().is_some() {
            return Err(failed("is a second StartupLocality".to_owned()));
        }
        found.events.push(event);
    }
    Ok(found)
}

/// What a log of the old form has.
fn sha1() -> Vec<Algorithm> {
    vec![Algorithm { id: Bank::Sha1.id(), size: Bank::Sha1.size() }]
}

/// `TCG_PCClientPCREvent`.
fn old_event(fields: &mut Fields<'_>) -> Result<Event, String> {
    let (pcr, kind) = (fields.u32("PCR")?, Kind(fields.u32("type")?));
    let digest = fields.bytes(Bank::Sha1.size(), "digest")?.to_vec();
    let digests = vec![BankDigest { bank: Bank::Sha1, digest }];
    Ok(Event { pcr, kind, digests, others: Vec::new(), data: data(fields)? })
}

/// `TCG_PCR_EVENT2`. The order of its digests may be another than that of the algorithms (systemd has met such a firmware:
/// `src/pcrlock/pcrlock.c`, event_log_load_firmware).
fn agile_event(fields: &mut Fields<'_>, algorithms: &[Algorithm]) -> Result<Event, String> {
    let (pcr, kind) = (fields.u32("PCR")?, Kind(fields.u32("type")?));
    let (mut digests, mut others): (Vec<BankDigest>, Vec<OtherDigest>) = (Vec::new(), Vec::new());
    let count = fields.u32("number of digests")?;
    if usize::try_from(count).unwrap_or(usize::MAX) > algorithms.len() {
        return Err(format!("has {count} digests, but the log names {} algorithms", algorithms.len()));
    }
    for _ in 0..count {
        let id = fields.u16("digest's algorithm")?;
        let Some(algorithm) = algorithms.iter().find(|algorithm| algorithm.id == id) else {
            return Err(format!("has a digest of algorithm {id:#06x}, which the log does not name"));
        };
        let digest = fields.bytes(algorithm.size, "digest")?.to_vec();
        let bank = algorithm.bank();
        if digests.iter().any(|other| Some(other.bank) == bank) || others.iter().any(|other| other.algorithm == id) {
            return Err(format!("has two digests of algorithm {id:#06x}"));
        }
        match bank {
            Some(bank) => digests.push(BankDigest { bank, digest }),
            None => others.push(OtherDigest { algorithm: id, digest }),
        }
    }
    Ok(Event { pcr, kind, digests, others, data: data(fields)? })
}

fn data(fields: &mut Fields<'_>) -> Result<Vec<u8>, String> {
    let size = fields.u32("size of data")?;
    // More than the log has, where a number has more bits than a size.
    fields.bytes(usize::try_from(size).unwrap_or(usize::MAX), "data").map(<[u8]>::to_vec)
}

/// `TCG_EfiSpecIDEventStruct`, up to the algorithms. What is behind them is the vendor's.
fn algorithms(data: &[u8]) -> Result<Vec<Algorithm>, String> {
    let mut fields = Fields::new(data);
    // Signature, platform class, two numbers of a version, errata, and the size of a UINTN.
    fields.bytes(SPEC_ID.len() + 8, "Spec ID header")?;
    let mut found: Vec<Algorithm> = Vec::new();
    let count = fields.u32("number of algorithms")?;
    if usize::try_from(count).unwrap_or(usize::MAX) > MAX_DIGESTS {
        return Err(format!("names {count} algorithms, more than the {MAX_DIGESTS} allowed"));
    }
    for _ in 0..count {
        let algorithm = Algorithm { id: fields.u16("algorithm")?, size: fields.u16("size of digests")?.into() };
        if found.iter().any(|other| other.id == algorithm.id) {
            return Err(format!("names algorithm {:#06x} twice", algorithm.id));
        }
        if let Some(bank) = algorithm.bank().filter(|bank| bank.size() != algorithm.size) {
            return Err(format!("says that a digest of {bank} has {} bytes", algorithm.size));
        }
        if !(1..=MAX_DIGEST).contains(&algorithm.size) {
            let Algorithm { id, size } = algorithm;
            return Err(format!("says that a digest of algorithm {id:#06x} has {size} bytes, not 1 to {MAX_DIGEST}"));
        }
        found.push(algorithm);
    }
    if found.is_empty() {
        return Err("names no algorithm".to_owned());
    }
    Ok(found)
}

/// The locality from which the TPM was started, if the event tells it.
fn locality(event: &Event) -> Option<u8> {
    let told = event.kind == Kind::NO_ACTION && event.pcr == 0;
    let locality = event.data.strip_prefix(STARTUP_LOCALITY).filter(|_| told)?;
    locality.first().copied()
}

impl FirmwareLog {
    /// The locality from which the TPM was started, where the log tells it.
    #[must_use]
    pub fn startup_locality(&self) -> Option<u8> {
        self.events.iter().find_map(locality)
    }

    /// The last byte that PCR 0 begins with; all others are zero.
    #[must_use]
    pub fn pcr0_start(&self) -> u8 {
        let hcrtm = self.events.iter().any(|event| event.kind == Kind::EFI_HCRTM_EVENT && event.pcr == 0);
        if hcrtm { HCRTM } else { self.startup_locality().unwrap_or(0) }
    }

    /// The variables that say how Secure Boot is set up (`SecureBoot`, `PK`, `KEK`, `db`, `dbx`, ...), as PCR 7 has them. One
    /// whose digest is not that of what the log says of it is left out.
    pub fn secure_boot_variables(&self) -> impl Iterator<Item = Variable<'_>> {
        let config = |event: &&Event| event.pcr == 7 && event.kind == Kind::EFI_VARIABLE_DRIVER_CONFIG;
        self.events.iter().filter(config).filter(|event| event.is_of(&event.data)).filter_map(Event::variable)
    }

    /// Whether Secure Boot was on; `None` if the log does not say it, or not with one voice.
    #[must_use]
    pub fn secure_boot(&self) -> Option<bool> {
        let mut said =
            self.secure_boot_variables().filter(Variable::is_secure_boot).map(|variable| match variable.data {
                [1] => Some(true),
                [] | [0] => Some(false),
                _ => None,
            });
        let first = said.next()??;
        said.all(|next| next == Some(first)).then_some(first)
    }

    /// The programs that were loaded, as PCR 4 has them, in their order: boot loaders, UKIs, the kernels inside them. Their
    /// digests are those of Authenticode, not of the file.
    pub fn applications(&self) -> impl Iterator<Item = &Event> {
        let loaded = |event: &&Event| event.pcr == 4 && event.kind == Kind::EFI_BOOT_SERVICES_APPLICATION;
        self.events.iter().filter(loaded)
    }
}

#[cfg(test)]
pub(crate) mod tests;
