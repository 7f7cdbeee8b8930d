//! Wiping an old system, with blkid as the judge.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use metalstrap_release::host::Existing;

use super::{file, run, shown};
use crate::disk::{Disk as _, FileDisk, Memory, Recorded, Recording, replay};
use crate::gpt::{Entry, invalidate};
use crate::inventory::{self, Contents};
use crate::plan::tests::{GIB, MIB, disk as plan_disk, host, manifest, plan};
use crate::plan::{Area, Plan};

/// An image with a table that sfdisk made and three file systems.
fn old_system() -> tempfile::NamedTempFile {
    let file = file(GIB);
    let path = file.path().to_str().unwrap().to_owned();
    let script = "label: gpt\n\
        start=2048, size=200M, type=U, name=EFI\n\
        size=300M, type=L, name=root\n\
        size=100M, type=L, name=crypt\n\
        start=1400000, type=S, name=swap\n";
    let script_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(script_file.path(), script).unwrap();
    let mut sfdisk = Command::new("sfdisk");
    sfdisk.args(["--quiet", &path]).stdin(std::fs::File::open(script_file.path()).unwrap());
    assert!(sfdisk.status().unwrap().success());
    run("mkfs.vfat", &["-F", "32", "--offset", "2048", &path, "204800"]);
    run("mkfs.ext4", &["-q", "-E", &format!("offset={}", 201 * MIB), &path, "300M"]);
    let volume = tempfile::NamedTempFile::new().unwrap();
    volume.as_file().set_len(100 * MIB).unwrap();
    let mut luks = Command::new("cryptsetup");
    luks.args(["luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"]);
    luks.args([volume.path().to_str().unwrap(), "/etc/hostname"]);
    assert!(luks.status().unwrap().success());
    let bytes = std::fs::read(volume.path()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(file.as_file(), &bytes[..20 << 20], 501 * MIB).unwrap();
    file
}

/// Whether blkid sees anything there.
fn blkid_sees(path: &Path, area: Area) -> bool {
    let (offset, size) = (area.start.to_string(), area.size.to_string());
    let output =
        Command::new("blkid").args(["--probe", "--offset", &offset, "--size", &size]).arg(path).output().unwrap();
    match output.status.code() {
        Some(0 | 8) => true,
        Some(2) => false,
        other => panic!("blkid ended with {other:?}: {}", String::from_utf8_lossy(&output.stderr)),
    }
}

/// What wipefs would take away of the whole of it.
fn wipefs_sees(path: &Path) -> String {
    let output = Command::new("wipefs").args(["--no-act", "--noheadings"]).arg(path).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_old_system_is_gone_without_a_trace_for_blkid() {
    let file = old_system();
    let disk = Arc::new(FileDisk::open(file.path(), 512).unwrap());
    let contents = inventory::inspect(disk.as_ref()).unwrap();
    let text = "a GPT with 1 \"EFI\" (FAT), 2 \"root\" (ext), 3 \"crypt\" (LUKS), 4 \"swap\"";
    assert_eq!(contents.to_string(), text);
    let recording = Recording::new(disk);
    let plan = plan(GIB, 512, contents.clone());
    let Contents::Gpt { table: old, .. } = contents else { panic!("{text}") };
    let area = |entry: &Entry| Area { start: entry.start, size: entry.size };
    assert!(old.partitions[..3].iter().all(|entry| blkid_sees(file.path(), area(entry))));
    assert!(wipefs_sees(file.path()).contains("gpt"));
    invalidate(&recording, &plan).unwrap();
    let partitions = plan.table().partitions;
    let places = old.partitions.iter().chain(&partitions).map(area).chain([plan.free, Area { start: 0, size: GIB }]);
    for place in places {
        assert!(!blkid_sees(file.path(), place), "{place:?}");
    }
    assert_eq!(wipefs_sees(file.path()), "");
    // Six steps, each with its flush; the boot sector comes first, the start of the disk after its end was flushed.
    let log = recording.take();
    let flushes: Vec<_> = (0..log.len()).filter(|n| log[*n] == Recorded::Flush).collect();
    assert_eq!((flushes.len(), flushes[0]), (6, 1));
    assert_eq!(log[0], Recorded::Write { offset: MIB, bytes: vec![0; 4096] });
    let start = |n: usize| matches!(&log[n], Recorded::Write { offset, .. } if *offset == 0);
    let end = |n: usize| matches!(&log[n], Recorded::Write { offset, .. } if *offset == GIB - MIB);
    assert!(start(flushes[3] + 1) && end(flushes[3] - 1), "{:?}", shown(&log));
}

#[test]
fn until_its_last_copy_goes_the_old_table_leads_to_what_has_to_be_wiped() {
    let file = old_system();
    let disk = Arc::new(FileDisk::open(file.path(), 512).unwrap());
    let before = Memory::new(GIB, 512);
    for start in (0..GIB).step_by(1 << 20) {
        let mut piece = vec![0; 1 << 20];
        disk.read_at(start, &mut piece).unwrap();
        before.write_at(start, &piece).unwrap();
    }
    let recording = Recording::new(Arc::new(before.clone()));
    let plan = plan(GIB, 512, inventory::inspect(&recording).unwrap());
    invalidate(&recording, &plan).unwrap();
    let log = recording.take();
    // (no cut in the middle of one write: sectors of a table are zeroed in one piece of 1 MiB)
    for cut in 0..=log.len() {
        let disk = before.clone();
        replay(&log[..cut], &disk).unwrap();
        let contents = inventory::inspect(&disk).unwrap();
        let again = Plan::new(&plan_disk(GIB, 512, contents.clone()), &manifest(), &host(Existing::Wipe)).unwrap();
        let known = matches!(&contents, Contents::Gpt { table, .. } if table.partitions.len() == 4);
        assert!(known || contents == Contents::Blank, "cut {cut}: {contents}");
        invalidate(&disk, &again).unwrap();
        assert_eq!(inventory::inspect(&disk).unwrap(), Contents::Blank);
    }
}
