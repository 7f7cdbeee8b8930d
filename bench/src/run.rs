//! Runs a command and says what it took.
//!
//! The command is started by a process of its own (`bench exec`), whose `getrusage(RUSAGE_CHILDREN)` then covers this
//! command alone: CPU time of all its descendants that were waited for, and the resident memory of the largest of them
//! (getrusage(2)). What kernel threads do for it (loop device, write-back) is in nobody's sum.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::stop::{self, Group};

/// What a command took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// From its start to its end.
    pub seconds: f64,
    /// User and system time of it and its descendants.
    pub cpu_seconds: f64,
    /// Resident memory of the largest of them, at its peak.
    pub peak_rss_bytes: u64,
    /// Its exit status; 128 and the signal if one ended it.
    pub status: i32,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What it took.
    pub usage: Usage,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// A command that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    group: Group,
    dir: PathBuf,
    shown: String,
}

/// The body of `bench exec`.
///
/// # Errors
/// The command could not be started, or the report not be written.
pub fn exec(report: &Path, command: &[OsString]) -> Result<()> {
    let (program, arguments) = command.split_first().context("no command")?;
    let began = Instant::now();
    let mut child = Command::new(program)
        .args(arguments)
        .spawn()
        .with_context(|| format!("starting {}", program.to_string_lossy()))?;
    let status = child.wait().context("waiting for the command")?;
    let seconds = began.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("asking for the resources used")?;
    let cpu = usage.user_time() + usage.system_time();
    let usage = Usage {
        seconds,
        // Microseconds, far below 2^52.
        cpu_seconds: cpu.num_microseconds() as f64 / 1e6,
        peak_rss_bytes: u64::try_from(usage.max_rss()).unwrap_or_default() << 10,
        status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default()),
    };
    fs::write(report, serde_json::to_vec(&usage)?).with_context(|| format!("writing {}", report.display()))
}

impl Running {
    /// Starts `command`, with `prefix` before it, whose own start is not timed; what is printed goes to files in `dir`.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(
        command: &[OsString],
        prefix: &[OsString],
        environment: &[(&str, &OsStr)],
        dir: &Path,
    ) -> Result<Self> {
        stop::check()?;
        let file = |name: &str| {
            let path = dir.join(name);
            File::create(&path).with_context(|| format!("making {}", path.display()))
        };
        let this = std::env::current_exe().context("asking for the running program's path")?;
        let wrapper: Vec<OsString> =
            vec![this.into(), "exec".into(), "--report".into(), dir.join("usage.json").into(), "--".into()];
        let words: Vec<&OsString> = prefix.iter().chain(&wrapper).chain(command).collect();
        let (program, arguments) = words.split_first().context("no command")?;
        let shown = command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        fs::write(dir.join("command"), &shown).context("writing the command")?;
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file("stdout")?)
            .stderr(file("stderr")?)
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {shown}"))?;
        let leader = i32::try_from(child.id()).context("a process id that is none")?;
        Ok(Self { child, group: Group::new(Pid::from_raw(leader)), dir: dir.to_owned(), shown })
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It was killed, or could not be started.
    pub fn wait(mut self) -> Result<Ended> {
        let status = self.child.wait().with_context(|| format!("waiting for {}", self.shown))?;
        stop::check()?;
        let stderr = self.read("stderr")?;
        ensure!(status.success(), "{} could not be measured: {status}: {}", self.shown, stderr.trim());
        let usage = serde_json::from_str(&self.read("usage.json")?).context("reading what a command used")?;
        Ok(Ended { usage, stdout: self.read("stdout")?, stderr })
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait().with_context(|| format!("asking for {}", self.shown))?.is_none())
    }

    /// Kills it with all its descendants, by SIGKILL.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.group.kill()?;
        self.child.wait().map(drop).with_context(|| format!("waiting for {}", self.shown))
    }

    fn read(&self, name: &str) -> Result<String> {
        let path = self.dir.join(name);
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipeline_is_summed_up() {
        let dir = tempfile::tempdir().unwrap();
        let report = dir.path().join("usage.json");
        let script = "head -c 200M /dev/zero | sha256sum >/dev/null; exit 3";
        exec(&report, &["bash", "-c", script].map(OsString::from)).unwrap();
        let usage: Usage = serde_json::from_slice(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(usage.status, 3);
        assert!(usage.cpu_seconds > 0.05 && usage.seconds > 0.05, "{usage:?}");
        assert!(usage.peak_rss_bytes > 500 << 10, "{usage:?}");
    }
}
