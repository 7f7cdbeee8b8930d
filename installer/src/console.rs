//! Every console the kernel lists, and those that the site config adds: screens and serial lines. Writing never waits long; keys
//! come from any of them.
//!
//! A screen gets progress as one rewritten line, a serial line (whose log is read later) a plain line every few seconds.

mod patience;
mod speed;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, ControlFlags, InputFlags, LocalFlags, SetArg, SpecialCharacterIndices};

use crate::escapes;
use patience::{IMPATIENCE, PATIENCE, write_within};

/// Consoles the kernel writes to, one name a word (Linux `Documentation/ABI/testing/sysfs-tty`).
const ACTIVE: &str = "/sys/class/tty/console/active";

/// The one of them that is another name of those.
const ITSELF: &str = "console";

/// All terminals, a directory each.
const TERMINALS: &str = "/sys/class/tty";

/// Their nodes.
const DEVICES: &str = "/dev";

/// How often a serial line or a pipe gets a line of progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Columns of progress text on a screen: one less than the least there is, so that the line never wraps.
const COLUMNS: usize = 79;

/// Where people look. All methods take `&self`; threads may share it.
pub struct Consoles(Mutex<Vec<Console>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A screen: lines can be rewritten.
    Screen,
    /// A serial line: every line stays in somebody's log.
    Serial,
    /// Standard error that is no terminal.
    Pipe,
}

struct Console {
    name: String,
    kind: Kind,
    output: Output,
    /// Whether keys are read; false after a hang-up and for standard error.
    keys: bool,
    /// Whether the terminal was told to hand over single keys.
    raw: bool,
    /// Set when a write ran out of patience: until it takes bytes again, writes do not wait at all.
    stuck: bool,
    /// Whether the cursor stands behind a line of progress.
    on_progress: bool,
    last_progress: Option<Instant>,
}

enum Output {
    /// Opened by us, non-blocking.
    Tty(File),
    /// Shared with whoever started us: its flags are not ours to change.
    Stderr,
}

impl Consoles {
    /// Opens every console the kernel lists; `/dev/console` where it lists none. Consoles that cannot be opened are
    /// left out, even if none remains: a machine without any is installed all the same.
    #[must_use]
    pub fn open() -> Self {
        let active = fs::read_to_string(ACTIVE).unwrap_or_default();
        let mut consoles: Vec<Console> =
            active.split_whitespace().filter_map(|name| Console::open(Path::new(DEVICES), name)).collect();
        if consoles.is_empty() {
            consoles.extend(Console::open(Path::new(DEVICES), ITSELF));
        }
        Self(Mutex::new(consoles))
    }

    /// Opens them anew, those whose drivers came later included, and those that were added before.
    #[must_use]
    pub fn reopened(&self) -> Self {
        let consoles = Self::open();
        // One that is gone is no news.
        let _ = consoles.add(&self.names());
        consoles
    }

    /// Shows on these terminals too (`ttyS1`, `ttyS1,57600`), where they are not open yet, and returns the names of those that are
    /// not there.
    #[must_use]
    pub fn add(&self, entries: &[String]) -> Vec<String> {
        self.add_from(Path::new(TERMINALS), Path::new(DEVICES), entries)
    }

    fn add_from(&self, terminals: &Path, devices: &Path, entries: &[String]) -> Vec<String> {
        let mut consoles = self.lock();
        let mut missing = Vec::new();
        for entry in entries {
            let name = speed::terminal(entry);
            if name == ITSELF || consoles.iter().any(|console| speed::terminal(&console.name) == name) {
                continue;
            }
            // First by its name: to open a device that is something else may start it, and a disk keeps what is written to it.
            let is_listed = terminals.join(name).exists();
            let opened = if is_listed { Console::open(devices, name) } else { None };
            match opened.filter(Console::is_terminal) {
                Some(console) => consoles.push(console.added_as(entry)),
                None => missing.push(name.to_owned()),
            }
        }
        missing
    }

    /// Standard error: what the installer as an ordinary command writes to.
    #[must_use]
    pub fn stderr() -> Self {
        let kind = if io::stderr().is_terminal() { Kind::Screen } else { Kind::Pipe };
        Self(Mutex::new(vec![Console::new("stderr".into(), kind, Output::Stderr)]))
    }

    /// Names of the open consoles, as the kernel calls them, and those that were added as they were.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.lock().iter().map(|console| console.name.clone()).collect()
    }

    /// Writes a line to every console. What a terminal would take for a command is shown as an escape: text may come from the
    /// network.
    pub fn line(&self, text: &str) {
        let text = escapes::line(text);
        self.lock().iter_mut().for_each(|console| console.line(&text));
    }

    /// Writes a line to every console but screens: for readers that are programs.
    pub fn serial_line(&self, text: &str) {
        let text = escapes::line(text);
        let mut consoles = self.lock();
        consoles.iter_mut().filter(|console| console.kind != Kind::Screen).for_each(|console| console.line(&text));
    }

    /// Shows progress: rewritten in place on a screen; elsewhere a plain line every few seconds, the rest is left out.
    pub fn progress(&self, text: &str) {
        let text = escapes::line(text);
        self.lock().iter_mut().for_each(|console| console.progress(&text));
    }

    /// The same on screens only: for what changes every second.
    pub fn rewrite(&self, text: &str) {
        let text = escapes::line(text);
        let mut consoles = self.lock();
        consoles.iter_mut().filter(|console| console.kind == Kind::Screen).for_each(|console| console.progress(&text));
    }

    /// Waits up to `timeout` for a key on any console. From the first call on, the terminals hand over single keys.
    /// Other threads' lines wait meanwhile.
    pub fn read_key(&self, timeout: Duration) -> Option<char> {
        let mut consoles = self.lock();
        consoles.iter_mut().for_each(Console::make_raw);
        let mut ready = Vec::new();
        {
            let readable: Vec<(usize, &File)> =
                consoles.iter().enumerate().filter_map(|(index, console)| Some((index, console.readable()?))).collect();
            let mut fds: Vec<PollFd<'_>> =
                readable.iter().map(|(_, file)| PollFd::new(file.as_fd(), PollFlags::POLLIN)).collect();
            // An interrupted or failed poll is a time without a key.
            let _ = poll(&mut fds, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX));
            for (fd, (index, _)) in fds.iter().zip(&readable) {
                if fd.any() == Some(true) {
                    ready.push(*index);
                }
            }
        }
        ready.into_iter().filter_map(|index| consoles.get_mut(index)?.key()).next()
    }

    /// A serial console on one end of a pseudo-terminal, and the person's end, which blocks.
    #[cfg(test)]
    pub(crate) fn pty() -> (Self, File) {
        tests::pair(Kind::Serial)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Console>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Consoles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Consoles").field(&self.names()).finish()
    }
}

impl Console {
    fn new(name: String, kind: Kind, output: Output) -> Self {
        let keys = matches!(output, Output::Tty(_));
        Self { name, kind, output, keys, raw: false, stuck: false, on_progress: false, last_progress: None }
    }

    fn open(devices: &Path, name: &str) -> Option<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK)
            .open(devices.join(name))
            .ok()?;
        Some(Self::new(name.to_owned(), kind_of(name), Output::Tty(file)))
    }

    /// With this name, and a serial line at its speed.
    fn added_as(mut self, entry: &str) -> Self {
        if let (Kind::Serial, Output::Tty(file)) = (self.kind, &self.output) {
            speed::set(file, entry);
        }
        entry.clone_into(&mut self.name);
        self
    }

    fn is_terminal(&self) -> bool {
        matches!(&self.output, Output::Tty(file) if file.is_terminal())
    }

    fn line(&mut self, text: &str) {
        let start = if self.on_progress { "\r\x1b[K" } else { "" };
        self.on_progress = false;
        self.write(&format!("{start}{text}\n"));
    }

    fn progress(&mut self, text: &str) {
        if self.kind == Kind::Screen {
            let text: String = text.chars().take(COLUMNS).collect();
            self.write(&format!("\r{text}\x1b[K"));
            self.on_progress = true;
        } else if self.last_progress.is_none_or(|last| last.elapsed() >= PROGRESS_EVERY) {
            self.last_progress = Some(Instant::now());
            self.write(&format!("{text}\n"));
        }
    }

    fn write(&mut self, text: &str) {
        match &self.output {
            Output::Tty(file) => {
                let patience = if self.stuck { IMPATIENCE } else { PATIENCE };
                self.stuck = !write_within(file, text.as_bytes(), patience);
            }
            // Nothing is left to complain to when standard error is closed.
            Output::Stderr => drop(io::stderr().write_all(text.as_bytes())),
        }
    }

    fn readable(&self) -> Option<&File> {
        match &self.output {
            Output::Tty(file) if self.keys => Some(file),
            _ => None,
        }
    }

    /// One key, or none if what came is no ASCII character. A terminal that hung up is not read again.
    fn key(&mut self) -> Option<char> {
        let Output::Tty(file) = &self.output else { return None };
        let mut byte = [0];
        let mut file: &File = file;
        match file.read(&mut byte) {
            Ok(1) => byte.first().copied().map(char::from).filter(char::is_ascii),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
            _ => {
                self.keys = false;
                None
            }
        }
    }

    /// Single keys, no echo, no signals; output is left as it is, so that a line end still returns the carriage.
    fn make_raw(&mut self) {
        if self.raw {
            return;
        }
        self.raw = true;
        let Output::Tty(file) = &self.output else { return };
        // What is no terminal is read as it is.
        let Ok(mut settings) = termios::tcgetattr(file) else { return };
        settings.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG | LocalFlags::IEXTEN);
        settings.input_flags.remove(InputFlags::IXON | InputFlags::ICRNL);
        // A serial line without modem signals would count as hung up.
        settings.control_flags.insert(ControlFlags::CLOCAL | ControlFlags::CREAD);
        for (index, value) in [(SpecialCharacterIndices::VMIN, 1), (SpecialCharacterIndices::VTIME, 0)] {
            if let Some(slot) = settings.control_chars.get_mut(index as usize) {
                *slot = value;
            }
        }
        let _ = termios::tcsetattr(file, SetArg::TCSANOW, &settings);
    }
}

/// Screens are `tty0`, `tty1`…; all else behaves like a serial line.
fn kind_of(name: &str) -> Kind {
    let number = name.strip_prefix("tty").unwrap_or_default();
    if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) { Kind::Screen } else { Kind::Serial }
}
