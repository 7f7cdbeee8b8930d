//! How long the TPM has been waited for, apart from what is done in systemd-stub's place: the stub would do that too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Microseconds of the whole process: several places open the TPM.
static SPENT: AtomicU64 = AtomicU64::new(0);

/// Counts the time from its start until it is dropped.
#[derive(Debug)]
pub(super) struct Spending(Instant);

impl Spending {
    /// From now on.
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }
}

impl Drop for Spending {
    fn drop(&mut self) {
        let spent = u64::try_from(self.0.elapsed().as_micros()).unwrap_or_default();
        SPENT.fetch_add(spent, Ordering::Relaxed);
    }
}

/// What was counted so far.
#[must_use]
pub fn so_far() -> Duration {
    Duration::from_micros(SPENT.load(Ordering::Relaxed))
}
