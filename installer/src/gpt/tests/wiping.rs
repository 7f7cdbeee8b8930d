//! Wiping an old system, with blkid as the judge.

use std::io;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use metalstrap_release::host::Existing;
use uuid::Uuid;

use super::{file, run, shown};
use crate::disk::{Disk, Faulty, FileDisk, Memory, Operation, Recorded, Recording, replay};
use crate::gpt::{Entry, Image, Table, clear_leftovers, commit, invalidate, read, read_backup};
use crate::inventory::{self, Contents};
use crate::plan::tests::{GIB, MIB, disk as plan_disk, host, manifest, plan};
use crate::plan::{Area, Becomes, Plan};

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

/// Writes the parts of a superblock of md 1.0 that blkid goes by: the array is `size` bytes from `start` on.
fn write_md_1_0(disk: &dyn Disk, start: u64, size: u64) {
    let mut superblock = [0; 4096];
    superblock[..8].copy_from_slice(b"\xfc\x4e\x2b\xa9\x01\0\0\0");
    superblock[144..152].copy_from_slice(&((size - 8192) / 512).to_le_bytes());
    disk.write_at(start + size - 8192, &superblock).unwrap();
}

/// The same of md 0.90 on the disk as a whole, which has it in its last whole 64 KiB.
fn write_md_0_90(disk: &dyn Disk) {
    let mut superblock = [0; 4096];
    superblock[..12].copy_from_slice(b"\xfc\x4e\x2b\xa9\0\0\0\0\x5a\0\0\0");
    disk.write_at(disk.size() - 65536, &superblock).unwrap();
}

/// What lies at the end of a partition that the OS has grown, and at that of the disk: the slots are those of the release, so
/// the old table stays until it is written.
#[test]
fn lesson_21_superblocks_beside_slots_that_stay_for_now_go_and_do_not_come_back() {
    for sector_size in [512, 4096] {
        let file = file(GIB);
        let disk = FileDisk::open(file.path(), sector_size).unwrap();
        let mut manifest = manifest();
        let var = serde_json::json!([{"type": "var", "label": "var", "size_min": 64 * MIB, "size_max": 64 * MIB}]);
        manifest.layout.partitions = serde_json::from_value(var).unwrap();
        let planned = |contents: Contents, intent: &str| {
            let mut host = host(Existing::Wipe);
            host.intent = Some(intent.to_owned());
            Plan::new(&plan_disk(GIB, sector_size, contents), &manifest, &host).unwrap()
        };
        let mut table = planned(Contents::Blank, "one").table();
        table.partitions[5].size = 256 * MIB;
        let grown = Area::of(&table.partitions[5]);
        Image::new(&table, GIB, sector_size).unwrap().write(&disk).unwrap();
        write_md_1_0(&disk, grown.start, grown.size);
        write_md_0_90(&disk);
        assert!(blkid_sees(file.path(), grown) && wipefs_sees(file.path()).contains("linux_raid_member"));

        let plan = planned(inventory::inspect(&disk).unwrap(), "two");
        assert!(matches!(plan.existing, Becomes::Replaced { .. }), "{:?}", plan.existing);
        invalidate(&disk, &plan).unwrap();
        assert!(!blkid_sees(file.path(), grown));
        clear_leftovers(&disk, &plan).unwrap();
        // An interrupted run still finds its slot.
        assert_eq!((read(&disk).unwrap(), read_backup(&disk).unwrap()), (Some(table.clone()), Some(table)));
        commit(&disk, &plan).unwrap();
        let partitions = plan.table().partitions;
        for place in partitions.iter().map(Area::of).chain([grown, plan.free]) {
            assert!(!blkid_sees(file.path(), place), "{place:?}");
        }
        assert_eq!(inventory::signatures(&disk, 0, GIB).unwrap(), [""; 0]);
        // For wipefs a file has sectors of 512 bytes.
        let left = wipefs_sees(file.path());
        assert!(!left.contains("linux_raid_member"), "{left}");
        assert!(sector_size == 4096 || left.contains("PMBR"), "{left}");
    }
}

/// The first sector of a disk with an MBR that has these partitions.
fn mbr(table: &Table, sector: u32) -> Vec<u8> {
    let mut first = vec![0; usize::try_from(sector).unwrap()];
    let number = |bytes: u64| u32::try_from(bytes / u64::from(sector)).unwrap().to_le_bytes();
    for (slot, entry) in first[446..510].chunks_exact_mut(16).zip(&table.partitions) {
        slot[4] = 0x83;
        slot[8..12].copy_from_slice(&number(entry.start));
        slot[12..].copy_from_slice(&number(entry.size));
    }
    first[510..512].copy_from_slice(&[0x55, 0xaa]);
    first
}

/// A table that only another sector size makes sense of, with LVM and md in its partitions.
#[test]
fn lesson_21_superblocks_go_that_only_an_unreadable_table_leads_to() {
    for (own, other, is_gpt) in [(4096, 512, true), (512, 4096, true), (4096, 512, false), (512, 4096, false)] {
        let file = file(GIB);
        let entry = |index: u32, start: u64| Entry {
            index,
            type_guid: Uuid::from_u128(1),
            uuid: Uuid::from_u128(index.into()),
            label: format!("old{index}"),
            start: start * MIB,
            size: 100 * MIB,
            attributes: 0,
        };
        let table = Table { disk_guid: Uuid::from_u128(9), partitions: vec![entry(1, 600), entry(2, 800)] };
        let made = FileDisk::open(file.path(), other).unwrap();
        if is_gpt {
            Image::new(&table, GIB, other).unwrap().write(&made).unwrap();
        } else {
            made.write_at(0, &mbr(&table, other)).unwrap();
        }
        let mut label = vec![0; 4096];
        label[512..520].copy_from_slice(b"LABELONE");
        made.write_at(600 * MIB, &label).unwrap();
        write_md_1_0(&made, 800 * MIB, 100 * MIB);
        drop(made);

        let disk = FileDisk::open(file.path(), own).unwrap();
        let plan = plan(GIB, own, inventory::inspect(&disk).unwrap());
        invalidate(&disk, &plan).unwrap();
        let partitions = plan.table().partitions;
        for place in table.partitions.iter().chain(&partitions).map(Area::of).chain([plan.free]) {
            assert!(!blkid_sees(file.path(), place), "{place:?}");
            assert_eq!(inventory::signatures(&disk, place.start, place.size).unwrap(), [""; 0]);
        }
        assert_eq!(wipefs_sees(file.path()), "");
    }
}

/// An MBR leads to the record of the first logical partition, and that to the next one. A drive keeps what is not flushed in any
/// order.
#[test]
fn lesson_21_a_wipe_that_is_cut_finds_what_is_in_logical_partitions_again() {
    let file = file(GIB);
    let script = tempfile::NamedTempFile::new().unwrap();
    let text = "label: dos\nstart=2048, size=100M, type=ef\nsize=600M, type=5\nx5: size=100M\nx6: size=100M\n";
    std::fs::write(script.path(), text).unwrap();
    let mut sfdisk = Command::new("sfdisk");
    sfdisk.arg("--quiet").arg(file.path()).stdin(std::fs::File::open(script.path()).unwrap());
    assert!(sfdisk.status().unwrap().success());
    let json = Command::new("sfdisk").arg("--json").arg(file.path()).output().unwrap().stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let logical = [2_usize, 3].map(|n| json["partitiontable"]["partitions"][n]["start"].as_u64().unwrap() * 512);
    let (made, before) = (FileDisk::open(file.path(), 512).unwrap(), Memory::new(GIB, 512));
    for start in (0..GIB).step_by(1 << 20) {
        let mut piece = vec![0; 1 << 20];
        made.read_at(start, &mut piece).unwrap();
        before.write_at(start, &piece).unwrap();
    }
    let mut label = [0; 4096];
    label[512..520].copy_from_slice(b"LABELONE");
    logical.iter().for_each(|start| before.write_at(*start, &label).unwrap());

    let wiping = |disk: &dyn Disk| {
        let on = plan_disk(GIB, 512, inventory::inspect(disk).unwrap());
        invalidate(disk, &Plan::new(&on, &manifest(), &host(Existing::Wipe)).unwrap()).unwrap();
    };
    let recording = Recording::new(Arc::new(before.clone()));
    wiping(&recording);
    let log = recording.take();
    let mut flushed = 0;
    for (number, what) in log.iter().enumerate() {
        if *what == Recorded::Flush {
            flushed = number;
        }
        let disk = before.clone();
        replay(&log[..flushed], &disk).unwrap();
        replay(std::slice::from_ref(what), &disk).unwrap();
        wiping(&disk);
        for start in logical {
            assert_eq!(inventory::signatures(&disk, start, 100 * MIB).unwrap(), [""; 0], "{number}");
        }
    }
}

#[test]
fn a_bad_sector_of_an_old_system_is_written_to_and_what_the_others_name_goes() {
    let file = old_system();
    // That of the superblock of ext in the second partition; a drive takes another one for it when it is written to.
    let (bad, is_mended) = (201 * MIB + 1024, AtomicBool::new(false));
    let judge = move |what: Operation| {
        let hits = |start: u64, length: u64| start < bad + 512 && bad < start + length;
        match what {
            Operation::Write(start, length) if hits(start, length) => is_mended.store(true, Ordering::Relaxed),
            Operation::Read(start, length) if hits(start, length) && !is_mended.load(Ordering::Relaxed) => {
                return Some(io::Error::from_raw_os_error(5));
            }
            _ => {}
        }
        None
    };
    let disk = Faulty::new(Arc::new(FileDisk::open(file.path(), 512).unwrap()), judge);
    let contents = inventory::look(&disk);
    let text = "a GPT with 1 \"EFI\" (FAT), 2 \"root\" (sectors that cannot be read), 3 \"crypt\" (LUKS), 4 \"swap\"";
    assert_eq!(contents.to_string(), text);
    let plan = plan(GIB, 512, contents);
    invalidate(&disk, &plan).unwrap();
    assert_eq!(inventory::inspect(&disk).unwrap(), Contents::Blank);
    let old = [(1, 200), (201, 300), (501, 100)];
    let old = old.map(|(start, size)| Area { start: start * MIB, size: size * MIB });
    let partitions = plan.table().partitions;
    for place in partitions.iter().map(Area::of).chain(old).chain([plan.free]) {
        assert!(!blkid_sees(file.path(), place), "{place:?}");
    }
    assert_eq!(wipefs_sees(file.path()), "");
}
