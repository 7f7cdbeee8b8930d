//! Programs of this host and of this workspace.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;

use crate::stop::{self, Group};

/// Directories of Debian's programs; the last two are not in an ordinary PATH.
const DIRECTORIES: [&str; 6] = ["/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/lib/systemd"];

/// Finds the program `name` of this host.
pub fn find(name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// Finds a program of this workspace, beside the running one.
///
/// # Errors
/// It was not built.
pub fn ours(name: &str) -> Result<PathBuf> {
    let running = std::env::current_exe().context("asking for the running program's path")?;
    let found = running.parent().map(|dir| dir.join(name)).filter(|path| path.is_file());
    found.with_context(|| format!("finding {name} beside {}: run `make bench`", running.display()))
}

/// Runs a program to its end, and returns what it printed.
///
/// # Errors
/// It could not be started, or failed: then with what it said.
pub fn output<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = S>) -> Result<String> {
    stop::check()?;
    let program = program.as_ref();
    let shown = program.to_string_lossy();
    let mut command = Command::new(find(&shown).unwrap_or_else(|| program.into()));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).env("LC_ALL", "C");
    let child = command.process_group(0).spawn().with_context(|| format!("starting {shown}"))?;
    let group = Group::new(Pid::from_raw(i32::try_from(child.id()).context("a process id that is none")?));
    let output = child.wait_with_output().with_context(|| format!("waiting for {shown}"))?;
    drop(group);
    stop::check()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {}", output.status, said.trim());
    String::from_utf8(output.stdout).with_context(|| format!("reading what {shown} printed"))
}

/// The same, where what it printed is of no interest.
///
/// # Errors
/// As [`output`].
pub fn run<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = S>) -> Result<()> {
    output(program, arguments).map(drop)
}

/// Runs a script of bash that stops at the first failure, with `arguments` as `$1` and so on.
///
/// # Errors
/// As [`output`].
pub fn bash<S: AsRef<OsStr>>(script: &str, arguments: impl IntoIterator<Item = S>) -> Result<()> {
    let arguments: Vec<_> = arguments.into_iter().map(|argument| argument.as_ref().to_owned()).collect();
    let words = ["-euo", "pipefail", "-c", script, "bench"].map(Into::into);
    run("bash", words.into_iter().chain(arguments))
}
