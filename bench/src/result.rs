//! What was measured, as `result.json` has it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::job::Sample;

/// A case measured with a tool.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was measured.
    pub case: String,
    /// With what.
    pub tool: String,
    /// Median.
    pub seconds: f64,
    /// How often.
    pub runs: usize,
    /// Median of the bytes that the server sent, by its log: HTTP heads are in it, what TLS adds is not.
    pub bytes_fetched: u64,
    /// Most of all runs; of a pipeline, its largest process.
    pub peak_rss_bytes: u64,
    /// Median; of a pipeline, the sum of its processes.
    pub cpu_seconds: f64,
    /// Fastest run.
    pub min: f64,
    /// Slowest run.
    pub max: f64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// The day of the last run, in UTC: "2026-11-27".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// Medians of what else a case tells, and the most of what is to stay below a bound ([`BOUNDED`]).
    #[serde(flatten)]
    pub more: BTreeMap<String, f64>,
}

/// What has a bound that every run has to keep: a median would hide the run that does not.
const BOUNDED: [&str; 1] = ["fetched_twice"];

/// The median; the mean of the two in the middle if there is no middle; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |index: usize| sorted.get(index).copied().unwrap_or_default();
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { f64::midpoint(at(half.saturating_sub(1)), at(half)) } else { at(half) }
}

/// The median of whole numbers: one of them.
fn median_of_whole(values: impl Iterator<Item = u64>) -> u64 {
    let mut sorted: Vec<u64> = values.collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

impl Record {
    /// Sums up the runs of a tool.
    pub fn new(case: &str, tool: &str, image_bytes: u64, samples: &[Sample]) -> Self {
        let seconds: Vec<f64> = samples.iter().map(|sample| sample.seconds).collect();
        let cpu: Vec<f64> = samples.iter().map(|sample| sample.cpu_seconds).collect();
        let mut more = BTreeMap::<String, Vec<f64>>::new();
        for sample in samples {
            let own = [("requests", sample.sent.requests as f64), ("connections", sample.sent.connections as f64)];
            for (name, value) in own.iter().chain(&sample.more) {
                more.entry((*name).to_owned()).or_default().push(*value);
            }
        }
        let mut figures: BTreeMap<String, f64> =
            more.iter().map(|(name, values)| (name.clone(), median(values))).collect();
        let most = |name: &&str| {
            let values = more.get(*name)?;
            Some((format!("{name}_max"), values.iter().copied().fold(0.0, f64::max)))
        };
        figures.extend(BOUNDED.iter().filter_map(most));
        Self {
            case: case.to_owned(),
            tool: tool.to_owned(),
            seconds: median(&seconds),
            runs: samples.len(),
            bytes_fetched: median_of_whole(samples.iter().map(|sample| sample.sent.bytes)),
            peak_rss_bytes: samples.iter().map(|sample| sample.peak_rss_bytes).max().unwrap_or_default(),
            cpu_seconds: median(&cpu),
            min: seconds.iter().copied().fold(f64::INFINITY, f64::min),
            max: seconds.iter().copied().fold(0.0, f64::max),
            image_bytes,
            day: None,
            more: figures,
        }
    }

    /// Bytes of the image a second, in MB.
    pub fn rate(&self) -> f64 {
        self.image_bytes as f64 / 1e6 / self.seconds
    }
}

/// The day that it is, in UTC.
pub fn today() -> String {
    let now = jiff::Timestamp::now().to_string();
    now.split_once('T').map_or_else(String::new, |(day, _)| day.to_owned())
}

/// Reads what was measured before; nothing if there is none.
///
/// # Errors
/// It cannot be read as what it is.
pub fn read(out: &Path) -> Result<Vec<Record>> {
    let path = out.join("result.json");
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// Adds `record`, in the place of an older one of the same case and tool, and writes all.
///
/// # Errors
/// It cannot be written.
pub fn add(out: &Path, records: &mut Vec<Record>, record: Record) -> Result<()> {
    match records.iter_mut().find(|old| old.case == record.case && old.tool == record.tool) {
        Some(old) => *old = record,
        None => records.push(record),
    }
    let path = out.join("result.json");
    let text = serde_json::to_string_pretty(records)?;
    fs::write(&path, format!("{text}\n")).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Sent;

    #[test]
    fn a_median_is_the_one_in_the_middle() {
        assert_eq!([median(&[]), median(&[3.0]), median(&[3.0, 1.0])], [0.0, 3.0, 2.0]);
        assert_eq!([median(&[5.0, 1.0, 3.0]), median(&[4.0, 1.0, 3.0, 2.0])], [3.0, 2.5]);
        assert_eq!(median_of_whole([7, 1, 3].into_iter()), 3);
    }

    #[test]
    fn what_has_a_bound_is_told_by_its_worst_run() {
        let sample = |twice: f64| Sample { more: vec![("fetched_twice", twice)], ..Sample::default() };
        let record = Record::new("resume-10", "metalstrap", 1, &[sample(3.0), sample(70.0), sample(5.0)]);
        assert_eq!((record.more["fetched_twice"], record.more["fetched_twice_max"]), (5.0, 70.0));
    }

    #[test]
    fn a_record_has_the_agreed_keys_and_replaces_an_older_one() {
        let sample = |seconds: f64, bytes: u64| Sample {
            seconds,
            cpu_seconds: 2.0 * seconds,
            peak_rss_bytes: bytes * 10,
            sent: Sent { bytes, requests: 4, connections: 2 },
            more: vec![("link_fraction", 0.5)],
        };
        let record =
            Record::new("fresh", "metalstrap", 4_000_000, &[sample(3.0, 30), sample(1.0, 10), sample(2.0, 20)]);
        let expected = serde_json::json!({"case": "fresh", "tool": "metalstrap", "seconds": 2.0, "runs": 3,
            "bytes_fetched": 20, "peak_rss_bytes": 300, "cpu_seconds": 4.0, "min": 1.0, "max": 3.0,
            "image_bytes": 4_000_000, "requests": 4.0, "connections": 2.0, "link_fraction": 0.5});
        assert_eq!(serde_json::to_value(&record).unwrap(), expected);
        assert_eq!(record.rate(), 2.0);
        let dir = tempfile::tempdir().unwrap();
        let mut records = read(dir.path()).unwrap();
        add(dir.path(), &mut records, record.clone()).unwrap();
        let newer = Record { seconds: 9.0, day: Some(today()), ..record };
        add(dir.path(), &mut records, newer.clone()).unwrap();
        assert_eq!(read(dir.path()).unwrap(), [newer]);
        let day: Vec<usize> = today().split('-').map(str::len).collect();
        assert_eq!(day, [4, 2, 2]);
    }
}
