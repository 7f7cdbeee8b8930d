//! The lowest memory that was available while the installer ran: what a smaller machine would have lacked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use crate::meminfo;

/// How often it is looked at.
const EVERY: Duration = Duration::from_millis(100);

/// Watches from [`Watermark::start`] until it is dropped.
#[derive(Debug)]
pub struct Watermark {
    lowest: Arc<AtomicU64>,
    _stop: Sender<()>,
}

impl Watermark {
    /// Starts the thread that looks.
    #[must_use]
    pub fn start() -> Self {
        let lowest = Arc::new(AtomicU64::new(u64::MAX));
        let (stop, stopped) = channel::<()>();
        let seen = Arc::clone(&lowest);
        std::thread::spawn(move || {
            loop {
                if let Ok(available) = meminfo::mem_available() {
                    seen.fetch_min(available, Ordering::Relaxed);
                }
                if stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        });
        Self { lowest, _stop: stop }
    }

    /// The lowest MemAvailable so far, in bytes; `None` where the kernel does not tell.
    #[must_use]
    pub fn lowest(&self) -> Option<u64> {
        Some(self.lowest.load(Ordering::Relaxed)).filter(|lowest| *lowest != u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_machine_has_is_seen() {
        let watermark = Watermark::start();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while watermark.lowest().is_none() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let total = std::fs::read_to_string("/proc/meminfo").unwrap();
        assert!(watermark.lowest().unwrap() > 0, "{total}");
    }
}
