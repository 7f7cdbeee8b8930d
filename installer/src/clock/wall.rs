//! The clocks of the machine: the kernel's and the hardware's.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::PoisonError;

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use super::BASIS;
use super::evidence::Evidence;
use crate::sys::{self, CivilTime};

/// The hardware clock.
const HARDWARE_CLOCK: &str = "/dev/rtc0";

/// The clocks at the edge: the machine's, or a test's.
pub trait Wall: std::fmt::Debug + Send + Sync {
    /// Seconds since 1970 that the system's clock shows.
    fn now(&self) -> i64;

    /// Seconds since the machine was started, which nobody can set.
    fn since_boot(&self) -> i64;

    /// Sets the system's clock.
    ///
    /// # Errors
    /// The kernel's.
    fn set(&self, seconds: i64) -> Result<()>;

    /// Notes what the system's clock rests on from now on.
    fn rests_on(&self, evidence: &Evidence);

    /// Sets the hardware clock, to UTC.
    ///
    /// # Errors
    /// There is none, or the driver's.
    fn set_hardware_clock(&self, seconds: i64) -> Result<()>;
}

/// The machine's.
#[derive(Debug)]
pub struct KernelWall;

impl Wall for KernelWall {
    fn now(&self) -> i64 {
        super::now()
    }

    fn since_boot(&self) -> i64 {
        // It cannot fail: the clock is there since Linux 2.6.39.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |since| since.tv_sec())
    }

    fn set(&self, seconds: i64) -> Result<()> {
        clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(seconds, 0)).context("setting the clock")
    }

    fn rests_on(&self, evidence: &Evidence) {
        *BASIS.write().unwrap_or_else(PoisonError::into_inner) = Some(evidence.to_string());
    }

    fn set_hardware_clock(&self, seconds: i64) -> Result<()> {
        let time = civil(seconds)?;
        let device = File::open(HARDWARE_CLOCK).with_context(|| format!("opening {HARDWARE_CLOCK}"))?;
        sys::set_hardware_clock(device.as_fd(), &time).with_context(|| format!("setting {HARDWARE_CLOCK}"))
    }
}

/// Date and time of day as drivers of hardware clocks take them.
fn civil(seconds: i64) -> Result<CivilTime> {
    let at = Timestamp::from_second(seconds).context("reading the time")?.to_zoned(TimeZone::UTC);
    Ok(CivilTime {
        second: at.second().into(),
        minute: at.minute().into(),
        hour: at.hour().into(),
        day: at.day().into(),
        month: libc::c_int::from(at.month()) - 1,
        year: libc::c_int::from(at.year()) - 1900,
        weekday: at.weekday().to_sunday_zero_offset().into(),
        day_of_year: libc::c_int::from(at.day_of_year()) - 1,
        summer: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drivers_time_counts_months_from_0_and_years_from_1900() {
        // 2028-02-29 23:59:58 UTC
        let time = civil(1_835_481_598).unwrap();
        let CivilTime { second, minute, hour, day, month, year, weekday, day_of_year, summer } = time;
        assert_eq!([second, minute, hour, day, month, year], [58, 59, 23, 29, 1, 128]);
        // A Tuesday.
        assert_eq!([weekday, day_of_year, summer], [2, 59, 0]);
        // struct rtc_time of linux/rtc.h has nine ints.
        assert_eq!(size_of::<CivilTime>(), 36);
    }

    #[test]
    fn what_is_no_clock_is_refused_by_the_kernel() {
        let null = File::open("/dev/null").unwrap();
        let error = sys::set_hardware_clock(null.as_fd(), &civil(0).unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "Inappropriate ioctl for device (os error 25)");
    }
}
