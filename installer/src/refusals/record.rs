//! The record of attacks that were refused: with `METALSTRAP_ATTACKS` naming a file, each refusal that a test has asserted adds
//! a line of JSON to it. `make attacks` makes out/attacks/result.json of it.

use std::fs::File;
use std::io::Write as _;

use serde_json::json;

use crate::disk::Recorded;
use crate::failure::Failure;

/// Where a run was when it refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    BeforePlan,
    Writing,
}

/// Adds a line for the test that runs: its name is the attack, its module the layer.
pub fn refusal(failure: &Failure, stage: Stage, log: &[Recorded], unverified: usize) {
    let Some(path) = std::env::var_os("METALSTRAP_ATTACKS").filter(|path| !path.is_empty()) else { return };
    let thread = std::thread::current();
    let test = thread.name().unwrap_or_default().rsplit("::").take(2).collect::<Vec<_>>();
    let [attack, layer] = test.as_slice() else { return };
    let written: usize =
        log.iter().map(|what| if let Recorded::Write { bytes, .. } = what { bytes.len() } else { 0 }).sum();
    let stage = if stage == Stage::BeforePlan { "before-plan" } else { "writing" };
    let line = json!({
        "attack": attack.replace('_', " "),
        "layer": layer,
        "stage": stage,
        "refused": true,
        "code": failure.code.to_string(),
        "error": failure.happened,
        "bytes_written": written,
        "unverified_bytes_written": unverified,
    });
    // One write a line, so that tests side by side do not mix theirs.
    let mut file = File::options().create(true).append(true).open(path).expect("the record of attacks");
    file.write_all(format!("{line}\n").as_bytes()).expect("the record of attacks");
}
