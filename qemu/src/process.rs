//! A long-running program inside a namespace.

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wait::{seconds, until};

/// A program that is killed when this value is dropped.
///
/// # Design
/// The child of this process is `nsenter`, which waits for the program (it must fork to enter a PID namespace) and ends
/// as it ends. A signal for the program therefore goes to nsenter's only child.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` (of [`crate::Namespace::command`]); what it writes to standard error goes to the file `log`.
    pub(crate) fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log);
        let file = file.with_context(|| format!("opening {}", log.display()))?;
        // A group of its own, out of reach of the terminal's Ctrl-C: this process decides in which order things end.
        let child =
            command.stderr(Stdio::from(file)).process_group(0).spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// The program's standard input and output, where they were piped; once.
    pub(crate) fn take_pipes(&mut self) -> Result<(ChildStdin, ChildStdout)> {
        match (self.child.stdin.take(), self.child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok((stdin, stdout)),
            _ => bail!("{} has no pipes", self.name),
        }
    }

    /// What it wrote to its log so far.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// How it ended; None while it runs.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("waiting for {}", self.name))
    }

    /// Looks until `ready` gives a value; fails at once, with its log, when the program ends before.
    pub(crate) fn wait_ready<T>(&mut self, ready: impl Fn(&Self) -> Result<Option<T>>) -> Result<T> {
        until(&format!("the start of {}", self.name.clone()), seconds(30), || {
            if let Some(status) = self.ended()? {
                bail!("{} ended at its start ({status}): {}", self.name, self.log().trim());
            }
            ready(self)
        })
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        until(&format!("the end of {}", self.name.clone()), timeout, || self.ended())
    }

    /// The process id, as this process sees it, of the program behind nsenter.
    pub(crate) fn id(&mut self) -> Result<Pid> {
        let outer = self.child.id();
        until(&format!("the start of {}", self.name.clone()), seconds(10), || {
            if let Some(status) = self.ended()? {
                bail!("{} has ended ({status})", self.name);
            }
            let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"));
            let children = children.with_context(|| format!("reading the children of {outer}"))?;
            Ok(children.split_whitespace().next().and_then(|id| id.parse().ok()).map(Pid::from_raw))
        })
    }

    /// Kills it and waits until it is gone.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        match self.id() {
            // ESRCH: it ended by itself in between.
            Ok(id) => kill(id, Signal::SIGKILL).or_else(|e| if e == nix::Error::ESRCH { Ok(()) } else { Err(e) })?,
            Err(_) if self.ended()?.is_some() => return Ok(()),
            Err(error) => return Err(error),
        }
        self.wait(seconds(30)).map(|_| ())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("stopping {}: {error:#}", self.name);
        }
    }
}
