//! The clock, and times as people read them.

use std::time::SystemTime;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

/// Seconds of a day.
pub const DAY: i64 = 24 * 3600;

/// Seconds since 1970.
///
/// # Errors
/// The clock shows a time before 1970.
pub fn now() -> Result<i64> {
    let elapsed = SystemTime::UNIX_EPOCH.elapsed().context("reading the clock")?;
    i64::try_from(elapsed.as_secs()).context("reading the clock")
}

/// Seconds since 1970 by RFC 3339.
pub fn text(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}
