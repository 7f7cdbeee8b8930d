//! A scenario with its run done and recorded, and what becomes of a disk that a cut of that run leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use metalstrap_release::digest::Digest;

use super::before::Start;
use super::cut::Cut;
use super::epoch::{Epoch, epochs};
use super::ghosts::Ghosts;
use super::judge::{self, Boot, Judge, Which};
use super::lived::Kept;
use super::releases::{Releases, sealed};
use super::runs::{Runs, pages, show};
use super::scenario::{Before, REMEMBERED, Scenario};
use super::tables;
use crate::disk::{Disk, Memory, Recorded};

const PAGE: u64 = 4096;

/// What becomes of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    Starts(Which),
    /// Nothing started, and a second run of the installer has mended that.
    Resumed,
    /// Nothing started, and the second run was not tried.
    NotRerun,
    Lost(String),
}

/// When the installer is run once more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    Always,
    WhereNothingStarts,
    Never,
}

/// What a second run installs, where that is another release.
#[derive(Debug)]
struct Next {
    runs: Runs,
    /// What its OS finds.
    credentials: BTreeMap<String, Vec<u8>>,
}

/// A scenario at one sector size, with its run done.
#[derive(Debug)]
pub struct Prepared {
    pub scenario: Scenario,
    pub sector_size: u32,
    /// What the run wrote.
    pub epochs: Vec<Epoch>,
    pub judge: Judge,
    /// The disk before the run.
    pub start: Memory,
    /// The disk after it.
    pub end: Arc<dyn Disk>,
    /// All pages of it that are other than zero, or were.
    pages: BTreeSet<u64>,
    kept: Option<Kept>,
    /// The UKIs that had names before the run.
    named: BTreeSet<Digest>,
    pub ghosts: Ghosts,
    /// What an OS finds that starts before the run, and after it.
    credentials: [BTreeMap<String, Vec<u8>>; 2],
    runs: Runs,
    next: Option<Next>,
}

impl Prepared {
    /// Runs the installer once.
    pub fn new(releases: Releases, sector_size: u32) -> Self {
        let Start { disk: start, mut pages, judge, kept, ghosts } = Start::new(&releases, sector_size);
        let Releases { scenario, new, next, .. } = releases;
        let is_known = scenario.before == Before::Remembered;
        let runs = Runs::new(new, scenario.mode).remembering(if is_known { &[REMEMBERED] } else { &[] });
        let end: Arc<dyn Disk> = Arc::new(start.clone());
        let outcome = runs.run(&end, &pages);
        outcome.result.unwrap();
        pages.extend(self::pages(&outcome.log));
        let before: Arc<dyn Disk> = Arc::new(start.clone());
        let credentials = [&before, &end].map(|disk| judge::credentials(disk).unwrap_or_default());
        let wanted = |version: &str| -> BTreeMap<String, Vec<u8>> {
            sealed(version).into_iter().map(|one| (one.file(), one.bytes)).collect()
        };
        assert_eq!(credentials[1], wanted("2"), "{}", scenario.name);
        let next =
            next.map(|next| Next { credentials: wanted(&next.manifest.version), runs: Runs::new(next, scenario.mode) });
        let named = judge::named(&before).into_iter().filter_map(|(_, digest)| digest).collect();
        let epochs = epochs(&outcome.log);
        Self { scenario, sector_size, epochs, judge, start, end, pages, kept, named, ghosts, credentials, runs, next }
    }

    /// The disk that `cut` leaves.
    pub fn left_by(&self, cut: &Cut) -> Arc<dyn Disk> {
        let flushed = Arc::new(self.start.clone());
        self.epochs[..cut.flushes].iter().for_each(|epoch| epoch.apply(flushed.as_ref()));
        cut.leave(&flushed, &self.epochs[cut.flushes])
    }

    /// Writes `disk` to a sparse file.
    pub fn write_image(&self, disk: &dyn Disk, path: &Path) {
        fs::File::create(path).unwrap().set_len(disk.size()).unwrap();
        show(disk, &self.pages, path);
    }

    /// What the judge says of the disk before the run and after it.
    pub fn before_and_after(&self) -> (Boot, Boot) {
        let start: Arc<dyn Disk> = Arc::new(self.start.clone());
        (self.judge.boot(&start), self.judge.boot(&self.end))
    }

    /// Whether the table at the end of the disk is all that is left of it while another release is wanted: then the installer is
    /// run on it again, as few points as these are.
    pub fn has_half_a_table(&self, disk: &Arc<dyn Disk>) -> bool {
        let disk = disk.as_ref();
        self.next.is_some() && tables::linux(disk, "").is_none() && tables::firmware(disk).is_some()
    }

    /// What becomes of a machine with this disk, and why nothing starts from it, where nothing does. The installer is run
    /// on it again if `again` says so. Firmware may mend a damaged copy of the partition table before it does anything else,
    /// or not, so both must be good.
    pub fn fate(&self, disk: &Arc<dyn Disk>, again: Again) -> (Fate, Option<&'static str>) {
        if let Some(mended) = tables::mended(disk)
            && let (Fate::Lost(why), _) = self.fate_of(&mended, again)
        {
            return (Fate::Lost(format!("once firmware has mended the partition table: {why}")), None);
        }
        self.fate_of(disk, again)
    }

    fn fate_of(&self, disk: &Arc<dyn Disk>, again: Again) -> (Fate, Option<&'static str>) {
        let (fate, why) = match self.judge.boot(disk) {
            Boot::Starts(which) => (Fate::Starts(which), None),
            Boot::Nothing(why) => (Fate::Resumed, Some(why)),
            Boot::NoUki => (Fate::Resumed, Some("a boot loader without a UKI")),
            // It did not come up before either; what was right then must be so still.
            Boot::Stuck(_) if self.scenario.before == Before::Damaged && self.spares_what_is_right(disk) => {
                (Fate::Resumed, Some("damaged as before"))
            }
            Boot::Stuck(why) => return (Fate::Lost(why), None),
        };
        let checked = match fate {
            Fate::Resumed if self.scenario.other_good_slot => Err(why.unwrap_or_default().to_owned()),
            Fate::Starts(which) => self.check_started(which, disk),
            _ => self.check_kept(disk.as_ref()),
        };
        let rerun = again == Again::Always || (again == Again::WhereNothingStarts && fate == Fate::Resumed);
        match (checked, fate) {
            (Err(why), _) => (Fate::Lost(why), None),
            (Ok(()), fate) if rerun => (self.run_again(disk).map_or_else(Fate::Lost, |()| fate), why),
            (Ok(()), Fate::Resumed) => (Fate::NotRerun, why),
            (Ok(()), fate) => (fate, why),
        }
    }

    /// Whether nothing is missing or left over that the system would miss or meet.
    fn check_started(&self, which: Which, disk: &Arc<dyn Disk>) -> Result<(), String> {
        self.check_kept(disk.as_ref())?;
        if self.judge.foreign.is_none() || which == Which::New {
            self.judge.check_named(disk, &self.named, self.fallbacks(which))?;
        }
        if self.kept.as_ref().is_some_and(|kept| !kept.is_found(disk.as_ref())) {
            return Err("what is to be kept is not in the partition table".to_owned());
        }
        if which == Which::New && self.ghosts.haunt(disk.as_ref()) {
            return Err("superblocks of an earlier use of the disk are left".to_owned());
        }
        match (&self.judge.foreign, which) {
            // It knows nothing of credentials.
            (Some(_), Which::Old) => return Ok(()),
            (Some(foreign), Which::New) if foreign.haunts(disk.as_ref()) => {
                return Err("signatures of the old system are left".to_owned());
            }
            _ => {}
        }
        let (found, [before, after]) = (judge::credentials(disk), &self.credentials);
        let after = self.next.as_ref().filter(|_| which == Which::Next).map_or(after, |next| &next.credentials);
        // The old system may meet what the new host config says; all of it or nothing.
        let is_whole = found.is_some_and(|found| found == *after || (which == Which::Old && found == *before));
        is_whole.then_some(()).ok_or_else(|| "it finds other credentials than those of one host config".to_owned())
    }

    /// The systems of which one must come up too where this one does.
    fn fallbacks(&self, which: Which) -> &'static [Which] {
        match which {
            _ if !self.scenario.other_good_slot => &[],
            Which::Next => &[Which::Old, Which::New],
            Which::Old | Which::New => &[Which::Old],
        }
    }

    fn check_kept(&self, disk: &dyn Disk) -> Result<(), String> {
        let whole = self.kept.as_ref().is_none_or(|kept| kept.is_whole(disk));
        whole.then_some(()).ok_or_else(|| "what is to be kept was written to".to_owned())
    }

    /// Runs the installer once more, which must end with the system that is wanted by then.
    fn run_again(&self, disk: &Arc<dyn Disk>) -> Result<(), String> {
        let (runs, wanted) = self.next.as_ref().map_or((&self.runs, Which::New), |next| (&next.runs, Which::Next));
        let outcome = runs.run(disk, &self.pages);
        outcome.result.map_err(|error| format!("a second run fails: {error:#}"))?;
        let after = |why: String| format!("after a second run: {why}");
        match self.judge.boot(disk) {
            Boot::Starts(which) if which == wanted => self.check_started(which, disk).map_err(after),
            other => Err(after(format!("{other:?}"))),
        }
    }

    /// Whether a run writes nothing to the disk that it has finished.
    pub fn leaves_the_finished_disk_alone(&self) -> bool {
        let outcome = self.runs.run(&self.end, &self.pages);
        outcome.result.unwrap();
        outcome.log.iter().all(|what| *what == Recorded::Flush)
    }

    /// Whether every page that was right before the run is so on `disk`.
    fn spares_what_is_right(&self, disk: &Arc<dyn Disk>) -> bool {
        self.pages.iter().all(|page| {
            let [before, after, now] = [&self.start as &dyn Disk, self.end.as_ref(), disk.as_ref()].map(|disk| {
                let mut bytes = [0; 4096];
                disk.read_at(page * PAGE, &mut bytes).unwrap();
                bytes
            });
            before != after || now == after
        })
    }
}
