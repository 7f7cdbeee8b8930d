//! What is installed over what. A scenario more is a line of [`SCENARIOS`] and, where the disk before it is a new one, a case
//! of [`super::before`].

use metalstrap_release::host::{Existing, Mode};

pub const SECTOR_SIZES: [u32; 2] = [512, 4096];

/// What is on the disk before the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    Nothing,
    /// The other release, which has run.
    Old,
    /// A release that has run, and the other one beside it, which systemd-sysupdate has put there; `cut` soon after.
    Sysupdated {
        cut: bool,
    },
    /// The release itself, which has run, with damaged blocks.
    Damaged,
    /// A release that has run, and the other one beside it: both by the intent that is wanted again, as disk and machine know.
    Remembered,
    /// A system that this installer has not made.
    Foreign,
}

/// A run of the installer that is cut at every point.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    pub before: Before,
    /// Version of the other release; the one that is installed is 2.
    pub old: &'static str,
    pub slots: u32,
    pub mode: Mode,
    pub existing: Existing,
    /// Whether /var must stay as it is.
    pub keeps: bool,
    /// Whether the old system has superblocks of an earlier use of the disk, at the end of a partition that it has grown and at that
    /// of the disk. What it made behind the slots is not there then, so nothing is kept.
    pub has_ghosts: bool,
    /// Whether the old system has a slot of its own that stays as it is: then one of both starts at every point, and a
    /// second run does not count.
    pub other_good_slot: bool,
    /// Whether a second run has another host config by then, which names a third release, version 3.
    pub then_another: bool,
}

const FRESH: Scenario = Scenario {
    name: "fresh",
    before: Before::Nothing,
    old: "1",
    slots: 2,
    mode: Mode::Install,
    existing: Existing::Keep,
    keeps: false,
    has_ghosts: false,
    other_good_slot: false,
    then_another: false,
};

/// Another release has run, in a slot of its own that stays.
const REIMAGE: Scenario =
    Scenario { name: "reimage", before: Before::Old, keeps: true, other_good_slot: true, ..FRESH };

/// The intent of all that is installed where it is [`Before::Remembered`].
pub const REMEMBERED: &str = "once";

pub const SCENARIOS: [Scenario; 12] = [
    FRESH,
    REIMAGE,
    Scenario { name: "fresh-then-another", then_another: true, ..FRESH },
    Scenario { name: "reimage-then-another", then_another: true, ..REIMAGE },
    Scenario { name: "downgrade", old: "3", ..REIMAGE },
    // The first release gives way, and the one of systemd-sysupdate stays.
    Scenario { name: "sysupdate", before: Before::Sysupdated { cut: false }, ..REIMAGE },
    // The first release is all that starts, and stays.
    Scenario { name: "sysupdate-cut", before: Before::Sysupdated { cut: true }, ..REIMAGE },
    // What may be wiped once has been: all goes on as if nothing might be.
    Scenario { name: "reimage-remembered", before: Before::Remembered, existing: Existing::Wipe, ..REIMAGE },
    // The old release has a slot of its own here, but a disk that may be wiped is replaced as a whole: its ESP goes first. So
    // there is a time when nothing starts.
    Scenario { name: "replace", before: Before::Old, existing: Existing::Wipe, has_ghosts: true, ..FRESH },
    Scenario { name: "repair-in-place", before: Before::Damaged, mode: Mode::Repair, keeps: true, ..FRESH },
    Scenario { name: "single-slot", before: Before::Old, slots: 1, keeps: true, ..FRESH },
    Scenario { name: "wipe-foreign", before: Before::Foreign, existing: Existing::Wipe, ..FRESH },
];

impl Scenario {
    /// The one with this name.
    pub fn named(name: &str) -> Self {
        let found = SCENARIOS.into_iter().find(|scenario| scenario.name == name);
        found.unwrap_or_else(|| panic!("there is no scenario {name:?}"))
    }
}
