//! Boots the disks of the points that `make crashtest` has left in `out/crash/machines`, and compares what machines do with
//! what the judge in `installer/src/crash/judge.rs` said: `booted_in_vm` and `judge_disagreed` of `out/crash/result.json`.
//!
//! What a machine does is told by its console: the tiny target's report, or that its root is not whole; systemd-boot's last
//! offer where it has no UKI; the firmware's words where it has nothing to start. The firmware of these machines mends a
//! damaged copy of the partition table from the other, and the judge was asked about the disk that it leaves.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "clippy's allow-in-tests leaves out helpers of tests")]

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;

use metalstrap_qemu::{Disk, Lab, Machine, Network, RunDir, minutes};
use metalstrap_tests::artifacts;
use metalstrap_tiny::report::{FAILED, PREFIX, Report};
use serde::Deserialize;
use serde_json::Value;

/// Fewer points prove too little.
const FEWEST: usize = 20;
/// Bytes of the disks, only to tell a machine: the files are there.
const DISK: u64 = 640 << 20;
/// What consoles say, and the judge's word for it.
const SIGNS: [(&str, &str); 4] = [
    (FAILED, "stuck"),
    ("Reboot Into Firmware Interface", "no-uki"),
    ("No bootable option or device was found", "nothing"),
    ("UEFI Interactive Shell", "nothing"),
];

/// A point as the installer's tests leave it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Point {
    image: String,
    point: String,
    sector_size: u32,
    judged: String,
    root_hash: Option<String>,
}

#[test]
fn machines_do_what_the_judge_says() {
    let folder = artifacts::built("crash/machines").unwrap();
    let points: Vec<Point> = serde_json::from_slice(&fs::read(folder.join("points.json")).unwrap()).unwrap();
    assert!(points.len() >= FEWEST, "only {} points", points.len());
    let run = RunDir::new("crash").unwrap();
    let (queue, disagreed) = (Mutex::new(points.iter()), Mutex::new(Vec::new()));
    let boot_all = |number: usize| {
        let lab = Lab::with_network(&run.path().join(format!("lab-{number}")), Network::User).unwrap();
        let next = || queue.lock().unwrap().next();
        while let Some(point) = next() {
            let found = boot(&lab, &folder, point);
            let expected = (point.judged.clone(), point.root_hash.clone());
            println!("{}: {found:?}, judged {expected:?}", point.point);
            if found != expected {
                disagreed.lock().unwrap().push(format!("{}: {found:?}, judged {expected:?}", point.point));
            }
        }
    };
    thread::scope(|scope| (0..2).for_each(|number| drop(scope.spawn(move || boot_all(number)))));
    let disagreed = disagreed.into_inner().unwrap();
    note(points.len(), disagreed.len());
    assert!(disagreed.is_empty(), "machines disagree with the judge:\n{}", disagreed.join("\n"));
    run.passed().unwrap();
}

/// What a machine does with the disk of a point: the word for it, and the root hash of the system that comes up.
fn boot(lab: &Lab, folder: &Path, point: &Point) -> (String, Option<String>) {
    let disk = Disk::nvme(DISK).serial("CRASH").sector_size(point.sector_size).file(&folder.join(&point.image));
    let name = point.image.replace(".img", "");
    let machine = Machine::builder(&name).memory(512).network_ports(0).disk(disk).firmware_boot().start(lab).unwrap();
    metalstrap_qemu::until(&format!("what becomes of {}", point.point), minutes(5), || {
        let text = machine.serial().text();
        if text.contains(PREFIX) {
            return Ok(Report::find(&text).map(|report| ("starts".to_owned(), Some(report.root_hash))));
        }
        Ok(SIGNS.iter().find(|(sign, _)| text.contains(sign)).map(|(_, word)| ((*word).to_owned(), None)))
    })
    .unwrap()
}

/// Puts what was found into the result.
fn note(booted: usize, disagreed: usize) {
    let path = artifacts::built("crash/result.json").unwrap();
    let mut result: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    result["booted_in_vm"] = booted.into();
    result["judge_disagreed"] = disagreed.into();
    fs::write(&path, serde_json::to_string_pretty(&result).unwrap() + "\n").unwrap();
}
