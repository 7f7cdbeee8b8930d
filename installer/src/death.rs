//! What PID 1 says when the installer process ended without an ending.

use std::fmt;

use nix::sys::signal::Signal;

use crate::escapes;
use crate::failure::{Code, Failure, Touched};

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// It could not be started, and why.
    NotStarted(String),
    /// It exited by itself, with this code.
    Exited(i32),
    /// A signal that was not ours killed it.
    Killed(Signal),
    /// The kernel killed it to get memory.
    OutOfMemory,
    /// It said nothing for so many seconds, and PID 1 killed it.
    Hung(u64),
    /// It told its ending but did not exit, or ran for longer than it may, and PID 1 killed it.
    Overdue(u64),
    /// It said nothing for so many seconds, and not even SIGKILL ended it: it waits for a device in the kernel.
    Unkillable(u64),
}

/// A death with what was known before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Death {
    /// How it ended.
    pub cause: Cause,
    /// The step it was in and how far it got with the disk, if it told.
    pub step: Option<(String, Touched)>,
    /// What it wrote last to its standard error.
    pub last_words: Option<String>,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the installer process ")?;
        match self {
            Self::NotStarted(error) => write!(f, "could not be started: {error}"),
            Self::Exited(code) => write!(f, "exited with code {code} without saying how the run ends"),
            Self::Killed(signal) => write!(f, "was killed by signal {} ({signal})", *signal as i32),
            Self::OutOfMemory => f.write_str("was killed by the kernel because memory ran out (SIGKILL)"),
            Self::Hung(seconds) => write!(f, "did not respond for {seconds} s and was killed"),
            Self::Overdue(seconds) => write!(f, "did not end within {seconds} s and was killed"),
            Self::Unkillable(seconds) => write!(f, "did not respond for {seconds} s and could not be killed"),
        }
    }
}

impl Death {
    /// Whether it was ended because it got no further.
    #[must_use]
    pub fn is_hang(&self) -> bool {
        matches!(self.cause, Cause::Hung(_) | Cause::Unkillable(_))
    }

    /// What the person reads.
    #[must_use]
    pub fn failure(&self) -> Failure {
        let mut happened = self.cause.to_string();
        if let Some(words) = &self.last_words {
            happened += &format!("; it last wrote: {words}");
        }
        let untouched = match &self.step {
            None => "Whether the disk was written to is not known; no other disk was.".to_owned(),
            Some((_, touched)) => untouched(touched),
        };
        let advice = match self.cause {
            Cause::OutOfMemory => "Give the machine more memory, then retry.",
            Cause::Unkillable(_) => {
                "Reboot: it still waits for a device, so a retry reboots too. If it happens again, check the disk and \
                 the console's log."
            }
            _ => "Retry; if it happens again, keep this text and the console's log.",
        };
        Failure {
            code: Code::InstallerDied,
            step: self.step.as_ref().map_or("installer", |(step, _)| step).to_owned(),
            happened,
            untouched,
            advice: advice.to_owned(),
        }
    }
}

/// What was not touched. It may have got further than it told: what it had begun may be complete.
fn untouched(touched: &Touched) -> String {
    let there = match touched {
        Touched::Nothing => return "No disk was written to.".to_owned(),
        Touched::Begun(_) => "What is on it may not be complete and may not boot.".to_owned(),
        Touched::Again(_) => "It holds this release from an earlier run, which may not boot.".to_owned(),
        Touched::Beside(_, other) => format!("{} on it was not touched and boots.", escapes::line(other)),
        Touched::Complete(_) => "The release on it is complete and boots.".to_owned(),
    };
    format!("No disk but the one being installed to was written to. {there}")
}

/// The last lines a process wrote: what a panic says, else its last line.
#[derive(Debug, Default)]
pub struct LastWords(Vec<String>);

impl LastWords {
    /// Lines kept; a panic says its place and its message in two.
    const LINES: usize = 8;

    /// Characters of the result.
    const LENGTH: usize = 400;

    /// Adds a line.
    pub fn heard(&mut self, line: &str) {
        if line.trim().is_empty() || line.starts_with("note: ") {
            return;
        }
        if self.0.len() == Self::LINES {
            self.0.remove(0);
        }
        self.0.push(escapes::line(line.trim()));
    }

    /// The panic, or the last line, if there was any.
    #[must_use]
    pub fn say(&self) -> Option<String> {
        let from = self.0.iter().rposition(|line| line.contains(" panicked at "));
        let from = from.unwrap_or_else(|| self.0.len().saturating_sub(1));
        let text = self.0.get(from..).unwrap_or_default().join(" ");
        (!text.is_empty()).then(|| text.chars().take(Self::LENGTH).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(cause: Cause) -> String {
        Death { cause, step: None, last_words: None }.failure().happened
    }

    #[test]
    fn what_got_no_further_is_a_hang() {
        let hangs = |cause| Death { cause, step: None, last_words: None }.is_hang();
        assert!(hangs(Cause::Hung(300)) && hangs(Cause::Unkillable(300)));
        assert!(!hangs(Cause::Exited(101)) && !hangs(Cause::OutOfMemory) && !hangs(Cause::Overdue(10)));
    }

    #[test]
    fn every_cause_is_one_plain_sentence() {
        assert_eq!(happened(Cause::Killed(Signal::SIGKILL)), "the installer process was killed by signal 9 (SIGKILL)");
        assert_eq!(happened(Cause::Killed(Signal::SIGSEGV)), "the installer process was killed by signal 11 (SIGSEGV)");
        assert_eq!(
            happened(Cause::OutOfMemory),
            "the installer process was killed by the kernel because memory ran out (SIGKILL)"
        );
        assert_eq!(
            happened(Cause::Exited(101)),
            "the installer process exited with code 101 without saying how the run ends"
        );
        assert_eq!(happened(Cause::Hung(300)), "the installer process did not respond for 300 s and was killed");
        assert_eq!(happened(Cause::Overdue(60)), "the installer process did not end within 60 s and was killed");
        assert_eq!(
            happened(Cause::Unkillable(300)),
            "the installer process did not respond for 300 s and could not be killed"
        );
        assert_eq!(
            happened(Cause::NotStarted("Cannot allocate memory (os error 12)".into())),
            "the installer process could not be started: Cannot allocate memory (os error 12)"
        );
    }

    #[test]
    fn the_failure_says_what_was_not_touched() {
        let death =
            |step| Death { cause: Cause::Killed(Signal::SIGABRT), step, last_words: Some("oh".into()) }.failure();
        let early = death(Some(("network".to_owned(), Touched::Nothing)));
        assert_eq!((early.step.as_str(), early.untouched.as_str()), ("network", "No disk was written to."));
        assert_eq!(early.happened, "the installer process was killed by signal 6 (SIGABRT); it last wrote: oh");
        let untouched = |step: &str, touched| death(Some((step.to_owned(), touched))).untouched;
        assert_eq!(
            untouched("root", Touched::Begun("vda".into())),
            "No disk but the one being installed to was written to. What is on it may not be complete and may not boot."
        );
        assert_eq!(
            untouched("root", Touched::Again("vda".into())),
            "No disk but the one being installed to was written to. It holds this release from an earlier run, which \
             may not boot."
        );
        assert_eq!(
            untouched("esp", Touched::Beside("vda".into(), "debian_13.1\r".into())),
            "No disk but the one being installed to was written to. debian_13.1\\r on it was not touched and boots."
        );
        // No step takes that away.
        for step in ["esp", "attestation", "boot-entry", "secure-boot", "kernel", "run"] {
            assert_eq!(
                untouched(step, Touched::Complete("vda".into())),
                "No disk but the one being installed to was written to. The release on it is complete and boots.",
                "{step}"
            );
        }
        assert_eq!(death(None).untouched, "Whether the disk was written to is not known; no other disk was.");
        assert_eq!(early.code, Code::InstallerDied);
    }

    #[test]
    fn a_panic_is_told_without_its_note() {
        let mut words = LastWords::default();
        assert_eq!(words.say(), None);
        for line in ["working", "", "thread 'main' (7) panicked at a.rs:1:2:", "boom", "note: run with `X`"] {
            words.heard(line);
        }
        assert_eq!(words.say().as_deref(), Some("thread 'main' (7) panicked at a.rs:1:2: boom"));
        words.heard("more");
        assert_eq!(words.say().as_deref(), Some("thread 'main' (7) panicked at a.rs:1:2: boom more"));
        (0..20).for_each(|n| words.heard(&n.to_string()));
        assert_eq!(words.say().as_deref(), Some("19"));
    }
}
