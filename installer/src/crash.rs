//! Power cuts. Whole installations are recorded, write by write, and the disk is rebuilt as a cut leaves it: right after each
//! flush, and with any of the writes since then missing or torn. Then it is judged what a machine does with that disk. A point
//! is good if a system comes up, or if nothing does and the installer, run once more, brings the machine to its end; where the
//! old system has a slot of its own, only the first counts.
//!
//! `make crashtest` looks at many points and writes `out/crash/result.json`; the tests here at some of them.

mod before;
mod chance;
mod cut;
mod entries;
mod epoch;
mod files;
mod foreign;
mod ghosts;
mod judge;
mod judging;
mod lived;
mod machines;
mod mtools;
mod points;
mod prepared;
mod releases;
mod runs;
mod scenario;
mod sysupdated;
mod tables;
mod tally;
mod verity;
mod walk;

use std::env;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::thread;

use judge::{Boot, Which};
use points::Effort;
use prepared::Prepared;
use releases::Releases;
use scenario::{Before, SCENARIOS, SECTOR_SIZES, Scenario};
use tally::Tally;

/// What the points are drawn with, unless `CRASHTEST_SEED` has another number.
const SEED: u64 = 1;
/// Some points, for every run of the tests.
const SOME: Effort = Effort { singles: 16, subsets: 60, reruns: 12, resumes: false };
/// Many of them, for `make crashtest`, unless `CRASHTEST_RERUNS` is `some`.
const MANY: Effort = Effort { singles: usize::MAX, subsets: 1200, reruns: 300, resumes: true };

/// The judge finds on the disk what the scenario says, and a finished disk is not written to.
fn prepare(scenario: Scenario, sector_size: u32) -> Prepared {
    let prepared = Prepared::new(Releases::new(scenario), sector_size);
    let (before, after) = prepared.before_and_after();
    let as_it_should_be = match scenario.before {
        Before::Nothing => matches!(before, Boot::Nothing(_)),
        Before::Old | Before::Sysupdated { .. } | Before::Remembered | Before::Foreign => {
            before == Boot::Starts(Which::Old)
        }
        Before::Damaged => matches!(before, Boot::Stuck(_)),
    };
    assert!(as_it_should_be, "{}: before the run {before:?}", scenario.name);
    assert_eq!(after, Boot::Starts(Which::New), "{}", scenario.name);
    assert!(prepared.leaves_the_finished_disk_alone(), "{}", scenario.name);
    prepared
}

fn survives(name: &str) {
    for sector_size in SECTOR_SIZES {
        let prepared = prepare(Scenario::named(name), sector_size);
        let tally = walk::walk(&prepared, SOME, SEED);
        tally.assert_none_is_lost();
        assert!(tally.flush_boundaries == prepared.epochs.len() && tally.new_boots > 0, "{tally:?}");
        assert!(tally.subsets >= 40, "{tally:?}");
        let (old, resumed) = if prepared.scenario.other_good_slot { (5, 0) } else { (0, 5) };
        assert!(tally.old_boots >= old && tally.resumed >= resumed, "{tally:?}");
    }
}

#[test]
fn a_fresh_installation_survives_a_power_cut_at_any_write() {
    survives("fresh");
}

#[test]
fn a_release_beside_another_one_survives_a_power_cut_at_any_write() {
    survives("reimage");
}

#[test]
fn a_fresh_installation_that_is_cut_anywhere_gives_way_to_another_release() {
    survives("fresh-then-another");
}

#[test]
fn a_release_beside_another_one_that_is_cut_anywhere_gives_way_to_a_third() {
    survives("reimage-then-another");
}

#[test]
fn an_older_release_beside_another_one_survives_a_power_cut_at_any_write() {
    survives("downgrade");
}

#[test]
fn a_release_by_an_intent_that_has_happened_survives_a_power_cut_at_any_write() {
    survives("reimage-remembered");
}

#[test]
fn a_release_beside_one_of_systemd_sysupdate_survives_a_power_cut_at_any_write() {
    survives("sysupdate");
}

#[test]
fn a_release_over_one_that_systemd_sysupdate_has_not_finished_survives_a_power_cut_at_any_write() {
    survives("sysupdate-cut");
}

#[test]
fn replacing_a_release_survives_a_power_cut_at_any_write() {
    survives("replace");
}

#[test]
fn a_repair_survives_a_power_cut_at_any_write() {
    survives("repair-in-place");
}

#[test]
fn replacing_a_release_in_the_only_slot_survives_a_power_cut_at_any_write() {
    survives("single-slot");
}

#[test]
fn wiping_a_foreign_system_survives_a_power_cut_at_any_write() {
    survives("wipe-foreign");
}

#[test]
#[ignore = "takes an hour: make crashtest"]
fn many_points_of_every_scenario_survive() {
    if let Ok(point) = env::var("CRASHTEST_POINT") {
        return walk::replay(&point);
    }
    let seed = seed();
    let only = env::var("CRASHTEST_SCENARIO").ok().map(|name| Scenario::named(&name));
    let scenarios = only.map_or_else(|| SCENARIOS.to_vec(), |scenario| vec![scenario]);
    let all = scenarios.into_iter().flat_map(|scenario| SECTOR_SIZES.map(|sector_size| (scenario, sector_size)));
    let effort = Effort { resumes: resumes(), ..MANY };
    let tallies = in_parallel(all.collect(), |(scenario, sector_size)| {
        let tally = walk::walk(&prepare(scenario, sector_size), effort, seed);
        println!("{tally:?}");
        tally
    });
    if only.is_some() {
        tally::replace_in_result(&tallies, seed);
    } else {
        tally::write_result(&tallies, seed);
    }
    tallies.iter().for_each(Tally::assert_none_is_lost);
    assert!(tallies.iter().all(|tally| tally.subsets >= 1000), "{tallies:?}");
    assert!(!effort.resumes || tallies.iter().all(|tally| tally.not_rerun == 0), "{tallies:?}");
}

#[test]
#[ignore = "needs the tiny targets that make crashtest makes"]
fn some_points_are_left_for_machines_to_boot() {
    machines::write(seed());
}

/// Whether the installer is run again wherever nothing starts: the default, which `CRASHTEST_RERUNS=some` shortens.
fn resumes() -> bool {
    match env::var("CRASHTEST_RERUNS").as_deref() {
        Err(env::VarError::NotPresent) => MANY.resumes,
        Ok("some") => false,
        other => panic!("CRASHTEST_RERUNS is \"some\" or not set, not {other:?}"),
    }
}

fn seed() -> u64 {
    env::var("CRASHTEST_SEED").map_or(SEED, |seed| seed.parse().unwrap())
}

/// Does all jobs on all processors; what comes of them is in their order.
fn in_parallel<J: Send, T: Send>(jobs: Vec<J>, work: impl Fn(J) -> T + Sync) -> Vec<T> {
    let jobs = Mutex::new(jobs.into_iter().enumerate());
    let worker = || {
        let next = || jobs.lock().unwrap().next();
        std::iter::from_fn(next).map(|(number, job)| (number, work(job))).collect::<Vec<_>>()
    };
    let mut done: Vec<(usize, T)> = thread::scope(|scope| {
        let count = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers: Vec<_> = (0..count).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}
