//! The machine's clock in the netboot image: a machine whose clock is dead or wrong must still be able to check a certificate.
//!
//! [`evidence`] has the rules, `docs/time.md` the reasons. What is set is the system's clock, by which certificates and
//! metadata are judged. A clock of a running system that the installer is an ordinary command on is not touched.

pub mod evidence;
pub mod server_date;
mod wall;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

use crate::ntp::{self, Heard, Patience};
use evidence::{Evidence, Judged, Local, Weighed, for_hardware_clock};
use server_date::Server;
pub use wall::{KernelWall, Wall};

/// The time the netboot image was built: decimal seconds since 1970, as text. Written by the image's builder.
pub const BUILD_TIME: &str = "/etc/metalstrap/build-time";
/// What the machine's clock shows by itself, as seconds to add to those since boot: kept for a later run of the same boot,
/// which must not take a clock that was set by the network for the machine's own.
const OWN: &str = "/run/metalstrap/clock";
/// Seconds that a clock may be off before it is set.
const OFF: u64 = 2;

/// What the system's clock rests on, for [`shown`].
static BASIS: RwLock<Option<String>> = RwLock::new(None);

/// The clock of a machine that is ours.
#[derive(Debug)]
pub struct Clock {
    wall: Box<dyn Wall>,
    /// The floor, where there is one, and the seconds since boot when it was read: it rises as time passes.
    floor: Option<(i64, i64)>,
    /// To be added to the seconds since boot: what the machine's clock would show if nobody had set it.
    own: i64,
    judged: Judged,
    /// NTP's time less the seconds since boot.
    ntp: Option<i64>,
}

/// What came of asking the network.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The time servers, and what each said.
    pub heard: Vec<Heard>,
    /// The HTTPS server and what its `Date` header said, where it was asked.
    pub date: Option<(String, Result<i64, String>)>,
    /// A sentence for each thing that a person should know.
    pub warnings: Vec<String>,
}

impl Clock {
    /// Reads [`BUILD_TIME`] and what the machine's clock shows, and sets the system's clock to the former where the latter
    /// cannot be right. Without that file the machine's own clock counts, whatever it shows.
    ///
    /// # Errors
    /// When the file holds no number, or the clock cannot be set.
    pub fn start() -> Result<Self> {
        Self::start_with(Box::new(KernelWall), Path::new(BUILD_TIME), Path::new(OWN))
    }

    /// The same with the files and the machine's clock at its edges.
    fn start_with(wall: Box<dyn Wall>, build_time: &Path, kept: &Path) -> Result<Self> {
        let since_boot = wall.since_boot();
        let floor = read_seconds(build_time)?.map(|floor| (floor, since_boot));
        let own = own(kept, wall.now().saturating_sub(since_boot));
        let judged = Judged { time: 0, by: Evidence::HardwareClock };
        let mut clock = Self { wall, floor, own, judged, ntp: None };
        clock.adopt(clock.local().alone())?;
        Ok(clock)
    }

    /// A floor from elsewhere counts where it is later.
    pub fn raise_floor(&mut self, floor: i64) {
        if self.floor.is_none_or(|_| self.local().floor < floor) {
            self.floor = Some((floor, self.wall.since_boot()));
        }
    }

    /// What the machine knows by itself now.
    #[must_use]
    pub fn local(&self) -> Local {
        let since_boot = self.wall.since_boot();
        let own = self.own.saturating_add(since_boot);
        let risen = |(floor, at): (i64, i64)| floor.saturating_add(since_boot.saturating_sub(at));
        Local { floor: self.floor.map_or(own, risen), own }
    }

    /// What the clock is judged by, and the time by it when it was set.
    #[must_use]
    pub fn judged(&self) -> &Judged {
        &self.judged
    }

    /// Asks the time servers, in groups of which the first that agrees on a time counts; where none does and the hardware
    /// clock is dead, the HTTPS server. Sets the clock by what may be believed. Bounded, whatever they do.
    ///
    /// # Errors
    /// The clock cannot be set.
    pub async fn ask(&mut self, groups: &[Vec<SocketAddr>], server: &Server<'_>, patience: Patience) -> Result<Asked> {
        let mut all: Vec<SocketAddr> = Vec::new();
        groups.iter().flatten().for_each(|server| {
            if !all.contains(server) {
                all.push(*server);
            }
        });
        let heard = ntp::ask(&all, self.local().floor, patience).await;
        let mut asked = Asked { heard, ..Asked::default() };
        for group in groups {
            let said = |heard: &Heard| Some((heard.server.ip().to_string(), *heard.said.as_ref().ok()?));
            let of_group = asked.heard.iter().filter(|heard| group.contains(&heard.server));
            let said: Vec<(String, i64)> = of_group.filter_map(said).collect();
            let Weighed { agreed, warnings } = self.local().weigh(&said);
            asked.warnings.extend(warnings);
            if let Some((time, servers)) = agreed {
                self.ntp = Some(time.saturating_sub(self.wall.since_boot()));
                asked.warnings.extend(self.consider(time, Evidence::Ntp(servers))?);
                return Ok(asked);
            }
        }
        let local = self.local();
        self.adopt(local.alone())?;
        if !local.plausible() {
            self.ask_server(server, &mut asked).await?;
        }
        Ok(asked)
    }

    /// Asks the HTTPS server, unless time servers have agreed on a time or it was believed already. Returns whether the clock
    /// was moved on.
    ///
    /// # Errors
    /// The clock cannot be set.
    pub async fn ask_server(&mut self, server: &Server<'_>, asked: &mut Asked) -> Result<bool> {
        if self.ntp.is_some() || matches!(self.judged.by, Evidence::ServerDate(_)) {
            return Ok(false);
        }
        let from = self.local().alone().time;
        let (name, said) = (server.name(), server.date(from).await);
        asked.date = Some((name.clone(), said.as_ref().copied().map_err(|error| format!("{error:#}"))));
        if let Ok(said) = said {
            asked.warnings.extend(self.consider(said, Evidence::ServerDate(name))?);
        }
        Ok(matches!(self.judged.by, Evidence::ServerDate(_)))
    }

    /// Takes what the network said as far as the rules let it.
    fn consider(&mut self, said: i64, by: Evidence) -> Result<Option<String>> {
        let (judged, warning) = self.local().with(said, by);
        self.adopt(judged)?;
        Ok(warning)
    }

    fn adopt(&mut self, judged: Judged) -> Result<()> {
        let now = self.wall.now();
        if now < judged.time || now.abs_diff(judged.time) >= OFF {
            self.wall.set(judged.time)?;
        }
        self.wall.rests_on(&judged.by);
        self.judged = judged;
        Ok(())
    }

    /// Sets the hardware clock, where it is off: to what it was and is set to, in seconds since 1970.
    ///
    /// # Errors
    /// There is none, or it cannot be set.
    pub fn set_hardware_clock(&self) -> Result<Option<(i64, i64)>> {
        let ntp = self.ntp.map(|ntp| ntp.saturating_add(self.wall.since_boot()));
        let right = for_hardware_clock(self.wall.now(), ntp);
        let own = self.local().own;
        if own.abs_diff(right) < OFF {
            return Ok(None);
        }
        self.wall.set_hardware_clock(right)?;
        Ok(Some((own, right)))
    }
}

/// The number in a file; `None`: it is not there.
fn read_seconds(file: &Path) -> Result<Option<i64>> {
    let text = match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        read => read.with_context(|| format!("reading {}", file.display()))?,
    };
    text.trim().parse().map(Some).with_context(|| format!("reading {} as seconds", file.display()))
}

/// What an earlier run of this boot has kept, else `found`, which is kept.
fn own(kept: &Path, found: i64) -> i64 {
    if let Ok(Some(own)) = read_seconds(kept) {
        return own;
    }
    let keep =
        || kept.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(kept, found.to_string()));
    if let Err(error) = keep() {
        log::warn!("keeping what the clock shows in {}: {error}", kept.display());
    }
    found
}

/// Seconds since 1970 for a message about a certificate or metadata: with what the clock rests on, where that is known.
#[must_use]
pub fn shown(seconds: i64) -> String {
    format!("{}{}", utc(seconds), basis())
}

/// ` (by …)`: what the system's clock rests on; nothing where it is not ours.
#[must_use]
pub fn basis() -> String {
    let basis = BASIS.read().unwrap_or_else(PoisonError::into_inner);
    basis.as_ref().map_or_else(String::new, |basis| format!(" (by {basis})"))
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
pub(crate) mod tests;
