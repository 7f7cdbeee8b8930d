mod clean;
mod wiping;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use metalstrap_release::host::Existing;
use proptest::prelude::*;

use super::*;
use crate::disk::{FileDisk, Operation, Recorded, Recording, replay};
use crate::failure::code_of;
use crate::inventory::{self, Contents, Copies};
use crate::plan::Becomes;
use crate::plan::tests::{GIB, MIB, disk as plan_disk, host, manifest, plan};

/// Runs a tool that has to succeed, and gives its output.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

fn file(size: u64) -> tempfile::NamedTempFile {
    // A name that ends in a digit would have sfdisk put a `p` before partition numbers.
    let file = tempfile::Builder::new().suffix(".img").tempfile().unwrap();
    file.as_file().set_len(size).unwrap();
    file
}

/// Installs the plan's table into an image and gives the plan.
fn commit_to(path: &Path, sector_size: u32) -> Plan {
    let disk = FileDisk::open(path, sector_size).unwrap();
    let plan = plan(disk.size(), sector_size, inventory::inspect(&disk).unwrap());
    invalidate(&disk, &plan).unwrap();
    commit(&disk, &plan).unwrap();
    assert!(is_current(&disk, &plan).unwrap());
    plan
}

/// What `sfdisk --json` has to say about `device` if the plan's table is on it.
fn as_sfdisk_says(device: &str, plan: &Plan, sector: u64) -> serde_json::Value {
    let separator = if device.starts_with("/dev/loop") { "p" } else { "" };
    let partitions = plan.table().partitions.into_iter().map(|entry| {
        let mut json = serde_json::json!({
            "node": format!("{device}{separator}{}", entry.index),
            "start": entry.start / sector,
            "size": entry.size / sector,
            "type": entry.type_guid.to_string().to_uppercase(),
            "uuid": entry.uuid.to_string().to_uppercase(),
            "name": entry.label,
        });
        if entry.attributes == 1 << 60 {
            json["attrs"] = "GUID:60".into();
        }
        json
    });
    let last = plan.disk.size / sector - 1;
    serde_json::json!({ "partitiontable": {
        "label": "gpt",
        "id": plan.disk_guid.to_string().to_uppercase(),
        "device": device,
        "unit": "sectors",
        "firstlba": 2 + 16384 / sector,
        "lastlba": last - 1 - 16384 / sector,
        "sectorsize": sector,
        "partitions": partitions.collect::<Vec<_>>(),
    }})
}

#[test]
fn sfdisk_and_sgdisk_read_what_was_planned() {
    let file = file(GIB);
    let path = file.path().to_str().unwrap();
    let plan = commit_to(file.path(), 512);
    let said: serde_json::Value = serde_json::from_str(&run("sfdisk", &["--json", path])).unwrap();
    assert_eq!(said, as_sfdisk_says(path, &plan, 512));
    let said = run("sgdisk", &["-v", path]);
    assert!(said.contains("No problems found"), "{said}");
}

/// A loop device that is detached at the end.
pub(crate) struct Loop(pub String);

impl Loop {
    /// `None` for an ordinary user, who cannot attach one.
    pub(crate) fn attach(path: &Path, sector_size: u32) -> Option<Self> {
        if !nix::unistd::Uid::effective().is_root() {
            crate::not_run::not_run("only root can attach loop devices");
            return None;
        }
        let size = sector_size.to_string();
        let device =
            run("losetup", &["--find", "--show", "--partscan", "--sector-size", &size, path.to_str().unwrap()]);
        Some(Self(device.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        run("losetup", &["--detach", &self.0]);
    }
}

#[test]
fn a_block_device_goes_all_the_way_and_is_known_again() {
    let file = file(GIB);
    let Some(device) = Loop::attach(file.path(), 4096) else { return };
    let sys = Path::new("/sys");
    let facts = inventory::disk_at(&inventory::Roots::default(), Path::new(&device.0), 512).unwrap();
    assert_eq!((facts.identity.size, facts.sector_size, &facts.contents), (GIB, 4096, &Contents::Blank));
    let disk = facts.lock(sys).unwrap();
    let plan = Plan::new(&facts.for_plan(), &manifest(), &host(Existing::Refuse)).unwrap();
    invalidate(disk.as_ref(), &plan).unwrap();
    commit(disk.as_ref(), &plan).unwrap();
    disk.reread_table().unwrap();
    drop(disk);
    let facts = inventory::disk_at(&inventory::Roots::default(), Path::new(&device.0), 512).unwrap();
    let again = Plan::new(&facts.for_plan(), &manifest(), &host(Existing::Refuse)).unwrap();
    assert_eq!((again.existing, again.wipes, again.partitions), (Becomes::Kept, vec![], plan.partitions));
}

#[test]
fn lesson_6_a_table_for_sectors_of_4096_bytes_is_read_by_sfdisk_and_sgdisk() {
    let file = file(GIB);
    let plan = commit_to(file.path(), 4096);
    let Some(device) = Loop::attach(file.path(), 4096) else { return };
    let said: serde_json::Value = serde_json::from_str(&run("sfdisk", &["--json", &device.0])).unwrap();
    assert_eq!(said, as_sfdisk_says(&device.0, &plan, 4096));
    let said = run("sgdisk", &["-v", &device.0]);
    assert!(said.contains("No problems found"), "{said}");
}

/// A log as text: `write <offset> <length>` and `flush`.
fn shown(log: &[Recorded]) -> Vec<String> {
    let show = |what: &Recorded| match what {
        Recorded::Write { offset, bytes } => format!("write {offset} {}", bytes.len()),
        Recorded::Flush => "flush".to_owned(),
    };
    log.iter().map(show).collect()
}

/// An empty disk with the plan's wipes done, and the recorded commit.
fn recorded_commit(sector_size: u32) -> (Plan, Vec<Recorded>) {
    let disk = Recording::memory(GIB, sector_size);
    let plan = plan(GIB, sector_size, Contents::Blank);
    invalidate(&disk, &plan).unwrap();
    let _ = disk.take();
    commit(&disk, &plan).unwrap();
    let log = disk.take();
    commit(&disk, &plan).unwrap();
    assert_eq!(disk.take(), [], "a disk that has the table is not written to");
    (plan, log)
}

#[test]
fn the_table_at_the_end_is_on_the_disk_before_the_one_at_the_start() {
    let expected = [
        format!("write {} 16384", GIB - 33 * 512),
        "flush".into(),
        format!("write {} 512", GIB - 512),
        "flush".into(),
        "write 1024 16384".into(),
        "write 512 512".into(),
        "write 0 512".into(),
        "flush".into(),
    ];
    assert_eq!(shown(&recorded_commit(512).1), expected);
    let expected = [
        format!("write {} 16384", GIB - 5 * 4096),
        "flush".into(),
        format!("write {} 4096", GIB - 4096),
        "flush".into(),
        "write 8192 16384".into(),
        "write 4096 4096".into(),
        "write 0 4096".into(),
        "flush".into(),
    ];
    assert_eq!(shown(&recorded_commit(4096).1), expected);
}

/// Every disk that a power cut can leave of one that was as `before`: all that was flushed, and any of the writes since.
fn power_cuts(before: &Memory, log: &[Recorded]) -> Vec<Memory> {
    let mut disks = Vec::new();
    let (flushed, mut open) = (before.clone(), Vec::new());
    for what in log {
        if let Recorded::Write { .. } = what {
            open.push(what.clone());
            continue;
        }
        for chosen in 0..1_u32 << open.len() {
            let disk = flushed.clone();
            let survivors = open.iter().enumerate().filter(|(n, _)| chosen & (1 << n) != 0);
            replay(&survivors.map(|(_, what)| what.clone()).collect::<Vec<_>>(), &disk).unwrap();
            disks.push(disk);
        }
        replay(&open, &flushed).unwrap();
        open.clear();
    }
    disks
}

#[test]
fn after_a_power_cut_the_next_run_finds_its_own_work_without_permission_to_wipe() {
    for sector_size in [512, 4096] {
        let (plan, log) = recorded_commit(sector_size);
        let disks = power_cuts(&Memory::new(GIB, sector_size), &log);
        assert_eq!(disks.len(), 2 + 2 + 8);
        for (n, disk) in disks.into_iter().enumerate() {
            let contents = inventory::inspect(&disk).unwrap();
            let found = plan_disk(GIB, sector_size, contents.clone());
            let again = Plan::new(&found, &manifest(), &host(Existing::Refuse));
            let again = again.unwrap_or_else(|error| panic!("{sector_size}, cut {n}: {error:#}"));
            let whole = n == 11;
            let expected = if n < 3 { Becomes::Blank } else { Becomes::Kept };
            assert_eq!(again.existing, expected, "cut {n}: {contents:?}");
            // Nothing but the whole table at the start counts for the kernel.
            assert_eq!(read(&disk).unwrap().is_some(), whole, "cut {n}");
            commit(&disk, &again).unwrap();
            assert!(is_current(&disk, &plan).unwrap(), "cut {n}");
        }
    }
}

#[test]
fn a_copy_at_the_end_alone_is_found_but_not_under_another_table() {
    let (plan, log) = recorded_commit(512);
    let disk = Memory::new(GIB, 512);
    replay(&log[..4], &disk).unwrap();
    let found = inventory::inspect(&disk).unwrap();
    assert!(matches!(&found, Contents::Gpt { copies: Copies::Backup, table, .. } if *table == plan.table()), "{found}");
    // An MBR with one Linux partition.
    let mut mbr = [0; 512];
    mbr[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0]);
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    disk.write_at(0, &mbr).unwrap();
    let text = "MBR partition table, a GPT that is damaged or made for another sector size";
    assert_eq!(inventory::inspect(&disk).unwrap().to_string(), text);
}

#[test]
fn a_copy_at_the_end_that_is_alone_stays_until_the_new_table_is_there() {
    for sector_size in [512, 4096] {
        let (old, log) = recorded_commit(sector_size);
        let before = Memory::new(GIB, sector_size);
        replay(&log, &before).unwrap();
        // As an interrupted run for another release leaves it, or a bad sector.
        before.write_at(u64::from(sector_size), &vec![0; usize::try_from(sector_size).unwrap()]).unwrap();
        assert_eq!((read(&before).unwrap(), read_backup(&before).unwrap()), (None, Some(old.table())));
        let mut next = old.clone();
        next.partitions[0].entry.label = "another".to_owned();
        let disk = Recording::new(Arc::new(before.clone()));
        commit(&disk, &next).unwrap();
        assert!(is_current(&disk, &next).unwrap());
        let disks = power_cuts(&before, &disk.take());
        assert_eq!(disks.len(), 8 + 2 + 2);
        for (n, disk) in disks.into_iter().enumerate() {
            let table = read(&disk).unwrap().or_else(|| read_backup(&disk).unwrap());
            assert!(table == Some(old.table()) || table == Some(next.table()), "{sector_size}, cut {n}");
        }
    }
}

#[test]
fn entries_keep_their_indices_even_with_gaps_between_them() {
    let mut plan = plan(GIB, 512, Contents::Blank);
    let mut var = plan.partitions[0].entry.clone();
    (var.index, var.start, var.size, var.label) = (128, 600 * MIB, MIB, "var".into());
    plan.kept.push(var.clone());
    let disk = Memory::new(GIB, 512);
    commit(&disk, &plan).unwrap();
    assert_eq!(read(&disk).unwrap().unwrap().partitions.last(), Some(&var));
    plan.kept[0].index = 129;
    let error = commit(&Memory::new(GIB, 512), &plan).unwrap_err();
    assert_eq!(format!("{error:#}"), "writing the partition table of memory: partition 129 has no entry");
}

#[test]
fn a_failing_disk_is_named_with_the_bytes() {
    let plan = plan(GIB, 512, Contents::Blank);
    let fail = |judge: fn(Operation) -> bool| {
        let judge = move |operation| judge(operation).then(|| io::Error::from_raw_os_error(5));
        let disk = crate::disk::Faulty::new(Arc::new(Memory::new(GIB, 512)), judge);
        let error = commit(&disk, &plan).unwrap_err();
        (code_of(&error), format!("{error:#}"))
    };
    let write = fail(|operation| matches!(operation, Operation::Write(512, 512)));
    let text =
        "writing the partition table of memory: writing bytes 512 to 1024 of memory: Input/output error (os error 5)";
    assert_eq!(write, (Code::DiskIo, text.to_owned()));
    let flush = fail(|operation| operation == Operation::Flush);
    let text = "writing the partition table of memory: flushing memory: Input/output error (os error 5)";
    assert_eq!(flush, (Code::DiskIo, text.to_owned()));
    let read = fail(|operation| matches!(operation, Operation::Read(0, 512)));
    let text =
        "reading the partition table of memory: reading bytes 0 to 512 of memory: Input/output error (os error 5)";
    assert_eq!(read, (Code::DiskIo, text.to_owned()));
}

proptest! {
    #[test]
    fn no_table_on_a_disk_is_believed_or_followed_too_far(
        changes in prop::collection::vec((0_usize..92, any::<u8>()), 0..6), seal in any::<bool>(),
    ) {
        let disk = Memory::new(GIB, 512);
        let plan = plan(GIB, 512, Contents::Blank);
        commit(&disk, &plan).unwrap();
        let mut header = [0; 512];
        disk.read_at(512, &mut header).unwrap();
        let before = header;
        for (at, byte) in changes {
            header[at] = byte;
        }
        if seal {
            // With a right checksum only the values stand between us and what they say.
            header[16..20].fill(0);
            let sum = crc32(&header[..92]);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
        }
        disk.write_at(512, &header).unwrap();
        match read(&disk).unwrap() {
            Some(table) if header == before => prop_assert_eq!(table, plan.table()),
            Some(table) => prop_assert!(seal && table.partitions == plan.table().partitions),
            None => prop_assert!(header != before),
        }
        inventory::inspect(&disk).unwrap();
    }
}

/// CRC-32 as the UEFI specification asks for, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}
