//! Waiting for what a machine does: its console, its end, its resets, the time, and the person who watches.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use metalstrap_qemu::{Exit, Line, Machine};
use serde_json::Value;

use super::interrupt::Interrupt;

/// How often the machine is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long a line may lack its end before it is taken for a prompt.
const PROMPT: Duration = Duration::from_secs(1);
/// Seconds within which resets are one and the same.
const SAME_RESET: i64 = 2;
/// What OVMF prints when nothing could be started (EDK2, OvmfPkg, PlatformBootManagerUnableToBoot), or starts instead.
const NOTHING_STARTED: [&str; 2] = ["No bootable option or device was found", "UEFI Interactive Shell"];
/// The last thing that OVMF tries, of itself; Secure Boot refuses it always.
const SHELL: &str = "EFI Internal Shell";
/// What it prints before, for each thing that it tried.
const TRIED: &str = "BdsDxe: failed to ";

/// Why a wait ended without that for which it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The time of the run is over.
    Timeout,
    /// The machine ended by itself.
    Ended(Exit),
    /// The machine was reset, which was not to be.
    Reset,
    /// The firmware found nothing that it could or may start; its words.
    NotStarted(String),
}

/// The limits of every wait of a run.
#[derive(Debug)]
pub struct Watch<'a> {
    deadline: Instant,
    interrupt: &'a Interrupt,
}

/// How far a machine's console was looked at since its power-on.
#[derive(Debug, Default)]
pub struct Seen {
    lines: usize,
    firmware: Vec<String>,
    /// Resets of the machine that are to be.
    pub resets: usize,
}

impl<'a> Watch<'a> {
    /// Waits end at `deadline`, or when a signal has come.
    pub fn new(deadline: Instant, interrupt: &'a Interrupt) -> Self {
        Self { deadline, interrupt }
    }

    /// Shows each line of the console to `look`, from where the last wait ended on, until it finds something. A line
    /// without end is shown again when it has grown, and at each look.
    ///
    /// # Errors
    /// When a signal has come, or the machine cannot be looked at.
    pub fn wait<T>(
        &self,
        machine: &mut Machine<'_>,
        seen: &mut Seen,
        mut look: impl FnMut(&Line) -> Option<T>,
    ) -> Result<Result<T, Stop>> {
        loop {
            // First: what the console holds after this is all that there will be.
            let ended = machine.ended()?;
            for mut line in machine.serial().lines_from(seen.lines) {
                line.complete |= ended.is_some();
                if let Some(found) = look(&line) {
                    seen.lines += usize::from(line.complete);
                    return Ok(Ok(found));
                }
                if let Some(stop) = seen.pass(&line) {
                    return Ok(Err(stop));
                }
            }
            if let Some(signal) = self.interrupt.signal() {
                bail!("ended by {signal}");
            }
            if let Some(exit) = ended {
                return Ok(Err(Stop::Ended(exit)));
            }
            if resets(&machine.monitor_events()) > seen.resets {
                return Ok(Err(Stop::Reset));
            }
            if Instant::now() >= self.deadline {
                return Ok(Err(Stop::Timeout));
            }
            thread::sleep(LOOK);
        }
    }
}

impl Seen {
    /// Goes behind `line`, if it is complete.
    fn pass(&mut self, line: &Line) -> Option<Stop> {
        if !line.complete {
            return None;
        }
        self.lines += 1;
        // On the same line, before it, may be the progress of a download.
        let tried = line.text.find(TRIED).and_then(|at| line.text.get(at..));
        self.firmware.extend(tried.filter(|words| !words.contains(SHELL)).map(|words| words.trim().to_owned()));
        let nothing = NOTHING_STARTED.iter().any(|words| line.text.contains(words));
        nothing.then(|| Stop::NotStarted(std::mem::take(&mut self.firmware).join("; ")))
    }
}

/// How often the guest, or its watchdog, has reset the machine. Linux tries one way after the other until it is gone, so
/// that one reset may be told several times.
fn resets(events: &[Value]) -> usize {
    let (mut count, mut last) = (0, None);
    for event in events {
        let guest = event.pointer("/data/guest") == Some(&Value::Bool(true));
        if !guest || event.get("event").is_none_or(|kind| kind != "RESET") {
            continue;
        }
        let at = event.pointer("/timestamp/seconds").and_then(Value::as_i64).unwrap_or_default();
        if last.is_none_or(|last| at - last > SAME_RESET) {
            count += 1;
        }
        last = Some(at);
    }
    count
}

/// Finds the line with `text`: when it began to arrive, and the whole of it. A prompt has no line end: it is taken when it
/// has stood there for a while.
pub fn expecting(text: &str) -> impl FnMut(&Line) -> Option<(Duration, String)> {
    let mut since = None;
    move |line| {
        if !line.text.contains(text) {
            return None;
        }
        let since = *since.get_or_insert_with(Instant::now);
        (line.complete || since.elapsed() >= PROMPT).then(|| (line.at, line.text.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use serde_json::json;

    use super::*;

    fn line(text: &str, complete: bool) -> Line {
        Line { at: Duration::from_secs(7), time: SystemTime::UNIX_EPOCH, text: text.to_owned(), complete }
    }

    #[test]
    fn a_whole_line_is_found_at_once_and_a_prompt_when_it_stays() {
        let mut look = expecting("login:");
        assert_eq!(look(&line("booting", true)), None);
        assert_eq!(look(&line("host login:", false)), None);
        assert_eq!(look(&line("host login: yes", true)), Some((Duration::from_secs(7), "host login: yes".to_owned())));
        let mut look = expecting("login:");
        let end = Instant::now() + 2 * PROMPT;
        let found =
            std::iter::repeat_with(|| look(&line("login:", false))).find(|at| at.is_some() || Instant::now() > end);
        assert_eq!(found.unwrap(), Some((Duration::from_secs(7), "login:".to_owned())));
    }

    #[test]
    fn the_firmwares_words_are_kept_until_it_gives_up() {
        let mut seen = Seen::default();
        let tried = "BdsDxe: failed to load Boot0001 \"UEFI HTTPv4\" from PciRoot(0x0): Access Denied";
        assert_eq!(seen.pass(&line(&format!("Downloading...99%  Downloading...100%{tried}"), true)), None);
        assert_eq!(
            seen.pass(&line("BdsDxe: failed to start Boot0003 \"EFI Internal Shell\": Security Violation", true)),
            None
        );
        assert_eq!(seen.pass(&line("BdsDxe: No bootable option or device was fou", false)), None);
        let stop = seen.pass(&line("BdsDxe: No bootable option or device was found.", true));
        assert_eq!(stop, Some(Stop::NotStarted(tried.to_owned())));
        assert_eq!(seen.lines, 3);
        assert_eq!(seen.pass(&line("UEFI Interactive Shell v2.2", true)), Some(Stop::NotStarted(String::new())));
    }

    #[test]
    fn only_the_guests_resets_count() {
        let reset = |guest: bool, seconds: i64| json!({"event": "RESET", "data": {"guest": guest}, "timestamp": {"seconds": seconds, "microseconds": 0}});
        let resume = json!({"event": "RESUME"});
        assert_eq!(resets(&[resume, reset(false, 1), reset(true, 10), reset(true, 11), reset(true, 11)]), 1);
        assert_eq!(resets(&[reset(true, 10), reset(true, 12), reset(true, 15)]), 2);
    }
}
