//! Progress of a long step: counters that worker threads bump, read by the reporter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A cheap handle; clones count into the same place.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    total: AtomicU64,
    done: AtomicU64,
    fetched: AtomicU64,
}

impl Progress {
    /// Says how many bytes the step has to get through.
    pub fn expect(&self, bytes: u64) {
        self.0.total.store(bytes, Ordering::Relaxed);
    }

    /// `bytes` more are done (written, or found right).
    pub fn advance(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// `bytes` more came over the network.
    pub fn fetched(&self, bytes: u64) {
        self.0.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// (done, total, fetched), in bytes; total is 0 while unknown.
    #[must_use]
    pub fn snapshot(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.0.done), read(&self.0.total), read(&self.0.fetched))
    }
}
