//! What the clock may rest on: the rules, without a clock or a network. `docs/time.md` says why they are these.
//!
//! Times are seconds since 1970.

use std::fmt;

use super::utc;

/// No clock is right that is so much later than the image was built: 10 years.
pub const WINDOW: i64 = 3653 * DAY;
/// What the hardware clock and the network may be apart before somebody is told.
pub const DAY: i64 = 86_400;
/// What time servers may be apart and still agree.
const AGREE: i64 = 10;

/// What this machine knows by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Local {
    /// Before this time it cannot be.
    pub floor: i64,
    /// What the machine's clock shows that nobody here has set.
    pub own: i64,
}

/// What a clock rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// The time the image was built, and the time that has passed since it was started: it is that late at least.
    BuildTime,
    /// The hardware clock.
    HardwareClock,
    /// These NTP servers.
    Ntp(Vec<String>),
    /// The `Date` header of this HTTPS server.
    ServerDate(String),
}

impl Evidence {
    /// Its name in events.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::BuildTime => "build-time",
            Self::HardwareClock => "hardware-clock",
            Self::Ntp(_) => "ntp",
            Self::ServerDate(_) => "server-date",
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuildTime => f.write_str("the time this image was built"),
            Self::HardwareClock => f.write_str("the hardware clock"),
            Self::Ntp(servers) => write!(f, "NTP of {}", servers.join(" and ")),
            Self::ServerDate(server) => write!(f, "the date that {server} sends"),
        }
    }
}

/// The time as it is judged, and by what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Seconds since 1970.
    pub time: i64,
    /// What it rests on.
    pub by: Evidence,
}

/// What the network said, weighed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Weighed {
    /// The time that is believed as far as the rules of [`Local::with`] go, and who says so.
    pub agreed: Option<(i64, Vec<String>)>,
    /// A sentence for each thing that a person should know.
    pub warnings: Vec<String>,
}

impl Local {
    /// Whether the hardware clock can be right.
    #[must_use]
    pub fn plausible(&self) -> bool {
        (self.floor..=self.floor.saturating_add(WINDOW)).contains(&self.own)
    }

    /// The time without the network: the hardware clock's where that can be right, else the earliest that it can be.
    #[must_use]
    pub fn alone(&self) -> Judged {
        if self.plausible() {
            Judged { time: self.own, by: Evidence::HardwareClock }
        } else {
            Judged { time: self.floor, by: Evidence::BuildTime }
        }
    }

    /// A sentence about a hardware clock that cannot be right.
    #[must_use]
    pub fn complaint(&self) -> Option<String> {
        let when = if self.own < self.floor { BEFORE } else { AFTER };
        let (own, floor) = (utc(self.own), utc(self.floor));
        (!self.plausible()).then(|| format!("the hardware clock showed {own}, {when}; the clock is set to {floor}"))
    }

    /// Why it cannot be `time`; a clock by which the image is built may be a day fast.
    fn impossible(&self, time: i64) -> Option<&'static str> {
        if time < self.floor.saturating_sub(DAY) {
            Some(BEFORE)
        } else if time > self.floor.saturating_add(WINDOW) {
            Some(AFTER)
        } else {
            None
        }
    }

    /// What more than half of the time servers agree on, of those that say something possible.
    #[must_use]
    pub fn weigh(&self, heard: &[(String, i64)]) -> Weighed {
        let mut warnings = Vec::new();
        let mut possible: Vec<&(String, i64)> = Vec::new();
        for said in heard {
            match self.impossible(said.1) {
                Some(why) => warnings.push(disbelieved(&format!("the time server {}", said.0), said.1, why)),
                None => possible.push(said),
            }
        }
        possible.sort_by_key(|(_, time)| *time);
        let near = |from: i64, time: i64| (from..=from.saturating_add(AGREE)).contains(&time);
        let with = |(_, from): &(String, i64)| possible.iter().filter(|(_, time)| near(*from, *time)).count();
        let largest = possible.iter().max_by_key(|said| with(said));
        let majority = largest.filter(|said| with(said).saturating_mul(2) > possible.len());
        let Some(&&(_, from)) = majority else {
            if possible.len() > 1 {
                let all: Vec<String> =
                    possible.iter().map(|(name, time)| format!("{name} says {}", utc(*time))).collect();
                warnings.push(format!("the time servers do not agree, and none is believed: {}", all.join(", ")));
            }
            return Weighed { agreed: None, warnings };
        };
        let (agreeing, others): (Vec<_>, Vec<_>) = possible.iter().partition(|(_, time)| near(from, *time));
        let disagrees = |(name, time): &&(String, i64)| disbelieved(&format!("the time server {name}"), *time, OTHERS);
        warnings.extend(others.into_iter().map(disagrees));
        // The middle one of them; of an even number, the earlier.
        let middle = agreeing.get(agreeing.len().saturating_sub(1) / 2).map_or(from, |(_, time)| *time);
        let names = agreeing.into_iter().map(|(name, _)| name.clone()).collect();
        Weighed { agreed: Some((middle, names)), warnings }
    }

    /// The time where the network says that it is `said`: nobody has signed that, so it moves the clock on or leaves it,
    /// and never takes it back behind what the machine knows by itself. With a sentence that a person should know.
    #[must_use]
    pub fn with(&self, said: i64, by: Evidence) -> (Judged, Option<String>) {
        let alone = self.alone();
        if let Some(why) = self.impossible(said) {
            return (alone, Some(disbelieved(&by.to_string(), said, why)));
        }
        let apart = self.plausible() && said.abs_diff(self.own) > DAY.unsigned_abs();
        let warning = apart.then(|| {
            let (own, said) = (utc(self.own), utc(said));
            format!("the hardware clock shows {own}, and {by} says {said}: the later one counts")
        });
        (if said > alone.time { Judged { time: said, by } } else { alone }, warning)
    }
}

const BEFORE: &str = "before this image was built";
const AFTER: &str = "more than 10 years after this image was built";
const OTHERS: &str = "unlike most of them";

fn disbelieved(who: &str, time: i64, why: &str) -> String {
    format!("{who} says {}, {why}: it is not believed", utc(time))
}

/// What the hardware clock is set to at the end of an installation by a clock that shows `now`: what NTP said (`ntp`) if that
/// is within a day, else the clock. So a hardware clock that shows local time is put right, and a lie can take it back by no
/// more than a day.
#[must_use]
pub fn for_hardware_clock(now: i64, ntp: Option<i64>) -> i64 {
    ntp.filter(|ntp| ntp.abs_diff(now) <= DAY.unsigned_abs()).unwrap_or(now)
}

#[cfg(test)]
mod tests;
