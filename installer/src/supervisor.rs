//! One run of a child process under guard: its messages and output are read, its silence is bounded, its end is known.
//!
//! # Design
//! One thread, one `poll` over the child's message pipe, its output and SIGCHLD. Only this loop waits for processes, so
//! no status is stolen, and PID 1 reaps whatever else it inherits in the same place.

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

use crate::console::Consoles;
use crate::death::{Cause, Death, LastWords};
use crate::ending::{Ending, FD_VARIABLE, Message, Messages};
use crate::kmsg::KernelMessages;

/// How long a child may take.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Without a message for so long it hangs, and is killed.
    pub silence: Option<Duration>,
    /// After its ending it exits within this; else it is killed.
    pub exit: Duration,
    /// All of it, for a child that sends no messages.
    pub total: Option<Duration>,
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

/// A run's outcome, and what it told about failures.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// How it ended.
    pub outcome: Outcome,
    /// Seconds until a failed installation reboots (`Some(None)`: hold); `None` if it died before it knew.
    pub policy: Option<Option<u32>>,
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

/// The longest sleep, and the pause while a child that closed its pipes is about to be reaped.
const TICK: Duration = Duration::from_secs(1);
const CLOSING: Duration = Duration::from_millis(50);

struct Child {
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
    policy: Option<Option<u32>>,
    step: Option<(String, bool)>,
    /// Why it was killed by us.
    killed: Option<Cause>,
    status: Option<WaitStatus>,
}

/// Starts `command`, hands `input` to it and stays with it until it is gone.
pub fn run(mut command: Command, input: &[u8], limits: Limits, guard: Guard<'_>) -> Run {
    let mut child = match Child::start(&mut command, input) {
        Ok(child) => child,
        Err(error) => {
            let cause = Cause::NotStarted(error.to_string());
            return Run { outcome: Outcome::Died(Death { cause, step: None, last_words: None }), policy: None };
        }
    };
    while child.status.is_none() {
        (guard.duties)();
        child.listen(guard.signals, guard.consoles);
        if guard.signals.is_some_and(interrupted) {
            return Run { outcome: Outcome::Interrupted, policy: child.policy };
        }
        child.reap(guard.reap_all);
        child.enforce(limits);
    }
    // What it wrote before its end is still in the pipes; a grandchild may hold them open, so not until their end.
    while child.read_messages() {}
    while child.read_output(guard.consoles) {}
    child.verdict()
}

impl Child {
    fn start(command: &mut Command, input: &[u8]) -> io::Result<Self> {
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
            policy: None,
            step: None,
            killed: None,
            status: None,
        })
    }

    /// Waits for something to happen, at most a tick, and reads what came.
    fn listen(&mut self, signals: Option<&SignalFd>, consoles: &Consoles) {
        let timeout = if self.messages.is_none() && self.output.is_none() { CLOSING } else { TICK };
        let mut fds: Vec<PollFd<'_>> = Vec::with_capacity(3);
        fds.extend(self.messages.iter().chain(&self.output).map(|file| PollFd::new(file.as_fd(), PollFlags::POLLIN)));
        fds.extend(signals.map(|signals| PollFd::new(signals.as_fd(), PollFlags::POLLIN)));
        if let Err(error) = poll(&mut fds, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX)) {
            log::warn!("waiting for the installer: {error}");
        }
        self.read_messages();
        self.read_output(consoles);
    }

    /// Reads once; whether there was something.
    fn read_messages(&mut self) -> bool {
        let Some(bytes) = read_some(&mut self.messages) else { return false };
        for message in self.parser.push(&bytes) {
            self.heard = Instant::now();
            match message {
                Message::Beat => {}
                Message::Policy { reboot_on_failure_after } => self.policy = Some(reboot_on_failure_after),
                Message::Step { step, disk_touched } => self.step = Some((step, disk_touched)),
                Message::Ending(ending) => self.ending = Some((Instant::now(), ending)),
            }
        }
        true
    }

    /// Shows what the child wrote past the consoles it opens itself: panics, complaints of C libraries.
    fn read_output(&mut self, consoles: &Consoles) -> bool {
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
    fn reap(&mut self, all: bool) {
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
    fn enforce(&mut self, limits: Limits) {
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
            self.killed = Some(cause);
            if let Err(error) = kill(self.pid, Signal::SIGKILL) {
                log::warn!("killing {}: {error}", self.pid);
            }
        }
    }

    fn verdict(mut self) -> Run {
        let policy = self.policy;
        if let Some((_, ending)) = self.ending {
            return Run { outcome: Outcome::Ended(ending), policy };
        }
        let cause = self.killed.unwrap_or_else(|| match self.status {
            Some(WaitStatus::Exited(_, code)) => Cause::Exited(code),
            Some(WaitStatus::Signaled(pid, Signal::SIGKILL, _)) if self.kernel.oom_killed(pid.as_raw()) => {
                Cause::OutOfMemory
            }
            Some(WaitStatus::Signaled(_, signal, _)) => Cause::Killed(signal),
            _ => Cause::Exited(-1),
        });
        Run { outcome: Outcome::Died(Death { cause, step: self.step, last_words: self.words.say() }), policy }
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

/// Drains the signals that came; whether one of them was Ctrl-Alt-Del's SIGINT.
pub(crate) fn interrupted(signals: &SignalFd) -> bool {
    let mut asked = false;
    while let Ok(Some(signal)) = signals.read_signal() {
        asked |= i32::try_from(signal.ssi_signo) == Ok(Signal::SIGINT as i32);
    }
    asked
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { silence: Some(Duration::from_secs(20)), exit: Duration::from_secs(1), total: None };

    /// Runs a shell script as the installer; `$METALSTRAP_ENDING_FD` is where it tells.
    fn script(text: &str, limits: Limits) -> Run {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("say() {{ echo \"$1\" >/proc/$$/fd/$METALSTRAP_ENDING_FD; }}\n{text}")]);
        let (consoles, _person) = Consoles::pty();
        run(command, b"", limits, Guard { consoles: &consoles, signals: None, reap_all: false, duties: &mut || () })
    }

    fn died(cause: Cause, step: Option<(&str, bool)>, words: Option<&str>) -> Outcome {
        let step = step.map(|(step, touched)| (step.to_owned(), touched));
        Outcome::Died(Death { cause, step, last_words: words.map(str::to_owned) })
    }

    #[test]
    fn an_ending_is_taken() {
        let run = script(r#"say '{"policy":{"reboot_on_failure_after":7}}'; say '{"ending":"kexec"}'"#, LIMITS);
        assert_eq!(run, Run { outcome: Outcome::Ended(Ending::Kexec), policy: Some(Some(7)) });
    }

    #[test]
    fn a_killed_child_is_told_with_its_step() {
        let run = script(r#"say '{"step":{"step":"root","disk_touched":true}}'; kill -KILL $$"#, LIMITS);
        assert_eq!(run.outcome, died(Cause::Killed(Signal::SIGKILL), Some(("root", true)), None));
        let run = script("echo 'malloc(): broken' >&2; kill -SEGV $$", LIMITS);
        assert_eq!(
            run,
            Run { outcome: died(Cause::Killed(Signal::SIGSEGV), None, Some("malloc(): broken")), policy: None }
        );
    }

    #[test]
    fn an_exit_without_ending_is_a_death() {
        assert_eq!(
            script("printf unfinished; exit 3", LIMITS).outcome,
            died(Cause::Exited(3), None, Some("unfinished"))
        );
        assert_eq!(script("exit 0", LIMITS).outcome, died(Cause::Exited(0), None, None));
    }

    #[test]
    fn silence_is_bounded_and_beats_count() {
        let limits = Limits { silence: Some(Duration::from_secs(2)), ..LIMITS };
        let start = Instant::now();
        assert_eq!(script("exec sleep 60", limits).outcome, died(Cause::Hung(2), None, None));
        assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
        let beating = r#"for i in 1 2 3 4; do say '"beat"'; sleep 1; done; say '{"ending":"reboot"}'"#;
        assert_eq!(script(beating, limits).outcome, Outcome::Ended(Ending::Reboot));
    }

    #[test]
    fn a_child_that_lingers_after_its_ending_is_ended() {
        let start = Instant::now();
        let run = script(r#"say '{"ending":"poweroff"}'; exec sleep 60"#, LIMITS);
        assert_eq!(run.outcome, Outcome::Ended(Ending::Poweroff));
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }

    #[test]
    fn the_total_time_is_bounded() {
        let limits = Limits { silence: None, total: Some(Duration::from_secs(1)), ..LIMITS };
        assert_eq!(script("exec sleep 60", limits).outcome, died(Cause::Overdue(1), None, None));
    }

    #[test]
    fn a_grandchild_that_holds_the_pipes_does_not_delay_the_verdict() {
        let start = Instant::now();
        assert_eq!(script("sleep 8 & exit 4", LIMITS).outcome, died(Cause::Exited(4), None, None));
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }

    #[test]
    fn a_command_that_is_not_there_is_a_death() {
        let (consoles, _person) = Consoles::pty();
        let guard = Guard { consoles: &consoles, signals: None, reap_all: false, duties: &mut || () };
        let run = run(Command::new("/no/such/file"), b"", LIMITS, guard);
        let cause = Cause::NotStarted("No such file or directory (os error 2)".into());
        assert_eq!(run.outcome, died(cause, None, None));
    }

    #[test]
    fn the_child_gets_its_input_and_a_clean_signal_mask() {
        let (consoles, mut person) = Consoles::pty();
        let mut command = Command::new("sh");
        command.args(["-c", "cat; grep SigBlk /proc/self/status"]);
        let guard = Guard { consoles: &consoles, signals: None, reap_all: false, duties: &mut || () };
        let mut mask = nix::sys::signal::SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().unwrap();
        run(command, b"hello\n", LIMITS, guard);
        let mut seen = String::new();
        while !seen.ends_with("0\r\n") {
            let mut buffer = [0; 1024];
            let got = person.read(&mut buffer).unwrap();
            seen += std::str::from_utf8(&buffer[..got]).unwrap();
        }
        assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["hello", "SigBlk:", "0000000000000000"]);
    }
}
