//! Shows an installation while it goes on, on standard error: its phases with times, or the guest's console as it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::serial::Serial;

/// A thread that prints until it is dropped.
#[derive(Debug)]
pub struct Follow {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follow {
    /// Follows `serial` from its beginning: with `console`, every line; else the installer's phases.
    #[must_use]
    pub fn start(serial: &Serial, console: bool) -> Self {
        Self::from(0, serial, console)
    }

    /// The same without the lines that are there already.
    #[must_use]
    pub fn from_now(serial: &Serial, console: bool) -> Self {
        Self::from(serial.lines().len(), serial, console)
    }

    fn from(first: usize, serial: &Serial, console: bool) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (serial, stopped) = (serial.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut seen = first;
            loop {
                let last = stopped.load(Ordering::Relaxed);
                // A line is shown once it is whole, or when nothing more can come.
                for line in serial.lines_from(seen).into_iter().take_while(|line| line.complete || last) {
                    show(line.at, &line.text, console);
                    seen += 1;
                }
                if last {
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(300));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A thread that only prints leaves nothing to clean up.
            let _ = thread.join();
        }
    }
}

fn show(at: Duration, text: &str, console: bool) {
    let event = text.starts_with("{\"metalstrap\":");
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    if console && !event {
        eprintln!("{:7.1} s | {text}", at.as_secs_f64());
    } else if !console && is_phase(&text) {
        eprintln!("{:7.1} s   {}", at.as_secs_f64(), text.split_once("] ").map_or(text.as_str(), |(_, rest)| rest));
    }
}

/// Lines of the installer for people: `[    1.2] Fetching the manifest: done in 0.20 s`, and progress.
fn is_phase(text: &str) -> bool {
    let step = text.starts_with('[') && (text.contains(": done in ") || text.contains(": failed after "));
    step || (text.contains(" left") && text.contains("/s, "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_told_from_the_kernels_lines() {
        assert!(is_phase("[    1.2] Fetching the manifest: done in 0.20 s"));
        assert!(is_phase("Writing the root file system: 45.0 MiB of 176.0 MiB (25%), 12.3 MiB/s, 11 s left"));
        assert!(!is_phase("[    1.234567] pci 0000:00:1f.0: quirk: done"));
    }
}
