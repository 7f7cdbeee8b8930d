//! How long the installed OS lives: a unit that reaches it as a credential tells when it is up, and what it is like long after that;
//! and when what happened, by the clock of the host.

use std::time::SystemTime;

use anyhow::{Context as _, Result};
use metalstrap_qemu::{Builder, Line, Machine};
use serde::Deserialize;

use crate::observe::unit;

/// On a line of its own when multi-user.target is reached.
pub const UP: &str = "METALSTRAP-UP";
/// The same when the mark of a kexec is gone.
pub const CONFIRMED: &str = "METALSTRAP-CONFIRMED";
/// Before what it has to say when it has lived for long enough.
pub const LIVED: &str = "METALSTRAP-LIVED ";
/// How the kernel's messages begin.
pub const KERNEL: &str = "Linux version ";

/// What the OS says when it has lived for long enough.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lived {
    /// Whole seconds since its kernel started.
    pub uptime: u64,
    /// Of the hardware watchdog: `active` while its timer runs.
    pub state: String,
    /// Seconds of that timer.
    pub timeout: String,
    /// Those of the firmware's variables `BootNext`, `BootOrder` and `MetalstrapKexec` that are there, in this order.
    pub variables: String,
    /// `/proc/cmdline`.
    pub cmdline: String,
}

impl Lived {
    /// Parses the text behind [`LIVED`] on its line.
    ///
    /// # Errors
    /// It is not the JSON that the unit prints.
    pub fn parse(line: &str) -> Result<Self> {
        serde_json::from_str(line.trim()).with_context(|| format!("reading what the guest says of its life: {line}"))
    }
}

/// A unit of its own confirms a kexec, beside this one: until then the mark and the next boot are there. That is waited for, but not
/// for ever.
const SCRIPT: &str = r#"
up() { cut -d. -f1 /proc/uptime; }
variables() { ls | sed -n 's/^\(BootNext\|BootOrder\|MetalstrapKexec\)-.*/\1/p' | paste -sd' '; }
printf '\nMETALSTRAP-UP\n' >/dev/ttyS0
cd /sys/firmware/efi/efivars
while [ "$(variables)" != BootOrder ] && [ "$(up)" -le 600 ]; do sleep 1; done
printf '\nMETALSTRAP-CONFIRMED\n' >/dev/ttyS0
while [ "$(up)" -le SECONDS ]; do sleep 1; done
watchdog=/sys/class/watchdog/watchdog0
printf '\n%s{"uptime":%s,"state":"%s","timeout":"%s","variables":"%s","cmdline":"%s"}\n' 'METALSTRAP-LIVED ' "$(up)" \
    "$(cat $watchdog/state)" "$(cat $watchdog/timeout)" "$(variables)" "$(cat /proc/cmdline)" >/dev/ttyS0
"#;

/// `machine` with an OS that prints [`UP`] when it is up, then [`CONFIRMED`], and [`LIVED`] when its kernel has run for more than
/// `seconds`.
#[must_use]
pub fn with_unit(machine: Builder, seconds: u64) -> Builder {
    let script = SCRIPT.replace("SECONDS", &seconds.to_string());
    machine.credential_unit("metalstrap-uptime", &unit("Tell how long it lives", "", &script))
}

/// The last line of the console that `wanted` accepts.
///
/// # Errors
/// There is none.
pub fn last_line(machine: &Machine<'_>, what: &str, wanted: impl Fn(&Line) -> bool) -> Result<Line> {
    let found = machine.serial().lines().into_iter().rev().find(wanted);
    found.with_context(|| format!("finding the line of {what} on the console"))
}

/// Seconds from one time to a later one.
///
/// # Errors
/// It is no later one.
pub fn seconds(from: SystemTime, to: SystemTime) -> Result<f64> {
    let between = to.duration_since(from).with_context(|| format!("counting from {from:?} to {to:?}"))?;
    Ok(between.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_script_prints_is_understood() {
        let line =
            r#"{"uptime":185,"state":"active","timeout":"60","variables":"BootOrder","cmdline":"gpt roothash=ab"}"#;
        let lived = Lived::parse(&format!("{line}\r")).unwrap();
        assert_eq!((lived.uptime, lived.timeout.as_str(), lived.variables.as_str()), (185, "60", "BootOrder"));
        // The same from the shell's words, without the machine.
        let names = r"ls() { printf 'BootOrder-1\nBoot0001-1\nLang-1\n'; }";
        let script = SCRIPT.replace("SECONDS", "0").replace("cd /sys/firmware/efi/efivars", names);
        let script = script.replace("/dev/ttyS0", "/dev/stdout").replace("/proc/cmdline", "/dev/null");
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = said.lines().filter(|line| !line.is_empty()).collect();
        let [UP, CONFIRMED, told] = lines.as_slice() else { panic!("{said}") };
        let told = told.strip_prefix(LIVED).unwrap();
        assert_eq!(Lived::parse(told).unwrap().variables, "BootOrder");
    }
}
