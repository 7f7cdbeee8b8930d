//! What the firmware has started, and whether Secure Boot was on, as its log has it. A log's types and texts are only what somebody
//! says of an event, so it is by digests that events are known here.

use super::super::{Finding, Outcome};
use super::Program;
use super::logs::Logs;
use crate::digest::to_hex;
use crate::eventlog::firmware::{Event, FirmwareLog, GLOBAL};
use crate::pcr::{Bank, BankDigest};

/// The PCR of programs.
const PROGRAMS: u32 = 4;
/// The PCR of Secure Boot's set-up.
const SECURE_BOOT: u32 = 7;
/// The PCR of what a UKI is given beside itself: another command line, credentials, add-ons.
const BESIDE: u32 = 12;
/// What the firmware measures where its own part of a PCR ends (`EV_SEPARATOR`): all is well, or nothing is.
const SEPARATORS: [[u8; 4]; 2] = [[0; 4], [0xff; 4]];
/// No text that the firmware measures between programs is longer.
const MAX_TEXT: usize = 128;

/// Whether it has started these programs, and no others.
pub(super) fn netboot_image(logs: &Logs, expected: &[Program]) -> Finding {
    let finding = |outcome, text: String| Finding::new("netboot-image", outcome, text);
    if expected.is_empty() {
        return finding(Outcome::Unknown, "none was expected: what has measured the rest is not known".to_owned());
    }
    let Some(log) = logs.of_pcr(PROGRAMS) else {
        return finding(Outcome::Unknown, format!("no firmware log accounts for PCR {PROGRAMS}"));
    };
    let mut started = Vec::new();
    for event in of_pcr(log, PROGRAMS) {
        match expected.iter().find(|program| is(logs, event, program)) {
            Some(program) => started.push(program.name.as_str()),
            None if is_no_program(event) => (),
            None => return finding(Outcome::Refuted, format!("the firmware has started {}", named(logs, event))),
        }
    }
    let beside = logs.values(BESIDE);
    match started.as_slice() {
        [] => finding(Outcome::Refuted, "the firmware's log has no program that it has started".to_owned()),
        _ if beside.is_empty() => finding(Outcome::Unknown, format!("no quote vouches for PCR {BESIDE}")),
        // Nor is it known where the logs call the first event the installer's `load-options` of just this release and host config: a
        // stub that was given that command line extends by the same bytes, and no PCR tells which of the logs an event is of.
        _ if beside.iter().any(|(_, value)| value.iter().any(|byte| *byte != 0)) => finding(
            Outcome::Unknown,
            format!(
                "PCR {BESIDE} is not zero: the netboot image was given a command line, credentials or add-ons, or the installer was \
                 left by kexec since, and nothing tells the one from the other"
            ),
        ),
        started => {
            finding(Outcome::Proved, format!("the firmware has started {}, and nothing else", started.join(", ")))
        }
    }
}

/// The events that have extended a PCR.
fn of_pcr(log: &FirmwareLog, pcr: u32) -> impl Iterator<Item = &Event> {
    log.events.iter().filter(move |event| event.pcr == pcr && event.extends())
}

/// By every bank that the TPM vouches for.
fn is(logs: &Logs, event: &Event, program: &Program) -> bool {
    let banks = logs.banks();
    let same = |bank: Bank| {
        let expected = BankDigest::find(&program.digests, bank);
        expected.is_some_and(|expected| event.digest(bank) == Some(expected))
    };
    !banks.is_empty() && banks.into_iter().all(same)
}

/// Whether it is a separator, or one of the firmware's short texts: no program is either.
fn is_no_program(event: &Event) -> bool {
    let data = event.data.as_slice();
    let is_text = data.len() <= MAX_TEXT && data.iter().all(|byte| matches!(byte, 0 | b' '..=b'~'));
    event.is_of(data) && (is_text || SEPARATORS.iter().any(|separator| separator == data))
}

/// A program that nobody expected.
fn named(logs: &Logs, event: &Event) -> String {
    let digest = logs.banks().into_iter().next_back().and_then(|bank| Some((bank, event.digest(bank)?)));
    let digest = digest.map(|(bank, digest)| format!("of {bank} {}", to_hex(digest))).unwrap_or_default();
    // The log names the file, but no digest covers that.
    let file = event.image().map(|file| format!(" (which it calls {file:?})")).unwrap_or_default();
    format!("a program {digest}{file}, which is none of those expected")
}

/// Whether Secure Boot was on.
pub(super) fn secure_boot(logs: &Logs, expected: Option<bool>) -> Finding {
    let finding = |outcome, text: String| Finding::new("secure-boot", outcome, text);
    let word = |on: bool| if on { "on" } else { "off" };
    let Some(log) = logs.of_pcr(SECURE_BOOT) else {
        return finding(Outcome::Unknown, format!("no firmware log accounts for PCR {SECURE_BOOT}"));
    };
    match (was_on(logs, log), expected) {
        (None, _) => finding(Outcome::Unknown, "the firmware's log does not say whether it was on".to_owned()),
        (Some(found), Some(expected)) if found != expected => {
            finding(Outcome::Refuted, format!("it was {}, not {}", word(found), word(expected)))
        }
        (Some(found), _) => finding(Outcome::Proved, format!("it was {}", word(found))),
    }
}

/// What the firmware has measured of the variable `SecureBoot`, before the separator: anybody can extend the PCR behind that.
fn was_on(logs: &Logs, log: &FirmwareLog) -> Option<bool> {
    let banks = logs.banks();
    let is_of = |event: &Event, bytes: &[u8]| {
        banks.iter().all(|bank| event.digest(*bank) == Some(bank.digest(bytes).digest.as_slice()))
    };
    let said = |event: &Event| {
        // Where there is no such variable, its value is empty.
        let values: [(&[u8], bool); 3] = [(&[1], true), (&[0], false), (&[], false)];
        values.into_iter().find(|(value, _)| is_of(event, &variable(value))).map(|(_, on)| on)
    };
    let events = of_pcr(log, SECURE_BOOT);
    let of_firmware = events.take_while(|event| !SEPARATORS.iter().any(|separator| is_of(event, separator)));
    let said: Vec<bool> = of_firmware.filter_map(said).collect();
    match said.as_slice() {
        [on] => Some(*on),
        _ => None,
    }
}

/// `UEFI_VARIABLE_DATA` of the variable `SecureBoot` (TCG PC Client Platform Firmware Profile, "Measuring UEFI Variables").
fn variable(value: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = "SecureBoot".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let lengths = [name.len() / 2, value.len()].map(|length| u64::try_from(length).unwrap_or(u64::MAX).to_le_bytes());
    [&GLOBAL.to_bytes_le()[..], lengths.as_flattened(), &name, value].concat()
}
