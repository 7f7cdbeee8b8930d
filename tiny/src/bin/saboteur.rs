//! Test only: kills the installer in its initrd, to see what PID 1 makes of it.
//!
//! The kernel starts it by `rdinit=/saboteur`. It leaves a child behind and becomes `/init`. The child waits until a
//! process runs whose first argument is `run` (the supervisor's child), with `saboteur.after=STEP` also until the kernel's
//! log has the event that this step has started, stops the process, and then does what `saboteur=` says: `kill` sends SIGKILL, `segv` sends
//! SIGSEGV until the process is gone, `oom` uses up the memory until the kernel's OOM killer has taken it. `stuck` waits until one of its
//! threads hangs in the kernel, as on a device that does not answer, and stops the others.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use metalstrap_tiny::words;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The argument that makes it the child.
const CHILD: &str = "lie-in-wait";
/// The argument that makes a process the victim.
const VICTIM: &str = "run";
/// Looks one after the other, some milliseconds apart, that find a thread waiting for a device: it will not get further.
const STUCK: u32 = 1000;
/// Small enough that the memory of the victim, once it is gone, is more than what is still asked for.
const BITE: usize = 256 << 10;

fn main() -> Result<()> {
    if std::env::args().nth(1).as_deref() == Some(CHILD) {
        return sabotage();
    }
    let me = std::env::current_exe().unwrap_or_else(|_| "/saboteur".into());
    Command::new(me).arg(CHILD).spawn().context("starting the child")?;
    Err(Command::new("/init").exec()).context("becoming /init")
}

fn sabotage() -> Result<()> {
    // The supervisor mounts both.
    wait_for(|| Path::new("/proc/cmdline").exists() && Path::new("/dev/kmsg").exists());
    let cmdline = fs::read_to_string("/proc/cmdline").context("reading /proc/cmdline")?;
    let deed = words::value(&cmdline, "saboteur").context("no saboteur= on the command line")?;
    let mut victim = None;
    wait_for(|| {
        victim = find();
        victim.is_some()
    });
    let Some(victim) = victim else { bail!("no process to harm") };
    if let Some(step) = words::value(&cmdline, "saboteur.after") {
        // The log begins with the kernel command line, which must not be taken for the event.
        appears(&format!(r#""step":"{step}","state":"started""#))?;
    }
    let first = if deed == "stuck" { stuck(victim) } else { victim };
    let send = |signal| kill(victim, signal).with_context(|| format!("sending {signal} to {victim}"));
    // What takes a while shall not let it get any further.
    kill(first, Signal::SIGSTOP).with_context(|| format!("stopping {victim}"))?;
    match deed.as_str() {
        "kill" => send(Signal::SIGKILL)?,
        // Rust's runtime takes the first one for a fault, resets the handler and goes on to where it would fault again.
        "segv" => {
            wait_for(|| send(Signal::SIGSEGV).and_then(|()| send(Signal::SIGCONT)).is_err() || !is_victim(victim))
        }
        "oom" => use_up_memory(victim)?,
        "stuck" => {}
        other => bail!("saboteur={other}: not one of kill, segv, oom, stuck"),
    }
    let mut log = File::options().write(true).open("/dev/kmsg").context("opening /dev/kmsg")?;
    // Each write is a record of its own, so it is one write.
    log.write_all(format!("saboteur: {deed} done to process {victim}\n").as_bytes()).context("writing to /dev/kmsg")
}

fn wait_for(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until a record of the kernel's log holds `text`. It asks again and again: the kernel wakes those who wait for a
/// record only at some later tick (`IRQ_WORK_LAZY` in Linux kernel/printk/printk.c).
fn appears(text: &str) -> Result<()> {
    let flags = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let mut log = File::options().read(true).custom_flags(flags).open("/dev/kmsg").context("opening /dev/kmsg")?;
    let mut record = [0; 8192];
    loop {
        // One read is one record. EPIPE: records were overwritten before they were read; the next one follows.
        match log.read(&mut record) {
            Ok(length) => {
                if String::from_utf8_lossy(record.get(..length).unwrap_or_default()).contains(text) {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(2)),
            Err(error) => return Err(error).context("reading /dev/kmsg"),
        }
    }
}

/// The process whose first argument is [`VICTIM`].
fn find() -> Option<Pid> {
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.map(Pid::from_raw).find(|pid| is_victim(*pid))
}

fn is_victim(pid: Pid) -> bool {
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    arguments.split(|byte| *byte == 0).nth(1) == Some(VICTIM.as_bytes())
}

/// Waits until a thread of `pid` gets no further in the kernel, and gives one that does. A signal to the process goes to its first
/// thread, where it would wait if that is the one that hangs; one to another thread stops all that can be stopped.
fn stuck(pid: Pid) -> Pid {
    let (mut looks, mut awake) = (0, None);
    wait_for(|| {
        let (waiting, others): (Vec<_>, Vec<_>) = threads(pid).into_iter().partition(|(_, state)| *state == 'D');
        looks = if waiting.is_empty() { 0 } else { looks + 1 };
        awake = others.first().map(|(thread, _)| *thread);
        looks >= STUCK && awake.is_some()
    });
    awake.unwrap_or(pid)
}

/// Its threads with their states (proc_pid_stat(5)): D is one in which no signal reaches it.
fn threads(pid: Pid) -> Vec<(Pid, char)> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let read = |entry: fs::DirEntry| {
        let id = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // Behind the name, which may hold anything.
        let (_, rest) = stat.rsplit_once(") ")?;
        Some((Pid::from_raw(id), rest.chars().next()?))
    };
    entries.filter_map(read).collect()
}

/// Takes memory until `victim` is gone; then gives it back. The kernel prefers the victim, which the supervisor has put
/// first; should its memory not be enough, this process is next, and the machine lives.
fn use_up_memory(victim: Pid) -> Result<()> {
    fs::write("/proc/self/oom_score_adj", "0").context("setting oom_score_adj")?;
    let mut hoard = Vec::new();
    // A process that is gone or a zombie has no command line.
    while is_victim(victim) {
        let mut bite = vec![0u8; BITE];
        // Only pages that were written to are memory.
        bite.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
        hoard.push(std::hint::black_box(bite));
    }
    Ok(())
}
