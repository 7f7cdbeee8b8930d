//! Ctrl-C and `kill`: noticed, so that a run ends in order and says so.
//!
//! Nothing depends on it: when this process dies in another way, the kernel ends everything that it started (see the
//! introduction of `metalstrap_qemu`).

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use nix::sys::signal::{SigSet, Signal, raise};

/// Whether a signal has come.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicI32>);

impl Interrupt {
    /// Takes SIGHUP, SIGINT and SIGTERM of this process from now on. Threads that are started later are not ended by
    /// them; programs get their usual signals (the standard library gives a child an empty mask). A second signal ends the
    /// process at once.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn listen() -> Result<Self> {
        let taken: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        taken.thread_block().context("taking signals")?;
        let noted = Self(Arc::default());
        let note = noted.clone();
        let wait = move || {
            while let Ok(signal) = taken.wait() {
                if note.signal().is_some() && raise(Signal::SIGKILL).is_ok() {
                    return;
                }
                note.0.store(signal as i32, Ordering::Relaxed);
            }
        };
        thread::Builder::new().name("signals".into()).spawn(wait).context("starting a thread")?;
        Ok(noted)
    }

    /// The signal that has come.
    pub fn signal(&self) -> Option<Signal> {
        Signal::try_from(self.0.load(Ordering::Relaxed)).ok()
    }
}
