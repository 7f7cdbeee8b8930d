//! The only way out of PID 1: end what runs, flush what is written, then kexec, reboot or power off.

use std::convert::Infallible;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::bootvars::Variables;
use crate::console::Consoles;
use crate::handoff::marker;
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

/// Leaves, after the run with this id, if it is known. What fails is said and the next best is done; the machine is never left to
/// a PID 1 that exits.
pub fn leave(way: Way, consoles: &Consoles, watchdog: &mut Watchdog, run: Option<&str>) -> ! {
    consoles.line(match way {
        Way::Kexec => "Starting the installed kernel.",
        Way::Reboot => "Rebooting.",
        Way::Poweroff => "Switching off.",
    });
    watchdog.leave_armed();
    end_processes();
    flush(consoles);
    go(way, consoles, watchdog, &marker::variables(), run, &reboot);
    // Linux Documentation/admin-guide/sysrq.rst: reboot at once. Then the watchdog is what is left.
    let _ = std::fs::write("/proc/sysrq-trigger", "b");
    loop {
        std::thread::park();
    }
}

/// Goes this way, else through the firmware; returns if `kernel`, which is reboot(2), refuses both. What the first way did to the
/// watchdog is undone before the second: a driver may hang while a reboot stops it. `own` are the firmware's variables that are ours.
fn go(
    way: Way,
    consoles: &Consoles,
    watchdog: &mut Watchdog,
    own: &dyn Variables,
    run: Option<&str>,
    kernel: &dyn Fn(RebootMode) -> nix::Result<Infallible>,
) {
    let way = disarm(way, consoles, watchdog, own, run);
    let mode = match way {
        Way::Kexec => RebootMode::RB_KEXEC,
        Way::Reboot => RebootMode::RB_AUTOBOOT,
        Way::Poweroff => RebootMode::RB_POWER_OFF,
    };
    let result = kernel(mode);
    watchdog.arm_again();
    refused(consoles, way, result);
    if way == Way::Kexec {
        consoles.line("Rebooting instead: the installed system starts from its disk.");
        take_back(consoles, own, run);
    }
    refused(consoles, Way::Reboot, kernel(RebootMode::RB_AUTOBOOT));
}

/// Does with the watchdog what is right for the way. A kernel that would be reset though it is well is not started: the
/// firmware knows how to stop the timer. On every way but kexec the mark of the run is taken back, unless PID 1 itself has panicked,
/// which does not know it: it may have been set right before its process was ended. `own` are the firmware's variables that are ours.
fn disarm(way: Way, consoles: &Consoles, watchdog: &mut Watchdog, own: &dyn Variables, run: Option<&str>) -> Way {
    let way = match way {
        Way::Kexec if !watchdog.jump() => {
            consoles
                .line("The watchdog cannot be stopped, and the installed system does not feed it: rebooting instead.");
            Way::Reboot
        }
        Way::Kexec | Way::Reboot => way,
        Way::Poweroff => {
            let _ = watchdog.stop();
            way
        }
    };
    if way != Way::Kexec {
        take_back(consoles, own, run);
    }
    way
}

/// The kexec of the run does not come, and is not to be remembered as one that failed.
pub(crate) fn take_back(consoles: &Consoles, own: &dyn Variables, run: Option<&str>) {
    let Some(run) = run else { return };
    if let Err(error) = marker::take_back(own, run) {
        consoles.line(&format!("This machine will be said to have failed at a kexec: {error:#}"));
    }
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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;

    use super::*;
    use crate::bootvars::Efivarfs;
    use crate::console::tests::{seen, serial};
    use crate::handoff::marker::Marker;
    use crate::remembered::VENDOR;
    use crate::watchdog::tests::Fake;

    /// Of a machine whose installer's run 5b9c has said that the jump comes, after the run that PID 1 knows: the way that is left,
    /// what the watchdog got, whether a jump is remembered, and what a person sees.
    fn disarmed(way: Way, state: &str, run: Option<&str>) -> (Way, Vec<u8>, bool, String) {
        let (fake, place) = (Fake::new(), tempfile::tempdir().unwrap());
        let own = Efivarfs::at(place.path()).of_vendor(VENDOR);
        Marker::prepare(&own, "debian_13.1", "5b9c").unwrap().jump(&own).unwrap();
        let mut watchdog = fake.watchdog();
        watchdog.feed();
        fake.state(state);
        let (consoles, mut person) = serial();
        let left = disarm(way, &consoles, &mut watchdog, &own, run);
        consoles.line("end");
        (left, fake.written(), marker::failed_before(&own).is_some(), seen(&mut person, "end\r\n"))
    }

    #[test]
    fn a_watchdog_that_runs_on_makes_a_reboot_of_kexec_which_counts_as_no_failed_one() {
        let why =
            "The watchdog cannot be stopped, and the installed system does not feed it: rebooting instead.\r\nend\r\n";
        let silent = "end\r\n".to_owned();
        let kexec = |state| disarmed(Way::Kexec, state, Some("5b9c"));
        assert_eq!(kexec("active\n"), (Way::Reboot, b"\0V".to_vec(), false, why.to_owned()));
        assert_eq!(kexec("inactive\n"), (Way::Kexec, b"\0V".to_vec(), true, silent));
    }

    /// What it says to the kernel, which refuses all, each time with what the watchdog got by then.
    fn went(way: Way, taken_over: Option<u32>) -> Vec<(RebootMode, String)> {
        let (fake, place) = (Fake::new(), tempfile::tempdir().unwrap());
        let own = Efivarfs::at(place.path()).of_vendor(VENDOR);
        Marker::prepare(&own, "debian_13.1", "5b9c").unwrap().jump(&own).unwrap();
        let mut watchdog = fake.granting();
        watchdog.feed();
        watchdog.is_taken_over(taken_over);
        let ((consoles, _person), asked) = (serial(), RefCell::new(Vec::new()));
        let kernel = |mode: RebootMode| -> nix::Result<Infallible> {
            asked.borrow_mut().push((mode, fake.written().escape_ascii().to_string()));
            Err(Errno::EINVAL)
        };
        go(way, &consoles, &mut watchdog, &own, Some("5b9c"), &kernel);
        assert_eq!(marker::failed_before(&own), None);
        asked.into_inner()
    }

    /// A driver that hangs in the reboot would else strand a machine whose kexec was refused.
    #[test]
    fn a_way_that_was_refused_leaves_the_watchdog_armed_for_the_reboot() {
        let then = |mode, first: &str, second: &str| {
            vec![(mode, first.to_owned()), (RebootMode::RB_AUTOBOOT, second.to_owned())]
        };
        let (kexec, poweroff) = (RebootMode::RB_KEXEC, RebootMode::RB_POWER_OFF);
        assert_eq!(went(Way::Kexec, None), then(kexec, r"[60]\x00V", r"[60]\x00[300]\x00"));
        let taken_over = then(kexec, r"[60]\x00[90]\x00", r"[60]\x00[90]\x00[300]\x00");
        assert_eq!(went(Way::Kexec, Some(90)), taken_over);
        assert_eq!(went(Way::Poweroff, None), then(poweroff, r"[60]\x00V", r"[60]\x00[300]\x00"));
    }

    /// As by Ctrl-Alt-Del right before the jump, or where the installer dies there.
    #[test]
    fn a_jump_counts_on_no_way_but_kexec_unless_it_was_another_runs() {
        for (way, written) in [(Way::Reboot, &b"\0"[..]), (Way::Poweroff, &b"\0V"[..])] {
            for (run, remembered) in [(Some("5b9c"), false), (Some("5b9d"), true), (None, true)] {
                let expected = (way, written.to_vec(), remembered, "end\r\n".to_owned());
                assert_eq!(disarmed(way, "active\n", run), expected, "{run:?}");
            }
        }
    }

    #[test]
    fn a_mark_that_cannot_be_taken_back_is_told() {
        let place = tempfile::tempdir().unwrap();
        let own = Efivarfs::at(place.path()).of_vendor(VENDOR);
        fs::write(place.path().join(format!("{}-{VENDOR}", marker::NAME)), [7; 3]).unwrap();
        let (consoles, mut person) = serial();
        take_back(&consoles, &own, Some("5b9c"));
        let text = "This machine will be said to have failed at a kexec: the EFI variable MetalstrapKexec has no attributes\r\n";
        assert_eq!(seen(&mut person, "attributes\r\n"), text);
    }
}
