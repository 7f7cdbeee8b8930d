//! The hardware watchdog: resets a machine whose supervisor, or whose next kernel, hangs.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use metalstrap_release::manifest::Boot;

use crate::sys;

const PATH: &str = "/dev/watchdog0";

/// Where below sysfs the kernel tells of it (Linux `Documentation/ABI/testing/sysfs-class-watchdog`).
const SYSFS: &str = "class/watchdog/watchdog0";

/// Seconds without food after which the machine is reset while the installer works.
const WORKING: u32 = 60;

/// Seconds for what comes between the last meal and the end of the installer, and for the firmware.
const LEAVING: u32 = 300;

/// Well below [`WORKING`]: one late meal is no reset.
const FEED_EVERY: Duration = Duration::from_secs(10);

/// Feeds the watchdog once there is one: its driver comes with the others, long after the start.
///
/// Drivers that stop the timer at a reboot, which a kexec is too, do so through the module `watchdog`: its parameter
/// `stop_on_reboot=0` (set in [`crate::modules`], and on the netboot image's command line for a kernel that has it built in) keeps it
/// armed across the jump.
#[derive(Debug)]
pub struct Watchdog {
    path: PathBuf,
    sysfs: PathBuf,
    device: Option<File>,
    last: Option<Instant>,
    /// Seconds that the next OS declares to be enough for it to feed the timer; `None`: it does not.
    taken_over: Option<u32>,
    /// [`set_timeout`], but in tests.
    set_timeout: fn(&File, u32) -> Option<u32>,
}

impl Default for Watchdog {
    fn default() -> Self {
        Self::at(Path::new(PATH), &Path::new("/sys").join(SYSFS))
    }
}

impl Watchdog {
    /// The one of this device, of which the kernel tells in `sysfs`.
    #[must_use]
    pub fn at(path: &Path, sysfs: &Path) -> Self {
        let (path, sysfs) = (path.to_owned(), sysfs.to_owned());
        Self { path, sysfs, device: None, last: None, taken_over: None, set_timeout }
    }

    /// Feeds it when it is time to; call this at least every few seconds while all is well.
    pub fn feed(&mut self) {
        self.feed_at(Instant::now());
    }

    fn feed_at(&mut self, now: Instant) {
        // One that is not there yet is looked for each time: a quick installation would be over before the next meal.
        if self.device.is_some() && self.last.is_some_and(|last| now.duration_since(last) < FEED_EVERY) {
            return;
        }
        self.last = Some(now);
        if self.device.is_none() {
            self.open();
        }
        if let Some(Err(error)) = self.device.as_mut().map(|device| device.write_all(b"\0")) {
            log::warn!("feeding the watchdog: {error}");
        }
    }

    /// Opening starts the timer.
    fn open(&mut self) {
        if let Ok(device) = OpenOptions::new().write(true).open(&self.path) {
            log::info!("watchdog {} started", self.path.display());
            (self.set_timeout)(&device, WORKING);
            self.device = Some(device);
        }
    }

    /// The next OS feeds the timer if it gets so many `seconds`; `None`: nothing says that it feeds it at all.
    pub fn is_taken_over(&mut self, seconds: Option<u32>) {
        self.taken_over = seconds;
    }

    /// Gives what comes before the end its time; the timer runs on.
    pub fn leave_armed(&mut self) {
        if let Some(device) = &mut self.device {
            (self.set_timeout)(device, LEAVING);
            let _ = device.write_all(b"\0");
        }
    }

    /// The same after a way out that the kernel refused: the timer, stopped for it or given the next OS's time, is what resets a
    /// machine that hangs in the next way out.
    pub fn arm_again(&mut self) {
        self.feed();
        self.leave_armed();
    }

    /// Right before a kexec: the timer goes along with a kernel whose OS takes it over; for any other it is stopped, since it
    /// would reset an OS that is well. False: it runs, and nobody will feed it.
    #[must_use]
    pub fn jump(&mut self) -> bool {
        let Some(device) = &mut self.device else { return true };
        if let Some(seconds) = self.taken_over {
            if (self.set_timeout)(device, seconds).is_some_and(|set| set >= seconds) {
                let _ = device.write_all(b"\0");
                return true;
            }
            log::warn!("watchdog stopped: its driver does not give the next kernel {seconds} s");
        }
        self.stop()
    }

    /// Stops the timer: a machine that was switched off shall stay off. `V` is the driver API's word for a stop that
    /// is meant (Linux `Documentation/watchdog/watchdog-api.rst`, magic close). False if the kernel says that it runs on, as it
    /// does where the driver has `nowayout`.
    pub fn stop(&mut self) -> bool {
        if let Some(mut device) = self.device.take() {
            let _ = device.write_all(b"V");
        }
        let state = fs::read_to_string(self.sysfs.join("state"));
        !state.is_ok_and(|state| state.trim_end() == "active")
    }
}

/// Why the machine whose sysfs is at `sys` is not left by kexec into what `boot` starts, as far as its watchdog goes: it cannot be
/// stopped, and would reset an OS that is well. What turns up later, as a driver that does not give the OS its time, is
/// [`Watchdog::jump`]'s.
#[must_use]
pub fn obstacle(boot: &Boot, sys: &Path) -> Option<String> {
    obstacle_of(boot, &sys.join(SYSFS))
}

/// The same for the watchdog of which the kernel tells in `sysfs`.
fn obstacle_of(boot: &Boot, sysfs: &Path) -> Option<String> {
    let runs_on = fs::read_to_string(sysfs.join("nowayout")).is_ok_and(|text| text.trim_end() == "1");
    (runs_on && boot.watchdog.is_none()).then(|| {
        "the watchdog cannot be stopped (nowayout), and the release does not say that its OS feeds it (`metalstrap publish \
         --watchdog`)"
            .to_owned()
    })
}

/// What the driver made of it, in seconds.
fn set_timeout(device: &File, seconds: u32) -> Option<u32> {
    sys::watchdog_set_timeout(device.as_fd(), i32::try_from(seconds).ok()?)
        .inspect(|set| log::info!("watchdog timeout {set} s"))
        .inspect_err(|error| log::warn!("setting the watchdog's timeout to {seconds} s: {error}"))
        .ok()
        .and_then(|set| u32::try_from(set).ok())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A file for a device, which takes no timeout.
    pub(crate) struct Fake(tempfile::TempDir);

    impl Fake {
        pub(crate) fn new() -> Self {
            let fake = Self(tempfile::tempdir().unwrap());
            fs::write(fake.0.path().join("device"), "").unwrap();
            fake
        }

        pub(crate) fn watchdog(&self) -> Watchdog {
            Watchdog::at(&self.0.path().join("device"), self.0.path())
        }

        /// The same for a driver that takes every timeout; that is written to the device, as `[60]`.
        pub(crate) fn granting(&self) -> Watchdog {
            let set_timeout = |mut device: &File, seconds: u32| {
                write!(device, "[{seconds}]").unwrap();
                Some(seconds)
            };
            Watchdog { set_timeout, ..self.watchdog() }
        }

        /// All that was written to it; one that is opened again is written to from its start.
        pub(crate) fn written(&self) -> Vec<u8> {
            fs::read(self.0.path().join("device")).unwrap()
        }

        /// The kernel says so of it.
        pub(crate) fn state(&self, text: &str) {
            fs::write(self.0.path().join("state"), text).unwrap();
        }
    }

    #[test]
    fn it_is_fed_every_ten_seconds_once_it_is_there() {
        let (fake, start) = (Fake::new(), Instant::now());
        let missing = tempfile::tempdir().unwrap();
        let mut none = Watchdog::at(&missing.path().join("device"), missing.path());
        none.feed_at(start);
        assert!(none.device.is_none());
        fs::write(missing.path().join("device"), "").unwrap();
        none.feed_at(start + Duration::from_secs(1));
        assert_eq!(fs::read(missing.path().join("device")).unwrap(), b"\0");
        let mut watchdog = fake.watchdog();
        let mut meals = |seconds| {
            watchdog.feed_at(start + Duration::from_secs(seconds));
            fake.written().len()
        };
        assert_eq!([0, 1, 9, 10, 19, 20].map(&mut meals), [1, 1, 1, 2, 2, 3]);
    }

    #[test]
    fn a_kernel_whose_os_does_not_feed_it_gets_it_stopped() {
        let fake = Fake::new();
        let mut watchdog = fake.watchdog();
        watchdog.feed();
        fake.state("inactive\n");
        assert!(watchdog.jump());
        assert_eq!(fake.written(), b"\0V");
        assert!(watchdog.device.is_none());
        // No watchdog, nothing to stop.
        assert!(Watchdog::at(Path::new("/nonexistent"), Path::new("/nonexistent")).jump());
    }

    #[test]
    fn a_device_that_does_not_give_the_os_its_time_is_stopped() {
        let fake = Fake::new();
        let mut watchdog = fake.watchdog();
        watchdog.feed();
        watchdog.is_taken_over(Some(60));
        assert!(watchdog.jump());
        assert_eq!(fake.written(), b"\0V");
    }

    #[test]
    fn whoever_leaves_has_five_minutes() {
        let fake = Fake::new();
        let mut watchdog = fake.granting();
        watchdog.feed();
        watchdog.leave_armed();
        assert_eq!(fake.written(), b"[60]\0[300]\0");
        assert!(watchdog.device.is_some());
        // Nothing is armed that was not there before.
        let mut none = fake.granting();
        none.leave_armed();
        assert!(none.device.is_none());
    }

    #[test]
    fn one_that_was_stopped_is_armed_again() {
        let fake = Fake::new();
        let mut watchdog = fake.granting();
        watchdog.feed();
        assert!(watchdog.jump());
        assert_eq!(fake.written(), b"[60]\0V");
        watchdog.arm_again();
        assert_eq!(fake.written(), b"[60]\0[300]\0");
        assert!(watchdog.device.is_some());
    }

    #[test]
    fn one_that_cannot_be_stopped_is_told() {
        let fake = Fake::new();
        let mut watchdog = fake.watchdog();
        watchdog.feed();
        fake.state("active\n");
        assert!(!watchdog.jump());
        assert!(!watchdog.stop());
    }

    #[test]
    fn one_that_cannot_be_stopped_speaks_against_kexec_unless_the_os_feeds_it() {
        let (fake, mut boot) = (Fake::new(), crate::plan::tests::manifest().boot);
        let says = |boot: &Boot| obstacle_of(boot, fake.0.path());
        // No watchdog, or a kernel that does not tell.
        assert_eq!(says(&boot), None);
        let nowayout = |text: &str| fs::write(fake.0.path().join("nowayout"), text).unwrap();
        nowayout("0\n");
        assert_eq!(says(&boot), None);
        nowayout("1\n");
        let text = "the watchdog cannot be stopped (nowayout), and the release does not say that its OS feeds it (`metalstrap \
                    publish --watchdog`)";
        assert_eq!(says(&boot).unwrap(), text);
        boot.watchdog = Some(60);
        assert_eq!(says(&boot), None);
    }
}
