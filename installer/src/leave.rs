//! The only way out of PID 1: end what runs, flush what is written, then kexec, reboot or power off.

use std::convert::Infallible;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::console::Consoles;
use crate::watchdog::Watchdog;

/// Where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Into the kernel that is loaded.
    Kexec,
    /// Through the firmware.
    Reboot,
    /// Off.
    Poweroff,
}

/// How long processes get to end after SIGTERM, and again after SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// How long flushing may take; a disk that is gone would let it wait for ever.
const FLUSH: Duration = Duration::from_secs(30);

/// Leaves. What fails is said and the next best is done; the machine is never left to a PID 1 that exits.
pub fn leave(way: Way, consoles: &Consoles, watchdog: &mut Watchdog) -> ! {
    consoles.line(match way {
        Way::Kexec => "Starting the installed kernel.",
        Way::Reboot => "Rebooting.",
        Way::Poweroff => "Switching off.",
    });
    watchdog.leave_armed();
    end_processes();
    flush(consoles);
    let way = disarm(way, consoles, watchdog);
    let mode = match way {
        Way::Kexec => RebootMode::RB_KEXEC,
        Way::Reboot => RebootMode::RB_AUTOBOOT,
        Way::Poweroff => RebootMode::RB_POWER_OFF,
    };
    refused(consoles, way, reboot(mode));
    if way == Way::Kexec {
        consoles.line("Rebooting instead: the installed system starts from its disk.");
    }
    refused(consoles, Way::Reboot, reboot(RebootMode::RB_AUTOBOOT));
    // Linux Documentation/admin-guide/sysrq.rst: reboot at once. Then the watchdog is what is left.
    let _ = std::fs::write("/proc/sysrq-trigger", "b");
    loop {
        std::thread::park();
    }
}

/// Does with the watchdog what is right for the way. A kernel that would be reset though it is well is not started: the
/// firmware knows how to stop the timer.
fn disarm(way: Way, consoles: &Consoles, watchdog: &mut Watchdog) -> Way {
    match way {
        Way::Kexec if !watchdog.jump() => {
            consoles
                .line("The watchdog cannot be stopped, and the installed system does not feed it: rebooting instead.");
            return Way::Reboot;
        }
        Way::Kexec | Way::Reboot => {}
        Way::Poweroff => {
            let _ = watchdog.stop();
        }
    }
    way
}

fn refused(consoles: &Consoles, way: Way, result: nix::Result<Infallible>) {
    let Err(errno) = result;
    consoles.line(&format!("The kernel refused ({way:?}): {errno}"));
}

/// Ends every process but this one, and reaps. Only PID 1 may: to any other process, -1 means the user's whole world.
pub fn end_processes() {
    if std::process::id() != 1 {
        return;
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let _ = kill(Pid::from_raw(-1), signal);
        let start = Instant::now();
        while start.elapsed() < GRACE {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                // Not our child, or nobody left.
                Err(Errno::ECHILD) => return,
                Ok(WaitStatus::StillAlive) => std::thread::sleep(Duration::from_millis(20)),
                _ => {}
            }
        }
    }
}

/// Flushes file systems and block devices, for a bounded time: `sync(2)` itself cannot be interrupted.
fn flush(consoles: &Consoles) {
    let (done, flushed) = mpsc::channel();
    let thread = std::thread::Builder::new().stack_size(64 * 1024).spawn(move || {
        nix::unistd::sync();
        // The receiver may have gone on.
        let _ = done.send(());
    });
    if thread.is_ok() && flushed.recv_timeout(FLUSH).is_err() {
        consoles.line(&format!("Going on: flushing took longer than {} s.", FLUSH.as_secs()));
    }
}
