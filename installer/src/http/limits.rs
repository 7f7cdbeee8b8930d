//! How long is waited for what, and when it is tried again.

use std::time::Duration;

use metalstrap_release::site::Site;

/// How long to wait for what, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a TCP connection, and once more for the TLS handshake.
    pub connect: Duration,
    /// For an answer to begin, and for each next piece of it.
    pub stall: Duration,
    /// An answer that brings fewer than `window_bytes` in so much waiting for it counts as stalled.
    pub window: Duration,
    /// The bytes for that.
    pub window_bytes: u64,
    /// An answer as a whole may be waited for so long, and longer by its bytes at `rate`: one that has brought less counts as
    /// too slow. What has come is kept.
    pub grace: Duration,
    /// Bytes a second for that. Far below what a connection gets that shares a link of 10 Mbit/s with 15 others (74 kB/s), so
    /// that only a server meets it that is slow by itself.
    pub rate: u64,
    /// An attempt that brings fewer bytes and does not come to the end counts as failed.
    pub attempt_bytes: u64,
    /// Failed attempts in a row before it is given up.
    pub attempts: u32,
    /// Before the second attempt; doubles from then on.
    pub backoff: Duration,
    /// The longest pause between attempts that nobody asked for.
    pub backoff_most: Duration,
    /// The longest pause that a server may ask for (`Retry-After`).
    pub asked_most: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            window: Duration::from_secs(60),
            window_bytes: 64 << 10,
            grace: Duration::from_secs(60),
            rate: 16 << 10,
            attempt_bytes: 256 << 10,
            attempts: 8,
            backoff: Duration::from_millis(500),
            backoff_most: Duration::from_secs(30),
            asked_most: Duration::from_secs(600),
        }
    }
}

impl Limits {
    /// With those of them that the site config sets.
    #[must_use]
    pub fn of_site(self, site: &Site) -> Self {
        let Some(retry) = site.retry else { return self };
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        Self {
            attempts: retry.attempts,
            connect: seconds(retry.connect_timeout),
            stall: seconds(retry.stall_timeout),
            backoff_most: seconds(retry.longest_pause),
            ..self
        }
    }
}

/// The pause before attempt `failures + 1`, where the server may have `asked` for one: what it asked for within reason and
/// a little more, since it says the same to all machines; no less than the next of ours.
#[must_use]
pub fn pause(limits: &Limits, asked: Option<Duration>, failures: u32) -> Duration {
    let own = backoff(limits, failures);
    let asked = asked.map(|asked| asked.min(limits.asked_most));
    asked.map_or(own, |asked| asked.saturating_add(asked.saturating_mul(u32::from(dice())) / 2048).max(own))
}

/// The pause before attempt `failures + 1`: doubled each time, shortened by up to half at random so that a rack of
/// machines does not come back in step.
#[must_use]
pub fn backoff(limits: &Limits, failures: u32) -> Duration {
    let doubled = limits.backoff.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    let pause = doubled.min(limits.backoff_most);
    pause.saturating_sub(pause.saturating_mul(u32::from(dice())) / 512)
}

/// A random byte, from the keys the standard library draws for each hash table.
fn dice() -> u8 {
    use std::hash::{BuildHasher as _, RandomState};
    let [byte, ..] = RandomState::new().hash_one(()).to_le_bytes();
    byte
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_differ() {
        let limits = Limits::default();
        for (failures, most) in [(1, 500), (2, 1000), (3, 2000), (6, 16_000), (7, 30_000), (40, 30_000)] {
            let most = Duration::from_millis(most);
            let pauses: Vec<Duration> = (0..64).map(|_| backoff(&limits, failures)).collect();
            assert!(pauses.iter().all(|pause| (most / 2..=most).contains(pause)), "{failures}: {pauses:?}");
            assert!(pauses.iter().any(|pause| *pause != pauses[0]), "{failures}: all {:?}", pauses[0]);
        }
    }

    #[test]
    fn a_pause_that_was_asked_for_is_kept_within_our_own() {
        let limits = Limits::default();
        let asked = |seconds, failures| pause(&limits, Some(Duration::from_secs(seconds)), failures);
        let about = |pause: Duration, seconds| (seconds..=seconds + seconds / 8).contains(&pause.as_secs());
        assert!(about(asked(7, 1), 7) && about(asked(120, 1), 120) && about(asked(3600, 1), 600));
        assert!(asked(0, 3) >= Duration::from_secs(1));
        assert!(pause(&limits, None, 3) >= Duration::from_secs(1));
    }
}
