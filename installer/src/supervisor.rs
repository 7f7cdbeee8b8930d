//! One run of a child process under guard: its messages and output are read, its silence is bounded, its end is known.
//!
//! # Design
//! One thread, one `poll` over the child's message pipe, its output and SIGCHLD. Only this loop waits for processes, so
//! no status is stolen, and PID 1 reaps whatever else it inherits in the same place.

mod child;
#[cfg(test)]
mod tests;

use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use crate::console::Consoles;
use crate::death::{Cause, Death};
use crate::ending::Ending;
use child::Child;

/// How long a child may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Without a message for so long it hangs, and is killed.
    pub silence: Option<Duration>,
    /// After its ending it exits within this; else it is killed.
    pub exit: Duration,
    /// All of it, for a child that sends no messages.
    pub total: Option<Duration>,
    /// Killed, it is gone within this; else it is stuck in the kernel (a device that does not answer) and left behind.
    pub death: Duration,
}

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It told its ending.
    Ended(Ending),
    /// It ended without one.
    Died(Death),
    /// Somebody asked for a reboot: Ctrl-Alt-Del.
    Interrupted,
}

/// A run's outcome, and what it told about itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// The id in its events, if it told one.
    pub id: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// Seconds until a failed installation reboots (`Some(None)`: hold); `None` if it died before it knew.
    pub policy: Option<Option<u32>>,
    /// Seconds with which the installed OS takes over a watchdog, if it told that it does.
    pub watchdog: Option<u32>,
    /// Whether the process may still be there, because not even SIGKILL ended it: it must not be started again.
    pub left_behind: bool,
}

/// What PID 1 lends to a run.
pub struct Guard<'a> {
    /// Where the child's output goes.
    pub consoles: &'a Consoles,
    /// SIGCHLD and SIGINT, blocked for this process. Without it, as in tests, the end of the pipes tells the same.
    pub signals: Option<&'a SignalFd>,
    /// Whether all of this process's children are reaped, as PID 1 must, or only this one.
    pub reap_all: bool,
    /// Called about every second while the child is well.
    pub duties: &'a mut dyn FnMut(),
}

impl std::fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard").field("consoles", self.consoles).field("reap_all", &self.reap_all).finish()
    }
}

/// Starts `command`, hands `input` to it and stays with it until it is gone.
pub fn run(mut command: Command, input: &[u8], limits: Limits, guard: Guard<'_>) -> Run {
    let mut child = match Child::start(&mut command, input) {
        Ok(child) => child,
        Err(error) => {
            let cause = Cause::NotStarted(error.to_string());
            let outcome = Outcome::Died(Death { cause, step: None, last_words: None });
            return Run { id: None, outcome, policy: None, watchdog: None, left_behind: false };
        }
    };
    while child.status.is_none() && !child.outlives_its_kill(limits.death) {
        (guard.duties)();
        child.listen(guard.signals, guard.consoles);
        if guard.signals.is_some_and(interrupted) {
            let outcome = Outcome::Interrupted;
            return Run { id: child.id, outcome, policy: child.policy, watchdog: None, left_behind: true };
        }
        child.reap(guard.reap_all);
        child.enforce(limits);
    }
    // What it wrote before its end is still in the pipes; a grandchild may hold them open, so not until their end.
    while child.read_messages(guard.consoles) {}
    while child.read_output(guard.consoles) {}
    child.verdict()
}

/// Drains the signals that came; whether one of them was Ctrl-Alt-Del's SIGINT.
pub(crate) fn interrupted(signals: &SignalFd) -> bool {
    let mut asked = false;
    while let Ok(Some(signal)) = signals.read_signal() {
        asked |= i32::try_from(signal.ssi_signo) == Ok(Signal::SIGINT as i32);
    }
    asked
}
