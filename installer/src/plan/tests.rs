use std::io::Write as _;
use std::process::{Command, Stdio};

use metalstrap_release::host::Existing;
use metalstrap_release::manifest::{Artifact, Boot, Designator, FileSystem, Layout, Payload, Salt};
use metalstrap_release::verity::Geometry;
use proptest::prelude::*;

use super::*;
use crate::boot_files::{BootFiles, EspContents};
use crate::failure::{Code, code_of};
use crate::gpt::Table;
use crate::inventory::Copies;

mod unreadable;

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;

fn payload(content_size: u64) -> Payload {
    let digest = Digest::of(b"payload");
    Payload { sha256: digest, size: content_size, content_size, seek_table_size: 25, seek_table_sha256: digest }
}

fn artifact(content_size: u64) -> Artifact {
    let tree = Geometry::new(content_size / 4096).unwrap().total_blocks() * 4096;
    Artifact {
        size: content_size,
        sha256: Digest::of(b"file"),
        root_hash: Digest::of(b"tree"),
        salt: Salt::default(),
        data: payload(content_size),
        fine: None,
        hash_tree: payload(tree),
    }
}

/// A manifest whose root has 24 MiB and whose slots have 32 + 1 MiB.
pub(crate) fn manifest() -> Manifest {
    let root_hash = Digest::of(b"root");
    let root = artifact(24 * MIB);
    Manifest {
        format: 1,
        name: "debian".into(),
        version: "13.1".into(),
        architecture: "x86-64".into(),
        boot: Boot {
            uki: artifact(8 * MIB),
            loader: artifact(4096),
            cmdline: format!("roothash={root_hash}"),
            cmdline_limit: 2047,
            pcr11: None,
            secure_boot: None,
            watchdog: None,
            unconfirmed: false,
        },
        filesystems: vec![FileSystem {
            designator: Designator::Root,
            root_hash,
            salt: Salt::default(),
            data: root.data,
            fine: None,
            hash_tree: root.hash_tree,
            hash_tree_uuid: Uuid::nil(),
        }],
        layout: Layout {
            esp_size: 512 * MIB,
            root_size: 32 * MIB,
            root_verity_size: MIB,
            slots: 2,
            free_size: 64 * MIB,
            partitions: Vec::new(),
        },
    }
}

pub(crate) fn host(existing: Existing) -> Host {
    let release = serde_json::json!({"name": "debian", "version": "13.1"});
    let intent = (existing == Existing::Wipe).then_some("test");
    let host = serde_json::json!({"format": 1, "release": release, "existing": existing, "intent": intent});
    serde_json::from_value(host).unwrap()
}

/// What is on a disk with this table, whose ESP has no files.
pub(crate) fn holding(table: Table) -> Contents {
    let holds = vec![Vec::new(); table.partitions.len()];
    let files = BootFiles { free: GIB, cluster: 4096, ..BootFiles::default() };
    let (copies, beside, others) = (Copies::Both, Vec::new(), Vec::new());
    Contents::Gpt { copies, table, holds, beside, others, esp: EspContents::Volume(files) }
}

pub(crate) fn disk(size: u64, sector_size: u32, contents: Contents) -> PlanDisk {
    let identity = Identity { wwid: None, serial: Some("X".into()), model: Some("M".into()), size };
    PlanDisk { name: "vda (serial X)".into(), identity, sector_size, contents, remembered: Vec::new() }
}

pub(crate) fn plan(size: u64, sector_size: u32, contents: Contents) -> Plan {
    let existing = if contents == Contents::Blank { Existing::Keep } else { Existing::Wipe };
    Plan::new(&disk(size, sector_size, contents), &manifest(), &host(existing)).unwrap()
}

fn refused(disk: &PlanDisk, existing: Existing) -> (Code, String) {
    let error = Plan::new(disk, &manifest(), &host(existing)).unwrap_err();
    (code_of(&error), format!("{error:#}"))
}

#[test]
fn the_plan_of_a_blank_disk_is_as_written_here() {
    let plan = plan(GIB, 512, Contents::Blank);
    let shown: Vec<_> = plan
        .partitions
        .iter()
        .map(|Partition { role, entry }| {
            let Entry { index, label, start, size, attributes, .. } = entry;
            format!("{index} {role} {label} {} {} {:#x}", start / MIB, size / MIB, attributes)
        })
        .collect();
    let expected = [
        "1 esp esp 1 512 0x0",
        "2 root-verity-a debian_13.1_verity 513 1 0x1000000000000000",
        "3 root-a debian_13.1 514 32 0x0",
        "4 root-verity-b _empty 546 1 0x1000000000000000",
        "5 root-b _empty 547 32 0x0",
    ];
    assert_eq!(shown, expected);
    assert_eq!(plan.free, Area { start: 579 * MIB, size: (1023 - 579) * MIB });
    // sha256("root") = 4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2
    assert_eq!(plan.partitions[2].entry.uuid.to_string(), "4813494d-137e-1631-bba3-01d5acab6e7b");
    assert_eq!(plan.partitions[1].entry.uuid.to_string(), "b7aa74ce-1185-d456-565e-f51d737677b2");
    let others = [plan.disk_guid, plan.partitions[0].entry.uuid, plan.partitions[3].entry.uuid];
    assert!(others.iter().all(|uuid| uuid.get_version_num() == 4), "{others:?}");
    let wipes: Vec<_> = plan.wipes.iter().map(|step| step.what.as_str()).collect();
    assert_eq!(wipes, ["signatures in the new partitions"]);
    let writes: Vec<_> = plan.writes.iter().map(|w| (w.purpose.as_str(), w.area.start, w.area.size)).collect();
    let tree = Geometry::new(24 * MIB / 4096).unwrap().total_blocks() * 4096;
    let expected = [
        ("esp", MIB, 512 * MIB),
        ("root-verity-a", 513 * MIB, tree),
        ("root-a", 514 * MIB, 24 * MIB),
        ("partition table", 0, 34 * 512),
        ("partition table", GIB - 33 * 512, 33 * 512),
    ];
    assert_eq!(writes, expected);
}

#[test]
fn an_interrupted_run_of_this_plan_keeps_what_it_wrote() {
    let plan = plan(GIB, 512, Contents::Blank);
    let content = [513 * MIB..513 * MIB + 196_608, 514 * MIB..538 * MIB];
    for wipe in plan.wipes.iter().flat_map(|step| &step.ranges).map(Area::range) {
        assert!(content.iter().all(|c| wipe.end <= c.start || c.end <= wipe.start), "{wipe:?} hits content");
    }
}

#[test]
fn a_disk_that_is_too_small_is_refused_with_every_number() {
    // 1 MiB, the partitions and 64 MiB are 643 MiB; the backup table comes on top.
    let needed = 643 * MIB + 33 * 512;
    assert_eq!(
        refused(&disk(needed - 512, 512, Contents::Blank), Existing::Wipe),
        (
            Code::DiskTooSmall,
            "disk vda (serial X) has 674250752 bytes, but the layout needs 674251264: ESP 536870912, 2 slots of 34603008, \
             67108864 free, 1065472 for partition tables and alignment"
                .to_owned()
        )
    );
    assert_eq!(plan(needed, 512, Contents::Blank).free.size, 64 * MIB);
    let needed = 643 * MIB + 5 * 4096;
    assert_eq!(refused(&disk(needed - 4096, 4096, Contents::Blank), Existing::Wipe).0, Code::DiskTooSmall);
    assert_eq!(plan(needed, 4096, Contents::Blank).free.size, 64 * MIB);
}

#[test]
fn boot_files_that_the_esp_cannot_hold_are_refused_before_any_write() {
    let refused = |change: &dyn Fn(&mut Manifest)| {
        let mut manifest = manifest();
        change(&mut manifest);
        let error = Plan::new(&disk(GIB, 512, Contents::Blank), &manifest, &host(Existing::Keep)).unwrap_err();
        (code_of(&error), format!("{error:#}"))
    };
    let too_large = refused(&|manifest| manifest.boot.uki = artifact(512 * MIB));
    let text = "laying out the EFI system partition: a file of 536870912 bytes does not fit the EFI system partition: \
                535760896 bytes are free of 535805952";
    assert_eq!(too_large, (Code::DiskTooSmall, text.to_owned()));
    let text = "a hash tree of 16781312 bytes, more than the 16777216 allowed";
    let tree = refused(&|manifest| manifest.boot.uki.hash_tree = payload(16 * MIB + 4096));
    assert_eq!(tree, (Code::Manifest, text.to_owned()));
}

fn foreign_gpt() -> Contents {
    let entry = |index, type_guid, label: &str, start, size| Entry {
        index,
        type_guid,
        uuid: Uuid::from_u128(u128::from(index)),
        label: label.into(),
        start,
        size,
        attributes: 0,
    };
    let linux = uuid::uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4");
    let partitions =
        vec![entry(1, linux, "data", 600 * MIB, 100 * MIB), entry(2, layout::ESP_TYPE, "EFI", MIB, 100 * MIB)];
    let table = Table { disk_guid: Uuid::from_u128(7), partitions };
    let holds = vec![vec!["LUKS"], vec!["FAT"]];
    let (copies, beside, others) = (Copies::Both, Vec::new(), Vec::new());
    Contents::Gpt { copies, table, holds, beside, others, esp: EspContents::Absent }
}

#[test]
fn what_is_on_the_disk_goes_only_with_permission() {
    let disk = disk(GIB, 512, foreign_gpt());
    let text = "disk vda (serial X) holds a GPT with 1 \"data\" (LUKS), 2 \"EFI\" (FAT), and the host config does not permit \
                wiping it (\"existing\": \"wipe\")";
    assert_eq!(refused(&disk, Existing::Refuse), (Code::DiskNotBlank, text.to_owned()));
    assert_eq!(refused(&disk, Existing::Keep), (Code::DiskNotBlank, text.to_owned()));
    let plan = Plan::new(&disk, &manifest(), &host(Existing::Wipe)).unwrap();
    let what = "a GPT with 1 \"data\" (LUKS), 2 \"EFI\" (FAT)".to_owned();
    assert_eq!(plan.existing, Becomes::Wiped { what });
    let area = |start: u64, size: u64| Area { start: start * MIB, size: size * MIB };
    let expected = [
        ("the boot sector of the old EFI system partition", vec![Area { start: MIB, size: 4096 }]),
        ("the old EFI system partition", vec![area(1, 5), area(100, 1)]),
        ("signatures in the old partitions", vec![area(600, 5), area(699, 1)]),
        ("the old partition table at the end of the disk", vec![area(1023, 1)]),
        ("the old partition table at the start of the disk", vec![area(0, 5)]),
    ];
    let wipes: Vec<_> = plan.wipes.iter().map(|step| (step.what.as_str(), step.ranges.clone())).collect();
    assert_eq!(wipes[..5], expected);
    assert_eq!((wipes.len(), wipes[5].0), (6, "signatures in the new partitions"));
    let unreadable = PlanDisk { contents: Contents::Unreadable { error: "no medium".into(), otherwise: None }, ..disk };
    let text = "disk vda (serial X) cannot be read: no medium".to_owned();
    assert_eq!(refused(&unreadable, Existing::Wipe), (Code::DiskIo, text));
}

#[test]
fn our_own_table_is_kept_with_what_the_os_added() {
    let blank = plan(GIB, 512, Contents::Blank);
    let own = |change: &dyn Fn(&mut Table)| {
        let mut table = blank.table();
        change(&mut table);
        disk(GIB, 512, holding(table))
    };
    let var = Entry {
        index: 9,
        type_guid: uuid::uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d"),
        uuid: Uuid::from_u128(5),
        label: "var".into(),
        start: 579 * MIB,
        size: 64 * MIB,
        attributes: 0,
    };
    let again = Plan::new(&own(&|_| ()), &manifest(), &host(Existing::Refuse)).unwrap();
    assert_eq!((&again.existing, &again.kept, &again.wipes), (&Becomes::Kept, &vec![], &vec![]));
    let protected: Vec<_> = again.protects.iter().map(|it| (it.purpose.as_str(), it.area.start / MIB)).collect();
    assert_eq!(protected, [("root-verity-b", 546), ("root-b", 547)]);
    let with_var = own(&|table| table.partitions.push(var.clone()));
    for existing in [Existing::Keep, Existing::Refuse] {
        let plan = Plan::new(&with_var, &manifest(), &host(existing)).unwrap();
        assert_eq!((&plan.existing, &plan.kept, &plan.wipes), (&Becomes::Kept, &vec![var.clone()], &vec![]));
        assert_eq!(plan.table().partitions.last(), Some(&var));
    }
    let changes: [&dyn Fn(&mut Table); 4] = [
        &|table| table.partitions[0].uuid = Uuid::from_u128(1),
        &|table| table.partitions[1].size -= MIB,
        &|table| drop(table.partitions.remove(0)),
        // In the way: it begins inside of slot B.
        &|table| table.partitions.push(Entry { start: 578 * MIB, ..var.clone() }),
    ];
    for change in changes {
        for existing in [Existing::Refuse, Existing::Keep] {
            assert_eq!(refused(&own(change), existing).0, Code::DiskNotBlank);
        }
    }
    let (code, text) = refused(&own(changes[1]), Existing::Keep);
    let expected = "disk vda (serial X) holds a GPT with 1 \"esp\", 2 \"debian_13.1_verity\", 3 \"debian_13.1\", 4 \"_empty\", \
                    5 \"_empty\", laid out by metalstrap, but not as debian 13.1 wants it; and the host config does not permit \
                    wiping it (\"existing\": \"wipe\")";
    assert_eq!((code, text.as_str()), (Code::DiskNotBlank, expected));
}

#[test]
fn the_same_facts_give_the_same_hash_and_other_facts_another() {
    let hash = |disk: &PlanDisk| Plan::new(disk, &manifest(), &host(Existing::Wipe)).unwrap().hash().unwrap();
    let base = disk(GIB, 512, Contents::Blank);
    let first = hash(&base);
    assert_eq!(first, hash(&PlanDisk { name: "vdb".into(), ..base.clone() }), "kernel names are no part of it");
    let other = Identity { serial: Some("Y".into()), ..base.identity.clone() };
    assert_ne!(first, hash(&PlanDisk { identity: other, ..base.clone() }));
    // A golden value: a change of it makes interrupted installations of older installers look foreign.
    let plan = plan(GIB, 512, Contents::Blank);
    assert_eq!(plan.disk_guid.to_string(), "02d42f40-9aa3-4404-a999-62a21d479865");
    let wiped = Plan::new(&base, &manifest(), &host(Existing::Wipe)).unwrap();
    assert_ne!(wiped.disk_guid, plan.disk_guid, "a wipe's intent is in it");
}

#[test]
fn lesson_5_what_lies_behind_a_slot_stops_a_larger_one_and_a_damaged_table_stops_what_keeps() {
    let mut table = plan(GIB, 512, Contents::Blank).table();
    table.partitions.push(Entry {
        index: 6,
        type_guid: uuid::uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d"),
        uuid: Uuid::from_u128(6),
        label: "var".into(),
        start: 579 * MIB,
        size: 100 * MIB,
        attributes: 0,
    });
    let on = disk(GIB, 512, holding(table));
    let larger = |root: u64, slot: u64| {
        let mut manifest = manifest();
        manifest.version = "13.2".to_owned();
        let root_file = artifact(root);
        let file_systems = manifest.filesystems.iter_mut();
        file_systems.for_each(|root| (root.root_hash, root.data) = (Digest::of(b"larger"), root_file.data.clone()));
        manifest.layout.root_size = slot;
        Plan::new(&on, &manifest, &host(Existing::Keep))
    };
    let refusal = |root: u64, slot: u64| {
        let error = larger(root, slot).unwrap_err();
        (code_of(&error), format!("{error:#}"))
    };
    // Up to the slot's end there is headroom.
    assert!(larger(32 * MIB, 32 * MIB).unwrap().protects.iter().any(|it| it.purpose == "6 \"var\""));
    let holds = "disk vda (serial X) holds a GPT with 1 \"esp\", 2 \"debian_13.1_verity\", 3 \"debian_13.1\", 4 \"_empty\", \
                 5 \"_empty\", 6 \"var\", laid out by metalstrap, but not as debian 13.1 wants it; and the host config does \
                 not permit wiping it (\"existing\": \"wipe\")";
    assert_eq!(refusal(48 * MIB, 48 * MIB), (Code::DiskNotBlank, holds.to_owned()));

    // A table that is damaged: nobody knows what is to be kept. Where nothing is, it does not matter.
    let memory = crate::disk::Memory::new(GIB, 512);
    crate::gpt::commit(&memory, &plan(GIB, 512, Contents::Blank)).unwrap();
    for header in [512, GIB - 512] {
        memory.write_at(header, &[b"EFI PART".as_slice(), &[0xff; 504]].concat()).unwrap();
    }
    let damaged = disk(GIB, 512, crate::inventory::inspect(&memory).unwrap());
    let holds = "disk vda (serial X) holds a GPT that is damaged or made for another sector size, and the host config does not \
                 permit wiping it (\"existing\": \"wipe\")";
    assert_eq!(refused(&damaged, Existing::Keep), (Code::DiskNotBlank, holds.to_owned()));
    let what = "a GPT that is damaged or made for another sector size".to_owned();
    let wiping = Plan::new(&damaged, &manifest(), &host(Existing::Wipe)).unwrap();
    assert_eq!(wiping.existing, Becomes::Wiped { what });
}

#[test]
fn what_stays_in_the_place_of_our_table_or_with_a_number_that_it_has_not_is_refused() {
    let table = plan(GIB, 512, Contents::Blank).table();
    // As in a table of 4 entries, whose copy takes two sectors.
    for (index, end, fits) in [(6, GIB - 1024, false), (129, GIB - MIB, false), (128, GIB - 33 * 512, true)] {
        let (uuid, start) = (Uuid::from_u128(6), 900 * MIB);
        let type_guid = uuid::uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d");
        let var = Entry { index, type_guid, uuid, label: "var".into(), start, size: end - start, attributes: 0 };
        let mut partitions = table.partitions.clone();
        partitions.push(var);
        let on = disk(GIB, 512, holding(Table { partitions, ..table.clone() }));
        let next = Manifest { version: "13.2".to_owned(), ..manifest() };
        for release in [manifest(), next] {
            let planned = Plan::new(&on, &release, &host(Existing::Keep));
            if fits {
                assert_eq!(planned.unwrap().kept.len(), 1);
                continue;
            }
            let error = planned.unwrap_err();
            let text = format!(
                "disk vda (serial X) holds {index} \"var\" in bytes 943718400 to {end}, which stays, and for which a partition \
                 table of 128 entries has no place"
            );
            let found = format!("{error:#}");
            // With such a number, what the release wants may be refused before.
            assert!(
                found == text || index > crate::gpt::ENTRIES && found.contains("129 \"var\", laid out by metalstrap"),
                "{found}"
            );
            assert_eq!(code_of(&error), Code::DiskNotBlank);
        }
    }
}

#[test]
fn lesson_5_partitions_of_an_mbr_are_something_to_be_kept_and_go_only_with_a_wipe() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(GIB).unwrap();
    let mut sfdisk = Command::new("sfdisk").arg("--quiet").arg(file.path()).stdin(Stdio::piped()).spawn().unwrap();
    let script = "label: dos\nstart=300MiB, size=100MiB, type=83\nstart=1MiB, size=100MiB, type=ef\n";
    sfdisk.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(sfdisk.wait().unwrap().success());
    let old = crate::disk::FileDisk::open(file.path(), 512).unwrap();
    let on = disk(GIB, 512, crate::inventory::inspect(&old).unwrap());
    let holds = "disk vda (serial X) holds MBR partition table, and the host config does not permit wiping it (\"existing\": \
                 \"wipe\")";
    for existing in [Existing::Keep, Existing::Refuse] {
        assert_eq!(refused(&on, existing), (Code::DiskNotBlank, holds.to_owned()));
    }
    let plan = Plan::new(&on, &manifest(), &host(Existing::Wipe)).unwrap();
    let area = |start: u64, size: u64| Area { start: start * MIB, size: size * MIB };
    // Nobody knows in which unit an MBR counts: at 4096 bytes a sector it is eight times as far, and the second is beyond the disk.
    let boot = |start: u64| Area { start: start * MIB, size: 4096 };
    let expected = [
        ("the boot sector of the old EFI system partition", vec![boot(1), boot(8)]),
        ("the old EFI system partition", vec![area(1, 5), area(100, 1), area(8, 5), area(807, 1)]),
        ("signatures in the old partitions", vec![area(300, 5), area(399, 1)]),
    ];
    let wipes: Vec<_> = plan.wipes.iter().map(|step| (step.what.as_str(), step.ranges.clone())).collect();
    assert_eq!(wipes[..3], expected);
}

#[test]
fn a_guarded_disk_takes_writes_only_where_the_plan_has_them() {
    let plan = plan(GIB, 512, Contents::Blank);
    let guarded = plan.guard(Arc::new(crate::disk::Memory::new(GIB, 512)));
    guarded.write_at(514 * MIB, &[1; 4096]).unwrap();
    guarded.write_at(GIB - 512, &[1; 512]).unwrap();
    // In the middle of the space for the OS.
    let error = anyhow::Error::new(guarded.write_at(800 * MIB, &[1; 512]).unwrap_err());
    assert_eq!(format!("{error:#}"), "writing bytes 838860800 to 838861312 of memory: the plan does not write there");
}

#[test]
fn an_erasure_is_planned_as_a_write_to_the_whole_disk_and_permits_no_other() {
    for (erase, expected) in [(Erase::None, 0), (Erase::Discard, 1), (Erase::Zeroes, 1), (Erase::Secure, 1)] {
        let host = Host { erase, ..host(Existing::Wipe) };
        let plan = Plan::new(&disk(GIB, 512, foreign_gpt()), &manifest(), &host).unwrap();
        let whole = Write { purpose: "erasure".to_owned(), area: Area { start: 0, size: GIB } };
        assert_eq!(plan.writes.iter().filter(|write| **write == whole).count(), expected, "{erase:?}");
        let guarded = plan.guard(Arc::new(crate::disk::Memory::new(GIB, 512)));
        assert!(guarded.write_at(800 * MIB, &[1; 512]).is_err(), "{erase:?}");
    }
}

proptest! {
    #[test]
    fn partitions_are_aligned_apart_and_inside(
        sector_size in prop::sample::select(vec![512_u32, 4096]),
        esp in 512_u64..2048, root in 24_u64..8192, verity in 1_u64..64, slots in 1_u32..=8, free in 0_u64..4096 * MIB,
        spare in 0_u64..(1 << 30),
    ) {
        let mut manifest = manifest();
        manifest.layout = Layout {
            esp_size: esp * MIB, root_size: root * MIB, root_verity_size: verity * MIB, slots, free_size: free,
            partitions: Vec::new(),
        };
        let sector = u64::from(sector_size);
        let least = (1 + esp + u64::from(slots) * (root + verity)) * MIB + free.next_multiple_of(MIB) + 16384 + sector;
        let size = (least + spare) / sector * sector;
        let make = |size| Plan::new(&disk(size, sector_size, Contents::Blank), &manifest, &host(Existing::Refuse));
        prop_assert!(make(least - sector).is_err());
        let plan = make(size).unwrap();
        prop_assert_eq!(&plan, &make(size).unwrap());
        let mut end = MIB;
        for (n, partition) in plan.partitions.iter().enumerate() {
            let entry = &partition.entry;
            prop_assert_eq!(usize::try_from(entry.index).unwrap(), n + 1);
            prop_assert!(entry.start >= end && entry.start % MIB == 0 && entry.size % MIB == 0 && entry.size > 0);
            end = entry.start + entry.size;
        }
        prop_assert!(plan.free.start >= end && plan.free.size >= free && plan.free.size % MIB == 0);
        prop_assert!(plan.free.start + plan.free.size <= size - 16384 - sector);
        for area in plan.wipes.iter().flat_map(|step| &step.ranges).chain(plan.writes.iter().map(|write| &write.area)) {
            prop_assert!(area.start % sector == 0 && area.size % sector == 0 && area.start + area.size <= size);
        }
    }
}
