//! The child process: how it is started, listened to, limited and reaped.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2};

use super::{Limits, Outcome, Run};
use crate::console::Consoles;
use crate::death::{Cause, Death, LastWords};
use crate::ending::{Ending, FD_VARIABLE, Message, Messages};
use crate::failure::Touched;
use crate::kmsg::KernelMessages;

/// The longest sleep, and the pause while a child that closed its pipes is about to be reaped.
const TICK: Duration = Duration::from_secs(1);
const CLOSING: Duration = Duration::from_millis(50);

/// The process, what it told so far and what is known about its end.
pub(super) struct Child {
    pid: Pid,
    kernel: KernelMessages,
    messages: Option<File>,
    output: Option<File>,
    parser: Messages,
    line: Vec<u8>,
    words: LastWords,
    started: Instant,
    heard: Instant,
    ending: Option<(Instant, Ending)>,
    pub(super) id: Option<String>,
    pub(super) policy: Option<Option<u32>>,
    watchdog: Option<u32>,
    step: Option<(String, Touched)>,
    /// When and why it was killed by us.
    killed: Option<(Instant, Cause)>,
    pub(super) status: Option<WaitStatus>,
}

impl Child {
    /// Starts `command` with its message pipe, output pipe and `input`.
    pub(super) fn start(command: &mut Command, input: &[u8]) -> io::Result<Self> {
        let (messages, sender) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // The child writes with patience; only our end must not block.
        set_blocking(&sender)?;
        let (output, writer) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        set_blocking(&writer)?;
        // This one is inherited: the child finds it by number.
        fcntl(&sender, FcntlArg::F_SETFD(FdFlag::empty()))?;
        command.env(FD_VARIABLE, sender.as_raw_fd().to_string());
        command.stdout(writer.try_clone()?).stderr(writer);
        command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
        let kernel = KernelMessages::from_now();
        let mut process = command.spawn()?;
        // The command holds our copies of the writing ends, and would keep the pipes open.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        drop(sender);
        if let Some(mut stdin) = process.stdin.take() {
            // A pipe takes 64 KiB without a reader; what the child does not read is its loss.
            let _ = stdin.write_all(input.get(..input.len().min(60_000)).unwrap_or_default());
        }
        let pid = Pid::from_raw(i32::try_from(process.id()).map_err(io::Error::other)?);
        // Whatever memory runs out for, this process goes before any other.
        if let Err(error) = std::fs::write(format!("/proc/{pid}/oom_score_adj"), "1000") {
            log::warn!("setting oom_score_adj of {pid}: {error}");
        }
        let now = Instant::now();
        Ok(Self {
            pid,
            kernel,
            messages: Some(File::from(messages)),
            output: Some(File::from(output)),
            parser: Messages::default(),
            line: Vec::new(),
            words: LastWords::default(),
            started: now,
            heard: now,
            ending: None,
            id: None,
            policy: None,
            watchdog: None,
            step: None,
            killed: None,
            status: None,
        })
    }

    /// Waits for something to happen, at most a tick, and reads what came.
    pub(super) fn listen(&mut self, signals: Option<&SignalFd>, consoles: &Consoles) {
        let timeout = if self.messages.is_none() && self.output.is_none() { CLOSING } else { TICK };
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(3);
        fds.extend(self.messages.iter().chain(&self.output).map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)));
        fds.extend(signals.map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN)));
        if let Err(error) = poll(&mut fds, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
            log::warn!("waiting for the installer: {error}");
        }
        self.read_messages(consoles);
        self.read_output(consoles);
    }

    /// Reads once; whether there was something.
    pub(super) fn read_messages(&mut self, consoles: &Consoles) -> bool {
        let Some(bytes) = read_some(&mut self.messages) else { return false };
        for message in self.parser.push(&bytes) {
            self.heard = Instant::now();
            match message {
                Message::Beat => {}
                Message::Run { id } => self.id = Some(id),
                Message::Policy { reboot_on_failure_after } => self.policy = Some(reboot_on_failure_after),
                // Who told it has warned of those that are not there.
                Message::Consoles { names } => drop(consoles.add(&names)),
                Message::Step { step, touched } => self.step = Some((step, touched)),
                Message::Watchdog { seconds } => self.watchdog = Some(seconds),
                Message::Ending(ending) => self.ending = Some((Instant::now(), ending)),
            }
        }
        true
    }

    /// Shows what the child wrote past the consoles it opens itself: panics, complaints of C libraries.
    pub(super) fn read_output(&mut self, consoles: &Consoles) -> bool {
        let read = read_some(&mut self.output);
        self.line.extend(read.iter().flatten());
        while let Some(end) = self.line.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.line.drain(..=end).collect();
            self.say(&line, consoles);
        }
        // The rest of what has no end, when nothing follows or it gets too long.
        if !self.line.is_empty() && (self.output.is_none() || self.line.len() > 4096) {
            let line = std::mem::take(&mut self.line);
            self.say(&line, consoles);
        }
        read.is_some()
    }

    fn say(&mut self, line: &[u8], consoles: &Consoles) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end();
        consoles.line(text);
        log::info!("installer: {text}");
        self.words.heard(text);
    }

    /// Takes the status of this child, and with `all` that of every other process that ended.
    pub(super) fn reap(&mut self, all: bool) {
        let whom = if all { None } else { Some(self.pid) };
        loop {
            match waitpid(whom, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => return,
                Ok(status) if status.pid() == Some(self.pid) => {
                    self.status = Some(status);
                    if !all {
                        return;
                    }
                }
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => {
                    // Without children there is no child: somebody else took its status.
                    if self.status.is_none() {
                        log::warn!("waiting for the installer: {error}");
                        self.status = Some(WaitStatus::Exited(self.pid, -1));
                    }
                    return;
                }
            }
        }
    }

    /// Kills a child that exceeds its limits.
    pub(super) fn enforce(&mut self, limits: Limits) {
        if self.killed.is_some() || self.status.is_some() {
            return;
        }
        let over = |since: Instant, limit: Option<Duration>| limit.filter(|limit| since.elapsed() >= *limit);
        let cause = if let Some((told, _)) = &self.ending {
            over(*told, Some(limits.exit)).map(|limit| Cause::Overdue(limit.as_secs()))
        } else {
            let silent = over(self.heard, limits.silence).map(|limit| Cause::Hung(limit.as_secs()));
            silent.or_else(|| over(self.started, limits.total).map(|limit| Cause::Overdue(limit.as_secs())))
        };
        if let Some(cause) = cause {
            log::error!("{cause}");
            self.killed = Some((Instant::now(), cause));
            if let Err(error) = kill(self.pid, Signal::SIGKILL) {
                log::warn!("killing {}: {error}", self.pid);
            }
        }
    }

    /// Whether it was killed and is still there after `limit`: no signal ends a process that the kernel lets wait for a
    /// device.
    pub(super) fn outlives_its_kill(&self, limit: Duration) -> bool {
        self.killed.as_ref().is_some_and(|(at, _)| at.elapsed() >= limit)
    }

    /// What became of it.
    pub(super) fn verdict(mut self) -> Run {
        let (id, policy, watchdog) = (self.id, self.policy, self.watchdog);
        let left_behind = self.status.is_none();
        if let Some((_, ending)) = self.ending {
            return Run { id, outcome: Outcome::Ended(ending), policy, watchdog, left_behind };
        }
        let killed = self.killed.map(|(_, cause)| match cause {
            Cause::Hung(seconds) | Cause::Overdue(seconds) if left_behind => Cause::Unkillable(seconds),
            cause => cause,
        });
        let cause = killed.unwrap_or_else(|| match self.status {
            Some(WaitStatus::Exited(_, code)) => Cause::Exited(code),
            Some(WaitStatus::Signaled(pid, Signal::SIGKILL, _)) if self.kernel.oom_killed(pid.as_raw()) => {
                Cause::OutOfMemory
            }
            Some(WaitStatus::Signaled(_, signal, _)) => Cause::Killed(signal),
            _ => Cause::Exited(-1),
        });
        let death = Death { cause, step: self.step, last_words: self.words.say() };
        Run { id, outcome: Outcome::Died(death), policy, watchdog, left_behind }
    }
}

/// Reads what is there; at the end of the stream the file is closed. `None`: nothing came.
fn read_some(file: &mut Option<File>) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 8192];
    match file.as_mut()?.read(&mut buffer) {
        Ok(0) => *file = None,
        Ok(got) => {
            buffer.truncate(got);
            return Some(buffer);
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
        Err(error) => {
            log::warn!("reading from the installer: {error}");
            *file = None;
        }
    }
    None
}

fn set_blocking(fd: &OwnedFd) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}
