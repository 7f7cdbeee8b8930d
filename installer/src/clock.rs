//! The clock floor: a machine with a dead or wrong clock must still be able to check a certificate.
//!
//! The time of the system is never believed to be before the time the netboot image was built. A time that is too late
//! cannot be told from a true one here; it shows as an expired certificate, whose message names the clock.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};

/// The time the netboot image was built: decimal seconds since 1970, as text. Written by the image's builder.
pub const BUILD_TIME: &str = "/etc/metalstrap/build-time";
/// Later than this (the first second of 2100) no clock is right: said, not changed.
const ABSURD: i64 = 4_102_444_800;

/// What was found and done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReport {
    /// Seconds since 1970 that the clock showed.
    pub was: i64,
    /// Seconds since 1970 it was set to; `None`: left alone.
    pub set_to: Option<i64>,
}

impl ClockReport {
    /// A sentence for the event, or nothing where the clock is plausible.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self.set_to {
            Some(floor) => {
                Some(format!("the clock showed {}, before this image was built; set to {}", utc(self.was), utc(floor)))
            }
            None if self.was >= ABSURD => {
                Some(format!("the clock shows {}, which cannot be right; left as it is", utc(self.was)))
            }
            None => None,
        }
    }
}

/// Sets the system's clock to the time of [`BUILD_TIME`] if it shows an earlier one. Without that file: does nothing.
///
/// # Errors
/// When the file holds no number, or the clock cannot be set.
pub fn set_floor() -> Result<ClockReport> {
    let set = |floor| clock_settime(ClockId::CLOCK_REALTIME, TimeSpec::new(floor, 0)).context("setting the clock");
    raise(Path::new(BUILD_TIME), now(), set)
}

/// The rule, with the clock at its edges.
fn raise(file: &Path, now: i64, set: impl FnOnce(i64) -> Result<()>) -> Result<ClockReport> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(ClockReport { was: now, set_to: None });
        }
        read => read.with_context(|| format!("reading {}", file.display()))?,
    };
    let floor: i64 = text.trim().parse().with_context(|| format!("reading {} as seconds", file.display()))?;
    if now >= floor {
        return Ok(ClockReport { was: now, set_to: None });
    }
    set(floor)?;
    Ok(ClockReport { was: now, set_to: Some(floor) })
}

/// Seconds since 1970 that the system's clock shows; negative before.
#[must_use]
pub fn now() -> i64 {
    let whole = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(after) => whole(after.as_secs()),
        Err(before) => whole(before.duration().as_secs()).saturating_neg(),
    }
}

/// Seconds since 1970 as a person reads them: `2026-11-21 08:15:00 UTC`. Gregorian calendar throughout.
#[must_use]
pub fn utc(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days are counted from 0000-03-01, so that the leap day ends a year; 400 years have 146097 days.
    let shifted = days.saturating_add(719_468);
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Months from March have 31 30 31 30 31 days again and again: 153 in five.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC", rest / 3_600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raised(text: &str, now: i64) -> (Result<ClockReport>, Option<i64>) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let mut set = None;
        let report = raise(file.path(), now, |to| {
            set = Some(to);
            Ok(())
        });
        (report, set)
    }

    #[test]
    fn a_clock_before_the_floor_is_set() {
        let (report, set) = raised("1795248000\n", 946_684_800);
        let report = report.unwrap();
        assert_eq!((set, report.set_to, report.was), (Some(1_795_248_000), Some(1_795_248_000), 946_684_800));
        assert_eq!(
            report.text().unwrap(),
            "the clock showed 2000-01-01 00:00:00 UTC, before this image was built; set to 2026-11-21 08:00:00 UTC"
        );
    }

    #[test]
    fn a_later_clock_stays_and_an_absurd_one_is_said() {
        let (report, set) = raised("1795248000", 1_795_248_000);
        assert_eq!((report.unwrap().text(), set), (None, None));
        let (report, set) = raised("1795248000", 4_102_444_800);
        assert_eq!(
            (report.unwrap().text().as_deref(), set),
            (Some("the clock shows 2100-01-01 00:00:00 UTC, which cannot be right; left as it is"), None)
        );
    }

    #[test]
    fn no_file_means_no_floor_and_nonsense_is_named() {
        let report = raise(Path::new("/nonexistent/build-time"), 5, |_| panic!("nothing to set")).unwrap();
        assert_eq!(report, ClockReport { was: 5, set_to: None });
        let error = format!("{:#}", raised("soon", 5).0.unwrap_err());
        assert!(error.ends_with("as seconds: invalid digit found in string"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn utc_agrees_with_date(seconds in -60_000_000_000_i64..250_000_000_000) {
            let date = std::process::Command::new("date")
                .args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%d %H:%M:%S UTC"])
                .output()
                .unwrap();
            let date = String::from_utf8(date.stdout).unwrap();
            proptest::prop_assert_eq!(date.trim(), utc(seconds));
        }
    }
}
