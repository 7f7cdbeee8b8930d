//! Stopping early: SIGINT and SIGTERM end what is running, and then everything is dropped in order.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

static STOPPED: AtomicBool = AtomicBool::new(false);
static GROUPS: Mutex<BTreeSet<Pid>> = Mutex::new(BTreeSet::new());

fn groups() -> MutexGuard<'static, BTreeSet<Pid>> {
    GROUPS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on the signals are waited for by a thread. Called before any other thread is started: they inherit the mask.
///
/// # Errors
/// The kernel's.
pub fn watch() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("blocking signals")?;
    std::thread::spawn(move || {
        while signals.wait().is_ok() {
            STOPPED.store(true, Ordering::SeqCst);
            groups().iter().for_each(|group| kill(*group));
        }
    });
    Ok(())
}

/// Fails once a signal has come.
///
/// # Errors
/// Then.
pub fn check() -> Result<()> {
    ensure!(!STOPPED.load(Ordering::SeqCst), "stopped by a signal");
    Ok(())
}

/// One that has ended by itself is none to be killed, so an error says nothing.
fn kill(group: Pid) {
    let _ = killpg(group, Signal::SIGKILL);
}

/// A process group that is killed when a signal comes.
#[derive(Debug)]
pub struct Group(Pid);

impl Group {
    /// From now on. One that is made after the signal is killed at once.
    pub fn new(leader: Pid) -> Self {
        groups().insert(leader);
        if check().is_err() {
            kill(leader);
        }
        Self(leader)
    }

    /// Kills it.
    ///
    /// # Errors
    /// It has ended.
    pub fn kill(&self) -> Result<()> {
        killpg(self.0, Signal::SIGKILL).context("killing a process group")
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        groups().remove(&self.0);
    }
}
