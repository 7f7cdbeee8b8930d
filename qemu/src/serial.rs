//! The serial console of a machine: read all the time by a thread of its own, kept, and waited on.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::line::{Event, Line};

/// How many lines an error shows.
const TAIL: usize = 30;

/// A console. Clones see the same one.
///
/// # Design
/// An actor: one thread owns the reading end, writes everything to the log file and appends it to the shared text. A
/// wait looks only at text after the end of the wait before, and is woken by new text or by the end of the machine.
#[derive(Clone)]
pub struct Serial {
    name: String,
    shared: Arc<Shared>,
    input: Arc<Mutex<dyn Write + Send>>,
}

impl std::fmt::Debug for Serial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serial").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Shared {
    heard: Mutex<Heard>,
    changed: Condvar,
}

#[derive(Default)]
struct Heard {
    lines: VecDeque<Line>,
    /// What came after the last wait's match. Bytes that are no UTF-8 are replaced.
    unread: String,
    /// The start of a character whose rest has not come yet.
    rest: Vec<u8>,
    ended: bool,
}

impl Shared {
    /// A panic of another holder leaves the text as true as it was.
    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Serial {
    /// Starts to listen to the machine `name` and to log to `log`; `power_on` is the zero of all times.
    pub(crate) fn listen(
        name: &str,
        output: impl Read + Send + 'static,
        input: impl Write + Send + 'static,
        log: &Path,
        power_on: Instant,
    ) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("opening {}", log.display()))?;
        let shared = Arc::<Shared>::default();
        let heard = shared.clone();
        let actor = move || hear(output, file, &heard, power_on);
        thread::Builder::new().name(format!("serial {name}")).spawn(actor).context("starting a thread")?;
        Ok(Self { name: name.to_owned(), shared, input: Arc::new(Mutex::new(input)) })
    }

    /// Waits until the guest has printed `text`, and returns what it printed before it since the wait before.
    ///
    /// # Errors
    /// At once when the machine ends, else after `timeout`; both show the last lines.
    pub fn wait_for(&self, text: &str, timeout: Duration) -> Result<String> {
        let end = Instant::now() + timeout;
        let mut heard = self.shared.lock();
        loop {
            if let Some((before, after)) = heard.unread.split_once(text) {
                let (before, after) = (before.to_owned(), after.to_owned());
                heard.unread = after;
                return Ok(before);
            }
            if heard.ended {
                bail!("the machine {} ended before it said {text:?}; {}", self.name, heard.tail());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the machine {} did not say {text:?} within {timeout:?}; {}", self.name, heard.tail());
            }
            heard = self.shared.changed.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until the guest has printed an event that `wanted` accepts; earlier events count too.
    ///
    /// # Errors
    /// As [`Serial::wait_for`]; `what` completes "did not say …".
    pub fn wait_for_event(&self, what: &str, timeout: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Event> {
        let end = Instant::now() + timeout;
        let mut heard = self.shared.lock();
        // Complete lines that hold no such event: a guest that prints much wakes us often, and QEMU wants the processor itself.
        let mut passed = 0;
        loop {
            if let Some(event) =
                heard.lines.iter().skip(passed).filter_map(Line::event).find(|event| wanted(&event.value))
            {
                return Ok(event);
            }
            passed = heard.lines.iter().rposition(|line| line.complete).map_or(0, |last| last + 1);
            if heard.ended {
                bail!("the machine {} ended before it said {what}; {}", self.name, heard.tail());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("the machine {} did not say {what} within {timeout:?}; {}", self.name, heard.tail());
            }
            heard = self.shared.changed.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Types `bytes`.
    ///
    /// # Errors
    /// When the machine has ended.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        let mut input = self.input.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = input.write_all(bytes).and_then(|()| input.flush());
        sent.with_context(|| format!("typing on the console of {}", self.name))
    }

    /// All complete events since power-on.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.shared.lock().events().collect()
    }

    /// All lines since power-on; the last one may be incomplete.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.lines_from(0)
    }

    /// All lines since power-on but the `first` ones.
    #[must_use]
    pub fn lines_from(&self, first: usize) -> Vec<Line> {
        self.shared.lock().lines.iter().skip(first).cloned().collect()
    }

    /// Everything since power-on as text.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines().into_iter().map(|line| line.text + "\n").collect()
    }

    /// Waits until the console is closed: everything that the machine said is there then.
    pub(crate) fn wait_closed(&self) {
        let heard = self.shared.lock();
        drop(self.shared.changed.wait_while(heard, |heard| !heard.ended).unwrap_or_else(PoisonError::into_inner));
    }
}

impl Heard {
    fn hear(&mut self, bytes: &[u8], at: Duration) {
        self.rest.extend_from_slice(bytes);
        let whole = match std::str::from_utf8(&self.rest) {
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            _ => self.rest.len(),
        };
        let rest = self.rest.split_off(whole);
        let text = String::from_utf8_lossy(&self.rest).replace('\r', "");
        self.rest = rest;
        for part in text.split_inclusive('\n') {
            let content = part.strip_suffix('\n').unwrap_or(part);
            let complete = part.ends_with('\n');
            match self.lines.back_mut() {
                Some(line) if !line.complete => {
                    line.text.push_str(content);
                    line.complete = complete;
                }
                _ => {
                    self.lines.push_back(Line { at, time: SystemTime::now(), text: content.to_owned(), complete });
                }
            }
        }
        self.unread.push_str(&text);
    }

    fn events(&self) -> impl Iterator<Item = Event> {
        self.lines.iter().filter_map(Line::event)
    }

    fn tail(&self) -> String {
        if self.lines.is_empty() {
            return "it said nothing".to_owned();
        }
        let skip = self.lines.len().saturating_sub(TAIL);
        let last: Vec<&str> = self.lines.iter().skip(skip).map(|line| line.text.as_str()).collect();
        format!("its last lines:\n    {}", last.join("\n    "))
    }
}

/// The actor: reads until the machine's end.
fn hear(mut output: impl Read, mut log: File, shared: &Shared, power_on: Instant) {
    let mut buffer = [0; 4096];
    loop {
        let bytes = match output.read(&mut buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Ok(count) if count > 0 => buffer.get(..count).unwrap_or_default(),
            _ => break,
        };
        if let Err(error) = log.write_all(bytes) {
            eprintln!("writing the log of a console: {error}");
        }
        shared.lock().hear(bytes, power_on.elapsed());
        shared.changed.notify_all();
    }
    shared.lock().ended = true;
    shared.changed.notify_all();
}

#[cfg(test)]
mod tests {
    use std::io::pipe;

    use super::*;
    use crate::wait::seconds;

    fn console() -> (Serial, std::io::PipeWriter, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let (reader, writer) = pipe().unwrap();
        let serial = Serial::listen("m", reader, std::io::sink(), &dir.path().join("log"), Instant::now()).unwrap();
        (serial, writer, dir)
    }

    #[test]
    fn a_wait_returns_what_came_before_and_the_next_one_goes_on_behind_it() {
        let (serial, mut guest, dir) = console();
        guest.write_all(b"one\r\ntwo login: ").unwrap();
        assert_eq!(serial.wait_for("login:", seconds(5)).unwrap(), "one\ntwo ");
        guest.write_all("gr\u{fc}n login:".as_bytes()).unwrap();
        assert_eq!(serial.wait_for("login:", seconds(5)).unwrap(), " gr\u{fc}n ");
        assert_eq!(std::fs::read(dir.path().join("log")).unwrap(), "one\r\ntwo login: gr\u{fc}n login:".as_bytes());
    }

    #[test]
    fn a_timeout_shows_the_last_thirty_lines() {
        let (serial, mut guest, _dir) = console();
        let said: String = (1..=40).map(|number| format!("line {number}\n")).collect();
        guest.write_all(said.as_bytes()).unwrap();
        serial.wait_for("line 40", seconds(5)).unwrap();
        let error = serial.wait_for("login:", Duration::from_millis(50)).unwrap_err();
        let lines: Vec<String> = (11..=40).map(|number| format!("line {number}")).collect();
        let expected =
            format!("the machine m did not say \"login:\" within 50ms; its last lines:\n    {}", lines.join("\n    "));
        assert_eq!(format!("{error:#}"), expected);
    }

    #[test]
    fn the_end_is_noticed_at_once() {
        let (serial, guest, _dir) = console();
        drop(guest);
        let error = serial.wait_for("login:", seconds(60)).unwrap_err();
        assert_eq!(format!("{error:#}"), "the machine m ended before it said \"login:\"; it said nothing");
    }

    #[test]
    fn events_are_whole_lines_of_json() {
        let (serial, mut guest, _dir) = console();
        guest
            .write_all(b"noise\n{\"metalstrap\":1,\"step\":\"net\"}\r\n[    1.5] {\"metalstrap\":1,\"step\":\"a\"} x\n")
            .unwrap();
        guest.write_all(b"{\"metalstrap\":1,broken\n{\"metalstrap\":1,\"step\":\"late\"}").unwrap();
        serial.wait_for("late", seconds(5)).unwrap();
        let steps: Vec<Value> = serial.events().into_iter().map(|event| event.value["step"].clone()).collect();
        assert_eq!(steps, ["net", "a"]);
        guest.write_all(b"\n").unwrap();
        let late = serial.wait_for_event("late", seconds(5), |event| event["step"] == "late").unwrap();
        assert_eq!(late.value, serde_json::json!({"metalstrap": 1, "step": "late"}));
    }

    #[test]
    fn a_character_may_come_in_two_parts() {
        let mut heard = Heard::default();
        heard.hear(b"gr\xc3", Duration::ZERO);
        heard.hear(b"\xbcn\xff!", Duration::ZERO);
        assert_eq!(heard.unread, "gr\u{fc}n\u{fffd}!");
    }
}
