//! How many points ended how.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};

use super::cut::Cut;
use super::epoch::Epoch;
use super::judge::Which;
use super::prepared::Fate;
use super::scenario::Scenario;

/// Lost points that are listed one by one.
const LISTED: usize = 20;

/// The points of one scenario at one sector size.
#[derive(Debug, Serialize)]
pub struct Tally {
    name: &'static str,
    sector_size: u32,
    other_good_slot: bool,
    pub points: usize,
    /// Of them: right after a flush, without a single write, and any other subset.
    pub flush_boundaries: usize,
    pub single_writes: usize,
    pub subsets: usize,
    pub old_boots: usize,
    pub new_boots: usize,
    pub resumed: usize,
    /// Nothing started, and whether a second run mends that was not tried.
    pub not_rerun: usize,
    pub lost: usize,
    /// Why nothing started, where nothing did.
    nothing_starts: BTreeMap<&'static str, usize>,
    #[serde(skip)]
    losses: Vec<String>,
}

impl Tally {
    pub fn new(scenario: &Scenario, sector_size: u32) -> Self {
        Self {
            name: scenario.name,
            sector_size,
            other_good_slot: scenario.other_good_slot,
            points: 0,
            flush_boundaries: 0,
            single_writes: 0,
            subsets: 0,
            old_boots: 0,
            new_boots: 0,
            resumed: 0,
            not_rerun: 0,
            lost: 0,
            nothing_starts: BTreeMap::new(),
            losses: Vec::new(),
        }
    }

    /// Counts a point.
    pub fn count(&mut self, cut: &Cut, epoch: &Epoch, fate: Fate, why: Option<&'static str>) {
        self.points += 1;
        *match (cut.is_boundary(epoch), cut.torn, cut.lost.len()) {
            (true, ..) => &mut self.flush_boundaries,
            (false, None, 1) => &mut self.single_writes,
            (false, ..) => &mut self.subsets,
        } += 1;
        if let Some(why) = why {
            *self.nothing_starts.entry(why).or_default() += 1;
        }
        *match fate {
            Fate::Starts(Which::Old) => &mut self.old_boots,
            Fate::Starts(Which::New | Which::Next) => &mut self.new_boots,
            Fate::Resumed => &mut self.resumed,
            Fate::NotRerun => &mut self.not_rerun,
            Fate::Lost(why) => {
                self.losses.push(format!("{}/{}/{cut}: {why}", self.name, self.sector_size));
                &mut self.lost
            }
        } += 1;
    }

    /// Fails with the points that were lost.
    pub fn assert_none_is_lost(&self) {
        let listed: Vec<_> = self.losses.iter().take(LISTED).map(String::as_str).collect();
        assert!(
            listed.is_empty(),
            "{} of {} points of {} with sectors of {} bytes are lost; CRASHTEST_POINT=… make crashtest shows one:\n{}",
            self.lost,
            self.points,
            self.name,
            self.sector_size,
            listed.join("\n")
        );
    }
}

/// `out/crash/result.json`.
fn result_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../out/crash/result.json")
}

/// Writes `out/crash/result.json`.
pub fn write_result(tallies: &[Tally], seed: u64) {
    let path = result_path();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let lost: usize = tallies.iter().map(|tally| tally.lost).sum();
    // No point is booted in a virtual machine yet.
    let result = json!({"scenarios": tallies, "seed": seed, "booted_in_vm": 0, "judge_disagreed": 0, "lost": lost});
    write(&path, &result);
}

/// Replaces the scenario of `tallies` in `out/crash/result.json`, if that is there and was made with the same seed.
pub fn replace_in_result(tallies: &[Tally], seed: u64) {
    let path = result_path();
    let Ok(bytes) = fs::read(&path) else { return };
    let mut result: Value = serde_json::from_slice(&bytes).unwrap();
    if result["seed"] == seed {
        replace(&mut result, tallies);
        write(&path, &result);
    }
}

fn replace(result: &mut Value, tallies: &[Tally]) {
    let scenarios = result["scenarios"].as_array_mut().unwrap();
    for tally in tallies {
        let new = serde_json::to_value(tally).unwrap();
        let is_same = |old: &&mut Value| old["name"] == new["name"] && old["sector_size"] == new["sector_size"];
        match scenarios.iter_mut().find(is_same) {
            Some(old) => *old = new,
            None => scenarios.push(new),
        }
    }
    let lost: u64 = scenarios.iter().map(|scenario| scenario["lost"].as_u64().unwrap()).sum();
    result["lost"] = lost.into();
}

fn write(path: &Path, result: &Value) {
    fs::write(path, serde_json::to_string_pretty(result).unwrap() + "\n").unwrap();
}

#[test]
fn one_scenario_is_replaced_in_a_result_and_the_others_stay() {
    let tally = |name: &str, lost| Tally { lost, ..Tally::new(&Scenario::named(name), 512) };
    let mut result = json!({"scenarios": [tally("fresh", 1), tally("reimage", 2)], "booted_in_vm": 28, "lost": 3});
    replace(&mut result, &[tally("reimage", 0), tally("replace", 5)]);
    let expected = json!({
        "scenarios": [tally("fresh", 1), tally("reimage", 0), tally("replace", 5)], "booted_in_vm": 28, "lost": 6,
    });
    assert_eq!(result, expected);
}
