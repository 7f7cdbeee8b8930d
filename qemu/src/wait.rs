//! Waiting for a condition, with an end.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at that cannot be waited on: short beside a process start, long beside a look.
const LOOK: Duration = Duration::from_millis(5);

/// `count` minutes.
#[must_use]
pub const fn minutes(count: u64) -> Duration {
    Duration::from_secs(count * 60)
}

/// `count` seconds.
#[must_use]
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Looks until `condition` gives a value. `what` completes the sentence "… did not happen within …".
///
/// # Errors
/// The condition's own error at once; else that `timeout` is over.
pub fn until<T>(what: &str, timeout: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("{what} did not happen within {timeout:?}");
        }
        thread::sleep(LOOK);
    }
}
