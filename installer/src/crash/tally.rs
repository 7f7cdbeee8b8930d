//! How many points ended how.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Serialize;
use serde_json::json;

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
            Fate::Starts(Which::New) => &mut self.new_boots,
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

/// Writes `out/crash/result.json`.
pub fn write_result(tallies: &[Tally], seed: u64) {
    let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("../out/crash");
    fs::create_dir_all(&out).unwrap();
    let lost: usize = tallies.iter().map(|tally| tally.lost).sum();
    // No point is booted in a virtual machine yet.
    let result = json!({"scenarios": tallies, "seed": seed, "booted_in_vm": 0, "judge_disagreed": 0, "lost": lost});
    fs::write(out.join("result.json"), serde_json::to_string_pretty(&result).unwrap() + "\n").unwrap();
}
