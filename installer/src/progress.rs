//! Progress of a long step: counters that worker threads bump, and the rate and time left a person reads.

mod look;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use look::Looks;
pub use look::{Look, LooksAt};

/// A cheap handle; clones count into the same place.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    total: AtomicU64,
    done: AtomicU64,
    fetched: AtomicU64,
    parts: Parts,
    looks: Looks,
    first_fetched: OnceLock<Instant>,
    note: Mutex<Option<String>>,
    notes: AtomicU64,
}

/// Bytes done, by how they came to their place.
#[derive(Debug, Default)]
struct Parts {
    kept: AtomicU64,
    zero: AtomicU64,
    copied: AtomicU64,
    brought: AtomicU64,
}

impl Progress {
    /// `bytes` more were right in their place.
    pub fn keeps(&self, bytes: u64) {
        self.part(&self.0.parts.kept, bytes);
    }

    /// `bytes` more were made of zeroes.
    pub fn zeroes(&self, bytes: u64) {
        self.part(&self.0.parts.zero, bytes);
    }

    /// `bytes` more were copied from elsewhere.
    pub fn copies(&self, bytes: u64) {
        self.part(&self.0.parts.copied, bytes);
    }

    /// `bytes` more of content came over the network.
    pub fn brings(&self, bytes: u64) {
        self.part(&self.0.parts.brought, bytes);
    }

    fn part(&self, part: &AtomicU64, bytes: u64) {
        part.fetch_add(bytes, Ordering::Relaxed);
        self.advance(bytes);
    }

    /// Bytes kept, made of zeroes, copied, and fetched, in this order.
    #[must_use]
    pub fn parts(&self) -> [u64; 4] {
        let Parts { kept, zero, copied, brought } = &self.0.parts;
        [kept, zero, copied, brought].map(|part| part.load(Ordering::Relaxed))
    }

    /// Says how many bytes the step has to get through.
    pub fn expect(&self, bytes: u64) {
        self.0.total.store(bytes, Ordering::Relaxed);
    }

    /// `bytes` more are done (written, or found right).
    pub fn advance(&self, bytes: u64) {
        self.0.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A look at `bytes` begins, of which some or none may be of use.
    pub fn looks_at(&self, what: LooksAt, bytes: u64) {
        self.0.looks.begin(what, bytes);
    }

    /// `bytes` more were looked at, or could not be read.
    pub fn looked(&self, bytes: u64) {
        self.0.looks.advance(bytes);
    }

    /// There is nothing more to look at.
    pub fn has_looked(&self) {
        self.0.looks.end();
    }

    /// The look that is under way.
    #[must_use]
    pub fn look(&self) -> Option<Look> {
        self.0.looks.present()
    }

    /// A number that grows whenever a look begins or ends.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.0.looks.turns()
    }

    /// A number that grows while anything is looked at, fetched or done, and with each note: one that only stands there is no
    /// life.
    #[must_use]
    pub fn stirred(&self) -> u64 {
        let (done, _, fetched) = self.snapshot();
        let notes = self.0.notes.load(Ordering::Relaxed);
        done.wrapping_add(fetched).wrapping_add(self.0.looks.looked()).wrapping_add(notes)
    }

    /// `bytes` more came over the network.
    pub fn fetched(&self, bytes: u64) {
        self.0.fetched.fetch_add(bytes, Ordering::Relaxed);
        self.0.first_fetched.get_or_init(Instant::now);
    }

    /// Says what a step without a known length waits for ("eth0: waiting for the switch port"). A wait of which nothing is said
    /// for long has an end that [`Waits`](crate::waits::Waits) know.
    pub fn waits_for(&self, what: impl Into<String>) {
        if let Ok(mut note) = self.0.note.lock() {
            *note = Some(what.into());
        }
        self.0.notes.fetch_add(1, Ordering::Relaxed);
    }

    /// What [`Progress::waits_for`] said last.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        self.0.note.lock().ok().and_then(|note| note.clone())
    }

    /// How the bytes that are done came to their place, as a person reads it: "1.9 GiB kept, 100.0 MiB fetched"; `None`
    /// where they did not.
    #[must_use]
    pub fn parts_text(&self) -> Option<String> {
        let parts = self.parts().into_iter().zip(["kept", "zero", "copied", "fetched"]);
        let parts: Vec<_> =
            parts.filter(|(bytes, _)| *bytes > 0).map(|(bytes, what)| format!("{} {what}", size(bytes))).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// When the first byte came over the network.
    #[must_use]
    pub fn first_fetched(&self) -> Option<Instant> {
        self.0.first_fetched.get().copied()
    }

    /// (done, total, fetched), in bytes; total is 0 while unknown.
    #[must_use]
    pub fn snapshot(&self) -> (u64, u64, u64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.0.done), read(&self.0.total), read(&self.0.fetched))
    }
}

/// The rate over the last seconds, from observations of a counter.
#[derive(Debug, Default)]
pub struct Rate {
    seen: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Over how long the rate is taken.
    const WINDOW: Duration = Duration::from_secs(8);

    /// The counter stood at `done` at `now`.
    pub fn observe(&mut self, done: u64, now: Instant) {
        self.seen.push_back((now, done));
        while self.seen.len() > 2 && self.seen.front().is_some_and(|(then, _)| now.duration_since(*then) > Self::WINDOW)
        {
            self.seen.pop_front();
        }
    }

    /// Bytes a second; 0 before two observations.
    #[must_use]
    pub fn per_second(&self) -> u64 {
        let (Some((first, from)), Some((last, to))) = (self.seen.front(), self.seen.back()) else { return 0 };
        let micros = last.duration_since(*first).as_micros();
        let bytes = u128::from(to.saturating_sub(*from));
        (bytes * 1_000_000).checked_div(micros).and_then(|rate| u64::try_from(rate).ok()).unwrap_or(0)
    }

    /// Seconds until `total`, at the present rate; `None` while nothing moves.
    #[must_use]
    pub fn seconds_left(&self, done: u64, total: u64) -> Option<u64> {
        total.saturating_sub(done).checked_div(self.per_second())
    }

    /// "45 MiB of 176 MiB (25%), 12.3 MiB/s, 11 s left"; the first look has no rate yet.
    #[must_use]
    pub fn text(&self, done: u64, total: u64) -> String {
        let percent = u128::from(done) * 100 / u128::from(total.max(1));
        if self.seen.len() < 2 {
            return format!("{} of {} ({percent}%)", size(done), size(total));
        }
        let left =
            self.seconds_left(done, total).map_or_else(|| "stalled".to_owned(), |seconds| format!("{seconds} s left"));
        format!("{} of {} ({percent}%), {}/s, {left}", size(done), size(total), size(self.per_second()))
    }
}

/// Bytes as a person reads them: "512 B", "1.5 MiB".
#[must_use]
pub fn size(bytes: u64) -> String {
    let mut unit = 0;
    let mut scaled = bytes;
    let mut rest = 0;
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    while scaled >= 1024 && unit + 1 < UNITS.len() {
        rest = scaled % 1024;
        scaled /= 1024;
        unit += 1;
    }
    let unit = UNITS.get(unit).copied().unwrap_or("B");
    if unit == "B" { format!("{scaled} B") } else { format!("{scaled}.{} {unit}", rest * 10 / 1024) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_a_person_says_them() {
        let texts = [0, 512, 1024, 1536, 181_403_648, u64::MAX].map(size);
        assert_eq!(texts, ["0 B", "512 B", "1.0 KiB", "1.5 KiB", "173.0 MiB", "16777215.9 TiB"]);
    }

    #[test]
    fn parts_are_told_where_there_are_any() {
        let progress = Progress::default();
        progress.advance(4096);
        assert_eq!(progress.parts_text(), None);
        progress.keeps(2 << 20);
        progress.brings(4096);
        assert_eq!(progress.parts_text().unwrap(), "2.0 MiB kept, 4.0 KiB fetched");
        progress.zeroes(8192);
        progress.copies(1 << 20);
        assert_eq!(progress.parts_text().unwrap(), "2.0 MiB kept, 8.0 KiB zero, 1.0 MiB copied, 4.0 KiB fetched");
        assert_eq!(progress.parts(), [2 << 20, 8192, 1 << 20, 4096]);
    }

    #[test]
    fn rate_and_time_left_come_from_the_last_seconds() {
        let mut rate = Rate::default();
        let start = Instant::now();
        assert_eq!(rate.text(0, 100), "0 B of 100 B (0%)");
        rate.observe(0, start);
        rate.observe(0, start + Duration::from_millis(250));
        assert_eq!(rate.text(0, 100), "0 B of 100 B (0%), 0 B/s, stalled");
        let mut rate = Rate::default();
        for second in 0..=20 {
            // Slow at first: after eight seconds only the fast part counts.
            let done = if second < 10 { second << 20 } else { (second - 9) * (10 << 20) };
            rate.observe(done, start + Duration::from_secs(second));
        }
        assert_eq!(rate.per_second(), 10 << 20);
        assert_eq!(rate.text(110 << 20, 160 << 20), "110.0 MiB of 160.0 MiB (68%), 10.0 MiB/s, 5 s left");
    }
}
