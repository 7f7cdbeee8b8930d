//! Bytes, rate and time left of a long step: one rewritten line on a terminal, a line every few seconds elsewhere.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

use crate::size::MIB;

/// Between two lines when standard error is a log.
const LOG_INTERVAL: Duration = Duration::from_secs(3);
/// Between two rewrites of the line on a terminal.
const TERMINAL_INTERVAL: Duration = Duration::from_millis(100);

/// The progress of one step.
#[derive(Debug)]
pub struct Progress {
    label: String,
    total: u64,
    started: Instant,
    shown: Instant,
    terminal: bool,
}

impl Progress {
    /// Starts a step over `total` bytes.
    pub fn new(label: impl Into<String>, total: u64) -> Self {
        let now = Instant::now();
        Self { label: label.into(), total, started: now, shown: now, terminal: stderr().is_terminal() }
    }

    /// Shows how far the step is, if it is time to, and always at its end.
    pub fn update(&mut self, done: u64) {
        let interval = if self.terminal { TERMINAL_INTERVAL } else { LOG_INTERVAL };
        if self.shown.elapsed() < interval && done < self.total {
            return;
        }
        self.shown = Instant::now();
        let line = line(&self.label, done, self.total, self.started.elapsed());
        let mut out = stderr().lock();
        // A terminal that is gone stops no publishing.
        let _: std::io::Result<()> = match (self.terminal, done < self.total) {
            (true, true) => write!(out, "\r\x1b[K{line}").and_then(|()| out.flush()),
            (true, false) => writeln!(out, "\r\x1b[K{line}"),
            (false, _) => writeln!(out, "{line}"),
        };
    }
}

fn line(label: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_mul(1000) / millis;
    let left = match total.saturating_sub(done) {
        0 => format!("done in {} s", seconds(millis)),
        rest => rest
            .saturating_mul(1000)
            .checked_div(rate)
            .map_or_else(String::new, |left| format!("{} s left", seconds(left))),
    };
    format!("{label}: {} of {} MiB, {} MiB/s, {left}", mib(done), mib(total), mib(rate))
}

fn mib(bytes: u64) -> String {
    let tenths = bytes.saturating_mul(10) / MIB;
    format!("{}.{}", tenths / 10, tenths % 10)
}

fn seconds(millis: u64) -> u64 {
    millis.div_ceil(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_bytes_rate_and_time_left() {
        let line = |done, millis| line("root", done, 100 << 20, Duration::from_millis(millis));
        assert_eq!(line(25 << 20, 2000), "root: 25.0 of 100.0 MiB, 12.5 MiB/s, 6 s left");
        assert_eq!(line(100 << 20, 8001), "root: 100.0 of 100.0 MiB, 12.4 MiB/s, done in 9 s");
        assert_eq!(line(0, 0), "root: 0.0 of 100.0 MiB, 0.0 MiB/s, ");
    }
}
