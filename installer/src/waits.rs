//! Waits with a known end that something outside has asked for: while one is under way, the installer lives, though it
//! gets no further. A person reads for how long.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The wait that ends last. Clones know the same.
#[derive(Debug, Clone, Default)]
pub struct Waits(Arc<Mutex<Option<Wait>>>);

#[derive(Debug, Clone)]
struct Wait {
    end: Instant,
    what: String,
}

impl Waits {
    /// Says that somebody waits until `end`, and what a person reads about it ("https://repo.test is left alone").
    pub fn until(&self, end: Instant, what: &str) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_none_or(|last| last.end < end) {
            *last = Some(Wait { end, what: what.to_owned() });
        }
    }

    /// Says that nobody waits any more, whatever the end was to be.
    pub fn over(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The wait that is under way at `now`, as a person reads it: "https://repo.test is left alone, for 583 s"; `None`:
    /// nobody waits.
    #[must_use]
    pub fn at(&self, now: Instant) -> Option<String> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Wait { end, what } = last.as_ref()?;
        let left = end.saturating_duration_since(now);
        (left > Duration::ZERO).then(|| format!("{what}, for {} s", left.as_secs().saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_that_ends_last_is_told_until_its_end() {
        let (waits, start) = (Waits::default(), Instant::now());
        let at = |seconds: u64| waits.at(start + Duration::from_secs(seconds));
        assert_eq!(at(0), None);
        waits.until(start + Duration::from_secs(600), "a server is left alone");
        waits.until(start + Duration::from_secs(30), "another is");
        assert_eq!(at(17).unwrap(), "a server is left alone, for 584 s");
        assert!(at(599).is_some());
        assert_eq!(at(600), None);
        waits.until(start + Duration::from_secs(700), "once more");
        assert_eq!(at(650).unwrap(), "once more, for 51 s");
        waits.over();
        assert_eq!(at(650), None);
    }
}
