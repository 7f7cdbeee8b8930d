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

/// A program that the firmware has started.
#[derive(Debug)]
struct Started<'a> {
    program: &'a Program,
    /// It is the kernel in that.
    is_kernel: bool,
    /// Whether the firmware was at its boot options by then, or still at what comes before them.
    behind_separator: bool,
    /// Whether the firmware has measured a text since.
    came_back: bool,
}

impl Started<'_> {
    fn name(&self) -> String {
        let name = &self.program.name;
        if self.is_kernel { format!("the kernel in {name}") } else { name.clone() }
    }
}

/// Whether it has started these programs, and no others; where UKIs are among them, one of these last.
pub(super) fn netboot_image(logs: &Logs, expected: &[Program]) -> Finding {
    let finding = |outcome, text: String| Finding::new("netboot-image", outcome, text);
    if expected.is_empty() {
        return finding(Outcome::Unknown, "none was expected: what has measured the rest is not known".to_owned());
    }
    let started = match logs.of_pcr(PROGRAMS).map(|log| programs(logs, log, expected)) {
        Ok(Ok(started)) => started,
        Ok(Err(other)) => return finding(Outcome::Refuted, format!("the firmware has started {other}")),
        Err(problem) => return finding(Outcome::Unknown, problem),
    };
    let Some(last) = started.last() else {
        return finding(Outcome::Refuted, "the firmware's log has no program that it has started".to_owned());
    };
    if let Some((outcome, text)) = against(last, expected) {
        return finding(outcome, text);
    }
    let beside = logs.values(BESIDE);
    if beside.is_empty() {
        return finding(Outcome::Unknown, format!("no quote vouches for PCR {BESIDE}"));
    }
    // Nor is it known where the logs call the first event the installer's `load-options` of just this release and host config: a
    // stub that was given that command line extends by the same bytes, and no PCR tells which of the logs an event is of.
    if beside.iter().any(|(_, value)| value.iter().any(|byte| *byte != 0)) {
        let text = format!(
            "PCR {BESIDE} is not zero: the netboot image was given a command line, credentials or add-ons, or the installer was \
             left by kexec since, and nothing tells the one from the other"
        );
        return finding(Outcome::Unknown, text);
    }
    let names: Vec<_> = started.iter().map(Started::name).collect();
    finding(Outcome::Proved, format!("the firmware has started {}, and nothing else", names.join(", ")))
}

/// What it has started, in its order; or the first that it should not have.
///
/// Anybody can take the kernel out of a UKI and start it with an initrd of his own. So it counts directly behind its UKI alone, where
/// systemd-stub has the firmware load it; with Secure Boot, or from systemd 258 on, there is no event of that. When a boot option
/// has come back, the firmware measures a text.
fn programs<'a>(logs: &Logs, log: &FirmwareLog, expected: &'a [Program]) -> Result<Vec<Started<'a>>, String> {
    let (mut started, mut before, mut behind_separator) = (Vec::new(), None::<&Program>, false);
    for event in of_pcr(log, PROGRAMS) {
        let uki = before.take().filter(|uki| has_kernel(logs, event, uki));
        let program = expected.iter().find(|program| is(logs, event, &program.digests));
        match (uki, program) {
            (Some(program), _) => {
                started.push(Started { program, is_kernel: true, behind_separator, came_back: false });
            }
            (None, Some(program)) => {
                started.push(Started { program, is_kernel: false, behind_separator, came_back: false });
                before = Some(program);
            }
            (None, None) if is_no_program(event) => {
                behind_separator |= is_separator(logs, event);
                if let Some(last) = started.last_mut() {
                    last.came_back = true;
                }
            }
            (None, None) => return Err(unexpected(logs, event, expected)),
        }
    }
    Ok(started)
}

/// What is against the program that was started last, if a UKI was expected: it is what must have started the rest.
fn against(last: &Started<'_>, expected: &[Program]) -> Option<(Outcome, String)> {
    let Program { name, kernel, .. } = last.program;
    if expected.iter().all(|program| program.kernel.is_none()) {
        return None;
    }
    if kernel.is_none() {
        let text =
            format!("the last program that the firmware has started is {name}, which is no UKI, and one was expected");
        return Some((Outcome::Refuted, text));
    }
    // Of programs that are no boot options (`SysPrep####`) the firmware measures no text when they come back.
    if !last.behind_separator {
        let text = format!(
            "the firmware has started {name} before its separator in PCR {PROGRAMS}, so not as a boot option: whether \
             that has come back is not known"
        );
        return Some((Outcome::Unknown, text));
    }
    // A shell in the firmware itself is no program that it measures here.
    last.came_back.then(|| {
        let text = format!(
            "the firmware has gone on behind {name}, so that has come back: what of the firmware's own runs since is \
             not known"
        );
        (Outcome::Unknown, text)
    })
}

/// The events that have extended a PCR.
fn of_pcr(log: &FirmwareLog, pcr: u32) -> impl Iterator<Item = &Event> {
    log.events.iter().filter(move |event| event.pcr == pcr && event.extends())
}

/// By every bank that the TPM vouches for.
fn is(logs: &Logs, event: &Event, digests: &[BankDigest]) -> bool {
    let banks = logs.banks();
    let same = |bank: Bank| {
        let expected = BankDigest::find(digests, bank);
        expected.is_some_and(|expected| event.digest(bank) == Some(expected))
    };
    !banks.is_empty() && banks.into_iter().all(same)
}

/// Whether it is the kernel in a UKI.
fn has_kernel(logs: &Logs, event: &Event, uki: &Program) -> bool {
    uki.kernel.as_deref().is_some_and(|kernel| is(logs, event, kernel))
}

/// Whether these bytes were measured, by every bank that the TPM vouches for.
fn is_of(logs: &Logs, event: &Event, bytes: &[u8]) -> bool {
    logs.banks().iter().all(|bank| event.digest(*bank) == Some(bank.digest(bytes).digest.as_slice()))
}

fn is_separator(logs: &Logs, event: &Event) -> bool {
    SEPARATORS.iter().any(|separator| is_of(logs, event, separator))
}

/// Whether it is a separator, or one of the firmware's short texts: no program is either.
fn is_no_program(event: &Event) -> bool {
    let data = event.data.as_slice();
    let is_text = data.len() <= MAX_TEXT && data.iter().all(|byte| matches!(byte, 0 | b' '..=b'~'));
    event.is_of(data) && (is_text || SEPARATORS.iter().any(|separator| separator == data))
}

/// A program that nobody expected, or not there.
fn unexpected(logs: &Logs, event: &Event, expected: &[Program]) -> String {
    if let Some(Program { name, .. }) = expected.iter().find(|uki| has_kernel(logs, event, uki)) {
        return format!("the kernel in {name}, but not directly behind {name}: with which initrd is not known");
    }
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
    let log = match logs.of_pcr(SECURE_BOOT) {
        Ok(log) => log,
        Err(problem) => return finding(Outcome::Unknown, problem),
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
    let said = |event: &Event| {
        // Where there is no such variable, its value is empty.
        let values: [(&[u8], bool); 3] = [(&[1], true), (&[0], false), (&[], false)];
        values.into_iter().find(|(value, _)| is_of(logs, event, &variable(value))).map(|(_, on)| on)
    };
    let events = of_pcr(log, SECURE_BOOT);
    let of_firmware = events.take_while(|event| !is_separator(logs, event));
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
