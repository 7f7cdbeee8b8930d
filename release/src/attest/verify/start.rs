//! What the firmware has started, and how Secure Boot was set up, as its log has it.

use super::super::{Finding, Outcome};
use super::Program;
use super::logs::Logs;
use crate::digest::to_hex;
use crate::eventlog::firmware::Event;
use crate::pcr::Bank;

/// The PCR of programs.
const PROGRAMS: u32 = 4;
/// The PCR of Secure Boot's set-up.
const SECURE_BOOT: u32 = 7;

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
    for event in log.applications() {
        match expected.iter().find(|program| is(logs, event, program)) {
            Some(program) => started.push(program.name.as_str()),
            None => return finding(Outcome::Refuted, format!("the firmware has started {}", named(logs, event))),
        }
    }
    match started.as_slice() {
        [] => finding(Outcome::Refuted, "the firmware's log has no program that it has started".to_owned()),
        started => {
            finding(Outcome::Proved, format!("the firmware has started {}, and nothing else", started.join(", ")))
        }
    }
}

/// By every bank that the TPM vouches for.
fn is(logs: &Logs, event: &Event, program: &Program) -> bool {
    let banks = logs.banks();
    let same = |bank: Bank| {
        let expected = program.digests.iter().find(|digest| digest.bank == bank);
        expected.is_some_and(|expected| event.digest(bank) == Some(expected.digest.as_slice()))
    };
    !banks.is_empty() && banks.into_iter().all(same)
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
    match (log.secure_boot(), expected) {
        (None, _) => finding(Outcome::Unknown, "the firmware's log does not say whether it was on".to_owned()),
        (Some(found), Some(expected)) if found != expected => {
            finding(Outcome::Refuted, format!("it was {}, not {}", word(found), word(expected)))
        }
        (Some(found), _) => finding(Outcome::Proved, format!("it was {}", word(found))),
    }
}
