//! The hardware watchdog: resets a machine whose supervisor, or whose next kernel, hangs.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use crate::sys;

const PATH: &str = "/dev/watchdog0";

/// Seconds without food after which the machine is reset while the installer works.
const WORKING: i32 = 60;

/// Seconds the next kernel, or the firmware, gets to take over. The driver of an OS that has it takes the timer
/// over; an OS without it is reset then.
const LEAVING: i32 = 300;

/// With less than this the timer is not left to the next kernel: a healthy OS that takes its time would be reset.
const ENOUGH: i32 = 120;

/// Well below [`WORKING`]: one late meal is no reset.
const FEED_EVERY: Duration = Duration::from_secs(10);

/// Feeds the watchdog once there is one: its driver comes with the others, long after the start.
///
/// Drivers that stop the timer at a reboot, which a kexec is too, do so through the module `watchdog`: its parameter
/// `stop_on_reboot=0` (set in [`crate::modules`]) keeps it armed across the jump.
#[derive(Debug, Default)]
pub struct Watchdog {
    device: Option<File>,
    last: Option<Instant>,
}

impl Watchdog {
    /// Feeds it when it is time to; call this at least every few seconds while all is well.
    pub fn feed(&mut self) {
        if self.last.is_some_and(|last| last.elapsed() < FEED_EVERY) {
            return;
        }
        self.last = Some(Instant::now());
        if self.device.is_none() {
            self.open();
        }
        if let Some(Err(error)) = self.device.as_mut().map(|device| device.write_all(b"\0")) {
            log::warn!("feeding the watchdog: {error}");
        }
    }

    /// Opening starts the timer.
    fn open(&mut self) {
        if let Ok(device) = OpenOptions::new().write(true).open(PATH) {
            log::info!("watchdog {PATH} started");
            set_timeout(&device, WORKING);
            self.device = Some(device);
        }
    }

    /// Gives the next kernel its time; the timer runs on. False if the timer cannot be set to enough of it.
    #[must_use]
    pub fn leave_armed(&mut self) -> bool {
        let Some(device) = &mut self.device else { return true };
        let set = set_timeout(device, LEAVING);
        let _ = device.write_all(b"\0");
        enough(set)
    }

    /// Stops the timer: a machine that was switched off shall stay off, and a kernel that gets too little time is better
    /// off without. `V` is the driver API's word for a stop that
    /// is meant (Linux `Documentation/watchdog/watchdog-api.rst`, magic close).
    pub fn stop(&mut self) {
        if let Some(mut device) = self.device.take() {
            let _ = device.write_all(b"V");
        }
    }
}

/// Whether the next kernel can live with what became of the timeout; `None`: it could not be set.
fn enough(set: Option<i32>) -> bool {
    set.is_some_and(|seconds| seconds >= ENOUGH)
}

/// What the driver made of it, in seconds.
fn set_timeout(device: &File, seconds: i32) -> Option<i32> {
    sys::watchdog_set_timeout(device.as_fd(), seconds)
        .inspect(|set| log::info!("watchdog timeout {set} s"))
        .inspect_err(|error| log::warn!("setting the watchdog's timeout to {seconds} s: {error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_is_left_to_the_next_kernel_only_with_enough_time() {
        assert_eq!([None, Some(0), Some(119), Some(120), Some(300)].map(enough), [false, false, false, true, true]);
        // No watchdog, nothing to stop.
        assert!(Watchdog::default().leave_armed());
    }

    #[test]
    fn a_device_that_takes_no_timeout_is_stopped_by_its_letter() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let device = OpenOptions::new().write(true).open(file.path()).unwrap();
        let mut watchdog = Watchdog { device: Some(device), last: None };
        assert!(!watchdog.leave_armed());
        watchdog.stop();
        assert_eq!(std::fs::read(file.path()).unwrap(), b"\0V");
        assert!(watchdog.device.is_none());
    }
}
