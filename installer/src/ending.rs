//! How a run ends: what the installer process tells PID 1, which alone carries it out.
//!
//! The way is a pipe: the supervisor names its descriptor in [`FD_VARIABLE`], the installer writes one [`Message`] a
//! line as JSON. A message each [`BEAT_EVERY`] says that the installer still runs: it gets further, or began what it does
//! now less than [`STILL`] ago.

#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Touched};

/// The last message of the installer process to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// A kernel is loaded with `kexec_file_load`: jump.
    Kexec,
    /// Restart through the firmware.
    Reboot,
    /// Switch off.
    Poweroff,
    /// The installation failed; PID 1 shows it, then holds or reboots as `reboot_after` says.
    Failed {
        /// What the person reads.
        failure: Failure,
        /// Seconds until a reboot; `None`: hold.
        reboot_after: Option<u32>,
    },
}

/// One line on the pipe from the installer to the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// The installer still runs.
    Beat,
    /// What the site config says about failures, told as soon as it is read.
    Policy {
        /// Seconds until a failed installation reboots; `None`: hold.
        reboot_on_failure_after: Option<u32>,
    },
    /// The consoles that the site config adds.
    Consoles {
        /// Their names.
        names: Vec<String>,
    },
    /// The id of the run, told first: a report about this process belongs to that run.
    Run {
        /// The id in the run's events.
        id: String,
    },
    /// What the installer does now: what the supervisor says about a sudden death.
    Step {
        /// The step's id.
        step: String,
        /// How far the run got with the disk.
        touched: Touched,
    },
    /// The installed OS takes over a watchdog that it gets with so many seconds.
    Watchdog {
        /// Seconds.
        seconds: u32,
    },
    /// The ending; nothing follows.
    Ending(Ending),
}

/// Names the descriptor that the supervisor hands to its child for [`Message`]s.
pub const FD_VARIABLE: &str = "METALSTRAP_ENDING_FD";

/// Names the run to the process that reports the failure of a dead installer.
pub const RUN_VARIABLE: &str = "METALSTRAP_RUN";

/// How often the installer tells that it runs. The supervisor's patience is many times this.
pub const BEAT_EVERY: Duration = Duration::from_secs(10);

/// How long nothing may stir before the installer stops to beat. One driver's probe, one flush or one call of the
/// firmware can take minutes, and none of them says how far it is. The supervisor's patience comes on top: an installer
/// that hangs as a whole is reported after both.
pub const STILL: Duration = Duration::from_secs(600);

/// The installer's end of the pipe. Clones write to the same one.
#[derive(Debug, Clone)]
pub struct EndingPipe(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    file: Mutex<File>,
    stirrings: Stirrings,
}

/// Counters that stand still when the installer does.
#[derive(Debug, Default)]
struct Stirrings {
    events: AtomicU64,
    bytes: AtomicU64,
}

impl Stirrings {
    fn now(&self) -> (u64, u64) {
        (self.events.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// What the beating thread saw last, when it changed, and for how long it may stay so.
#[derive(Debug)]
struct Pulse {
    still: Duration,
    seen: (u64, u64),
    changed: Instant,
}

impl Pulse {
    /// Whether something stirred lately before `at`.
    fn alive(&mut self, stirrings: (u64, u64), at: Instant) -> bool {
        if self.seen != stirrings {
            (self.seen, self.changed) = (stirrings, at);
        }
        at.duration_since(self.changed) < self.still
    }
}

impl EndingPipe {
    /// Takes the pipe that the environment names and starts the thread that beats; `None` without a supervisor.
    ///
    /// # Errors
    /// The variable is set but names no descriptor that can be written to.
    pub fn from_env() -> Result<Option<Self>> {
        Self::from_env_with(BEAT_EVERY, STILL)
    }

    /// The same with other times for [`BEAT_EVERY`] and [`STILL`].
    pub(crate) fn from_env_with(every: Duration, still: Duration) -> Result<Option<Self>> {
        let Some(value) = std::env::var_os(FD_VARIABLE) else { return Ok(None) };
        let number: RawFd = value
            .to_str()
            .and_then(|text| text.parse().ok())
            .with_context(|| format!("reading {FD_VARIABLE}={}", value.display()))?;
        // Opening it anew needs no unsafe claim of ownership. The inherited one is closed: else a process started
        // here would keep the pipe open beyond our death.
        let file = OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{number}"))
            .with_context(|| format!("opening descriptor {number} of {FD_VARIABLE}"))?;
        nix::unistd::close(number).with_context(|| format!("closing descriptor {number} of {FD_VARIABLE}"))?;
        let pipe = Self(Arc::new(Shared { file: Mutex::new(file), stirrings: Stirrings::default() }));
        pipe.beat(every, still);
        Ok(Some(pipe))
    }

    /// One that leads nowhere.
    #[cfg(test)]
    pub(crate) fn nowhere() -> Self {
        let (file, stirrings) = (Mutex::new(tempfile::tempfile().unwrap()), Stirrings::default());
        Self(Arc::new(Shared { file, stirrings }))
    }

    /// What stands still when the installer does.
    #[cfg(test)]
    pub(crate) fn stirred(&self) -> (u64, u64) {
        self.0.stirrings.now()
    }

    /// What was told through one that leads nowhere.
    #[cfg(test)]
    pub(crate) fn told(&self) -> Vec<Message> {
        use std::io::{Read as _, Seek as _};
        let (mut file, mut bytes) = (self.0.file.lock().unwrap(), Vec::new());
        file.rewind().unwrap();
        file.read_to_end(&mut bytes).unwrap();
        Messages::default().push(&bytes)
    }

    /// Tells the id of the run.
    pub fn run(&self, id: &str) {
        self.tell(&Message::Run { id: id.to_owned() });
    }

    /// Tells what the site config says about failures.
    pub fn policy(&self, reboot_on_failure_after: Option<u32>) {
        self.tell(&Message::Policy { reboot_on_failure_after });
    }

    /// Tells on which consoles the site config has what happens shown.
    pub fn consoles(&self, names: &[String]) {
        self.tell(&Message::Consoles { names: names.to_vec() });
    }

    /// Tells that the installed OS takes over a watchdog that it gets with so many `seconds`.
    pub fn watchdog(&self, seconds: u32) {
        self.tell(&Message::Watchdog { seconds });
    }

    /// Tells what is done now, and how far the run got with the disk.
    pub fn step(&self, step: &str, touched: &Touched) {
        self.0.stirrings.events.fetch_add(1, Ordering::Relaxed);
        self.tell(&Message::Step { step: step.to_owned(), touched: touched.clone() });
    }

    /// Tells, again and again, how many `bytes` the step looked at, fetched or got done, or that it `waits` for something
    /// outside, which has a limit of its own: while that changes, the installer beats.
    pub fn stir(&self, bytes: u64, waits: bool) {
        self.0.stirrings.bytes.store(bytes, Ordering::Relaxed);
        if waits {
            self.0.stirrings.events.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands over the ending. The installer exits after it.
    ///
    /// # Errors
    /// The supervisor does not read any more.
    pub fn end(&self, ending: &Ending) -> Result<()> {
        self.send(&Message::Ending(ending.clone())).context("telling the supervisor how the run ends")
    }

    /// A lost message other than the ending changes no outcome: it is logged.
    fn tell(&self, message: &Message) {
        if let Err(error) = self.send(message) {
            log::warn!("telling the supervisor {message:?}: {error}");
        }
    }

    fn send(&self, message: &Message) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.0.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }

    fn beat(&self, every: Duration, still: Duration) {
        let pipe = self.clone();
        let beats = std::thread::Builder::new().name("beat".into()).stack_size(64 * 1024).spawn(move || {
            let mut pulse = Pulse { still, seen: pipe.0.stirrings.now(), changed: Instant::now() };
            loop {
                if !pulse.alive(pipe.0.stirrings.now(), Instant::now()) {
                    log::warn!("nothing stirred for {} s", still.as_secs());
                } else if pipe.send(&Message::Beat).is_err() {
                    return;
                }
                std::thread::sleep(every);
            }
        });
        if let Err(error) = beats {
            log::warn!("starting the thread that beats: {error}");
        }
    }
}

/// Cuts a stream of bytes into [`Message`]s. Lines that are none are logged and left out.
#[derive(Debug, Default)]
pub struct Messages {
    buffer: Vec<u8>,
}

impl Messages {
    /// A line longer than this is no message.
    const MAX_LINE: usize = 64 * 1024;

    /// Adds what was read and returns the messages that it completes.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Message> {
        self.buffer.extend_from_slice(bytes);
        let mut messages = Vec::new();
        while let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            match serde_json::from_slice(&line) {
                Ok(message) => messages.push(message),
                Err(error) => {
                    log::warn!("the installer wrote what is no message ({error}): {}", line.escape_ascii());
                }
            }
        }
        if self.buffer.len() > Self::MAX_LINE {
            log::warn!("the installer wrote {} bytes without a line end: left out", self.buffer.len());
            self.buffer.clear();
        }
        messages
    }
}
