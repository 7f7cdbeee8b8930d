//! PID 1 of the tiny target.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use metalstrap_release::digest::Digest;
use metalstrap_tiny::disks::{self, Partition};
use metalstrap_tiny::report::{FAILED, PREFIX, PROBED, Report};
use metalstrap_tiny::{check, machine, words};
use uuid::Uuid;

/// An NVMe controller finds its namespaces after its module is loaded.
const DISKS_APPEAR_WITHIN: Duration = Duration::from_secs(30);

fn main() {
    let line = match report() {
        Ok(report) => format!("{PREFIX}{report}"),
        Err(error) => format!("{FAILED}{error:#}"),
    };
    machine::say(&line);
    machine::power_off();
}

fn report() -> Result<String> {
    machine::mount_all()?;
    machine::load_modules()?;
    for line in machine::probe()? {
        machine::say(&format!("{PROBED}{line}"));
    }
    let cmdline = std::fs::read_to_string("/proc/cmdline").context("reading /proc/cmdline")?.trim().to_owned();
    let root_hash: Digest = words::value(&cmdline, "roothash").context("no roothash= on the command line")?.parse()?;
    let (data, tree) = check::partition_uuids(&root_hash);
    let started = Instant::now();
    let (data, tree) = (appear(data, "root", started)?, appear(tree, "hash tree", started)?);
    let blocks = check::check(&data, tree, root_hash)?;
    let pcr13 = std::fs::read_to_string("/sys/class/tpm/tpm0/pcr-sha256/13").ok();
    let report = Report {
        root_hash: root_hash.to_string(),
        root_is_verity: true,
        blocks,
        pcr13: pcr13.map(|text| text.trim().to_lowercase()),
        cmdline,
    };
    Ok(serde_json::to_string(&report)?)
}

/// Waits until a disk has the partition `uuid`.
fn appear(uuid: Uuid, what: &str, started: Instant) -> Result<Partition> {
    loop {
        let disks = disks::all(Path::new("/sys/block"));
        if let Some(found) = disks::find(&disks, uuid) {
            return Ok(found);
        }
        if started.elapsed() > DISKS_APPEAR_WITHIN {
            let names: Vec<String> = disks.iter().map(|(path, _)| path.display().to_string()).collect();
            return Err(anyhow!("no partition {uuid} ({what}) on the disks [{}]", names.join(", ")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
