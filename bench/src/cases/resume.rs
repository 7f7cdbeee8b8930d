//! An installation that is killed, and the next one.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::fresh;
use crate::disk::{Disk, Medium};
use crate::job::{Job, Sample};
use crate::lab::Lab;
use crate::peers::Tool;
use crate::stop;

/// How much of all bytes the first run has fetched when it is killed.
const PERCENT: [u64; 3] = [10, 50, 90];

/// Measures all cuts.
///
/// # Errors
/// The first run that fails.
pub fn all(lab: &Lab) -> Result<()> {
    let image = fresh::image(lab)?;
    let disk = || Disk::blank(&lab.options.out, Medium::Ram, fresh::disk_size(&image));
    let tool = Tool::Metalstrap;
    let whole = Job::new(lab, tool, &disk()?, &image).run(lab)?.sent.bytes;
    for percent in PERCENT {
        lab.measure(&format!("resume-{percent}"), &[tool], &image, |tool| {
            let disk = disk()?;
            let job = Job::new(lab, tool, &disk, &image);
            let first = cut(lab, &job, whole / 100 * percent)?;
            let second = job.run(lab)?;
            let bytes = first.saturating_add(second.sent.bytes);
            let twice = bytes.saturating_sub(whole) as f64;
            Ok(Sample { more: vec![("first_bytes", first as f64), ("fetched_twice", twice)], ..second })
        })?;
    }
    Ok(())
}

/// Runs the job until the loopback has carried `bytes`, kills it, and returns what the server has sent: what the
/// killed program had not read yet is in it.
fn cut(lab: &Lab, job: &Job<'_>, bytes: u64) -> Result<u64> {
    let device = job.disk.attach()?;
    let mark = lab.server.borrow().mark()?;
    let (before, deadline) = (carried()?, Instant::now() + Duration::from_secs(120));
    let mut running = job.start(lab, &device.path)?;
    while carried()?.saturating_sub(before) < bytes {
        stop::check()?;
        ensure!(running.is_running()?, "the run ended before it was cut at {bytes} bytes");
        if Instant::now() > deadline {
            bail!("the run did not fetch {bytes} bytes in 120 s");
        }
        // Between two looks at the counter.
        std::thread::sleep(Duration::from_millis(1));
    }
    running.kill()?;
    Ok(lab.server.borrow_mut().sent_since(mark)?.bytes)
}

/// Bytes that the loopback of this network namespace has carried.
fn carried() -> Result<u64> {
    received("lo")
}

/// Bytes that an interface of this network namespace has received.
fn received(interface: &str) -> Result<u64> {
    let table = std::fs::read_to_string("/proc/net/dev").context("reading /proc/net/dev")?;
    parse(&table, interface).with_context(|| format!("finding {interface} in /proc/net/dev"))
}

fn parse(table: &str, interface: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix(interface)?.strip_prefix(':'));
    line?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_bytes_are_the_first_column() {
        let table = "Inter-|   Receive\n face |bytes    packets\n    lo: 1234   5 0 0\nlo2: 7 1\n";
        assert_eq!([parse(table, "lo"), parse(table, "lo2"), parse(table, "eth0")], [Some(1234), Some(7), None]);
    }
}
