//! PID 1: a small synchronous supervisor. It prepares the machine, runs the installer as its child, and is the only
//! one that ends anything: whatever becomes of the child, a person or a policy gets the last word, never a panic.

use std::os::unix::process::CommandExt as _;
use std::panic::PanicHookInfo;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::reboot::set_cad_enabled;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};

use crate::console::Consoles;
use crate::ending::{Ending, RUN_VARIABLE};
use crate::failure::{Code, Failure};
use crate::handoff::marker;
use crate::hold::{self, Choice};
use crate::kmsg;
use crate::leave::{self, Way, leave};
use crate::mounts;
use crate::supervisor::{self, Guard, Limits, Outcome};
use crate::watchdog::Watchdog;

/// The argument with which the supervisor starts the installer.
pub const RUN: &str = "run";

/// The argument with which the supervisor starts a process that reports the failure it reads (JSON) from its input.
pub const REPORT_FAILURE: &str = "report-failure";

/// Seconds until a reboot when the installer died before it knew what the site config says, and when it hung where the site
/// config says nothing.
const REBOOT_WITHOUT_POLICY: u32 = 300;

/// The installer says every 10 s that it runs, unless nothing in it stirs for [`STILL`](crate::ending::STILL) (600 s);
/// so long without is a hang.
const INSTALLER: Limits =
    Limits { silence: Some(Duration::from_secs(300)), exit: Duration::from_secs(10), total: None, death: DEATH };

/// A last report is worth a minute.
const REPORTER: Limits =
    Limits { silence: None, exit: Duration::from_secs(1), total: Some(Duration::from_secs(60)), death: DEATH };

/// A process that SIGKILL does not end within this waits for a device, maybe for ever.
const DEATH: Duration = Duration::from_secs(30);

/// What the site config says about failures, for the panic hook, which has nothing else.
static POLICY: Mutex<Option<u32>> = Mutex::new(Some(REBOOT_WITHOUT_POLICY));

/// Runs the machine as PID 1.
pub fn supervise() -> ! {
    std::panic::set_hook(Box::new(|info| panicked(info)));
    let mut init = Init::enter();
    loop {
        let way = match init.run_installer() {
            Outcome::Ended(Ending::Kexec) => Some(Way::Kexec),
            Outcome::Ended(Ending::Reboot) | Outcome::Interrupted => Some(Way::Reboot),
            Outcome::Ended(Ending::Poweroff) => Some(Way::Poweroff),
            Outcome::Ended(Ending::Failed { failure, reboot_after }) => init.hold(&failure, reboot_after),
            Outcome::Died(death) => {
                let failure = death.failure();
                // A failure may wait for a person; a machine that hangs reboots in any case.
                let reboot_after = if death.is_hang() { policy().or(Some(REBOOT_WITHOUT_POLICY)) } else { policy() };
                // The page itself waits for the report: this says at once what is going on.
                init.consoles.line(&format!("Reporting a failure: {}", failure.happened));
                init.take_back();
                init.report(&failure);
                init.hold(&failure, reboot_after)
            }
        };
        if let Some(way) = way {
            leave(way, &init.consoles, &mut init.watchdog, init.run_id.as_deref());
        }
        if init.left_behind {
            // Two installers on one disk would be worse than none.
            init.consoles.line("The installer that hangs is still there: rebooting instead of trying again.");
            leave(Way::Reboot, &init.consoles, &mut init.watchdog, init.run_id.as_deref());
        }
        init.consoles.line("Trying again.");
    }
}

#[derive(Debug)]
struct Init {
    consoles: Consoles,
    signals: Option<SignalFd>,
    watchdog: Watchdog,
    executable: PathBuf,
    /// The id of the last run of the installer.
    run_id: Option<String>,
    /// An installer that could not be killed may still write to the disk.
    left_behind: bool,
}

impl Init {
    /// Prepares the machine. Nothing here can fail: what is missing is said, and the rest goes on without it.
    fn enter() -> Self {
        let complaints = mounts::api_file_systems();
        kmsg::log_to_kernel();
        kmsg::quiet_consoles();
        complaints.iter().for_each(|complaint| log::error!("{complaint}"));
        let consoles = Consoles::open();
        log::info!("consoles: {:?}", consoles.names());
        // Ctrl-Alt-Del comes as SIGINT, so that a reboot goes the ordinary way out.
        if let Err(error) = set_cad_enabled(false) {
            log::warn!("taking over Ctrl-Alt-Del: {error}");
        }
        let signals = signals().inspect_err(|error| log::error!("opening a signalfd: {error}")).ok();
        let executable = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
        Self { consoles, signals, watchdog: Watchdog::default(), executable, run_id: None, left_behind: false }
    }

    fn run_installer(&mut self) -> Outcome {
        self.run_id = None;
        let run = self.run(RUN, b"", INSTALLER);
        self.run_id = run.id;
        if let Some(known) = run.policy {
            set_policy(known);
        }
        self.watchdog.is_taken_over(run.watchdog);
        self.left_behind |= run.left_behind;
        run.outcome
    }

    /// Reports a failure through a second child: the network and its libraries stay out of PID 1.
    fn report(&mut self, failure: &Failure) {
        let Ok(input) = serde_json::to_vec(failure) else { return };
        match self.run(REPORT_FAILURE, &input, REPORTER).outcome {
            Outcome::Died(death) if death.cause != crate::death::Cause::Exited(0) => {
                log::warn!("reporting the failure: {}", death.cause);
                self.consoles.line("The failure could not be reported.");
            }
            _ => {}
        }
    }

    fn run(&mut self, argument: &str, input: &[u8], limits: Limits) -> supervisor::Run {
        let mut command = Command::new(&self.executable);
        command.arg(argument);
        if let Some(id) = &self.run_id {
            command.env(RUN_VARIABLE, id);
        }
        let watchdog = &mut self.watchdog;
        let guard = Guard {
            consoles: &self.consoles,
            signals: self.signals.as_ref(),
            reap_all: true,
            duties: &mut || watchdog.feed(),
        };
        supervisor::run(command, input, limits, guard)
    }

    /// Whoever holds the machine may take its power, and another run would take the mark of this one for a kexec that failed.
    fn take_back(&self) {
        leave::take_back(&self.consoles, &marker::variables(), self.run_id.as_deref());
    }

    /// `None`: try again.
    fn hold(&mut self, failure: &Failure, reboot_after: Option<u32>) -> Option<Way> {
        // Consoles whose drivers came later, as on USB, have turned up by now.
        self.consoles = self.consoles.reopened();
        self.take_back();
        let (signals, watchdog) = (self.signals.as_ref(), &mut self.watchdog);
        let choice = hold::hold(&self.consoles, failure, reboot_after, || {
            watchdog.feed();
            reap();
            signals.is_some_and(supervisor::interrupted)
        });
        match choice {
            Choice::Retry => None,
            Choice::Reboot => Some(Way::Reboot),
            Choice::Poweroff => Some(Way::Poweroff),
        }
    }
}

/// SIGCHLD and SIGINT as a file. Children get a clean mask from the standard library.
fn signals() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    mask.add(Signal::SIGCHLD);
    mask.add(Signal::SIGINT);
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Takes the status of every process that ended.
fn reap() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            return;
        }
    }
}

fn policy() -> Option<u32> {
    *POLICY.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn set_policy(reboot_after: Option<u32>) {
    *POLICY.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = reboot_after;
}

/// A panic of PID 1 would be one of the kernel: it goes the same way out as any failure.
fn panicked(info: &PanicHookInfo<'_>) -> ! {
    leave::end_processes();
    let failure = Failure {
        code: Code::Internal,
        step: "supervisor".into(),
        happened: format!("a fault of the installer: {}", info.to_string().replace('\n', " ")),
        untouched: "whether the disk was written to is not known; no other disk was".into(),
        advice: "retry; if it happens again, keep this text and report it".into(),
    };
    log::error!("{}", failure.happened);
    let consoles = Consoles::open();
    // The device is held by the supervisor that failed and cannot be opened twice: unfed, it resets the machine,
    // which is what a supervisor in this state is to be answered with if nobody is there.
    let choice = hold::hold(&consoles, &failure, policy(), || {
        reap();
        false
    });
    if choice == Choice::Retry {
        let error = Command::new("/proc/self/exe").exec();
        consoles.line(&format!("Trying again failed: {error}"));
    }
    let way = if choice == Choice::Poweroff { Way::Poweroff } else { Way::Reboot };
    leave(way, &consoles, &mut Watchdog::default(), None)
}
