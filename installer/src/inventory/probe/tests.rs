use std::process::Command;

use super::*;
use crate::disk::{FileDisk, Memory};
use crate::gpt::{Entry, Image, Table};
use crate::inventory::{Contents, OldArea, inspect};

const MIB: u64 = 1 << 20;

/// What is found in a file of 64 MiB that `make` (program and arguments; the file comes last) has filled.
fn found_after(make: &[&str]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 * MIB).unwrap();
    let output = Command::new(make[0]).args(&make[1..]).arg(file.path()).output().unwrap();
    assert!(output.status.success(), "{make:?}: {}", String::from_utf8_lossy(&output.stderr));
    inspect(&FileDisk::open(file.path(), 512).unwrap()).unwrap().to_string()
}

#[test]
fn file_systems_made_by_their_tools_are_found() {
    assert_eq!(found_after(&["true"]), "nothing");
    assert_eq!(found_after(&["mkfs.ext4", "-q"]), "ext");
    for bits in ["12", "16", "32"] {
        assert_eq!(found_after(&["mkfs.vfat", "-F", bits]), "FAT");
    }
    assert_eq!(found_after(&["mkswap", "-q"]), "swap");
}

#[test]
fn images_made_by_their_tools_are_found() {
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("file"), b"content").unwrap();
    let image = tree.path().join("image");
    let output = Command::new("mkfs.erofs").arg(&image).arg(tree.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(inspect(&FileDisk::open(&image, 512).unwrap()).unwrap().to_string(), "EROFS");
    let hash = tree.path().join("hash");
    let output = Command::new("veritysetup").arg("format").args([&image, &hash]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(inspect(&FileDisk::open(&hash, 512).unwrap()).unwrap().to_string(), "dm-verity");
}

/// What is found on an otherwise empty disk of 64 MiB and 192 KiB.
fn found_with(offset: u64, magic: &[u8]) -> String {
    let disk = Memory::new(64 * MIB + (192 << 10), 512);
    let mut sectors = vec![0; 1024];
    let inside = usize::try_from(offset % 512).unwrap();
    sectors[inside..inside + magic.len()].copy_from_slice(magic);
    let end = disk.size().min(offset - offset % 512 + 1024);
    let length = usize::try_from(end - (offset - offset % 512)).unwrap();
    disk.write_at(offset - offset % 512, &sectors[..length]).unwrap();
    inspect(&disk).unwrap().to_string()
}

#[test]
fn what_make_bcache_writes_is_found() {
    // Bytes 4096 to 4144 of a backing device and of a cache, as bcache-tools 1.0.8 of Debian 13 wrote them.
    let backing =
        b"\x2a\x76\x4d\x88\x1e\x79\x9b\x3f\x08\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\xc6\x85\x73\xf6\x4e\x1a\x45\xca\
        \x82\x65\xf5\x7f\x48\xba\x6d\x81\x09\x31\x9e\x10\xe2\x6f\x47\x03";
    let cache = b"\x0c\x55\xf5\xe7\xa7\x38\x03\x5a\x08\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\xc6\x85\x73\xf6\x4e\x1a\x45\xca\
        \x82\x65\xf5\x7f\x48\xba\x6d\x81\x46\xdf\x53\x76\x56\x75\x41\x3a";
    for superblock in [backing, cache] {
        assert_eq!(found_with(4096, superblock), "bcache");
    }
}

#[test]
fn every_signature_is_found_at_its_place() {
    for (name, offset, magic) in AT_START {
        assert_eq!(found_with(*offset, magic), *name, "{offset}");
    }
    let size = 64 * MIB + (192 << 10);
    let ends: &[(&str, u64, &[u8])] = &[
        ("md RAID", size - 8192, MD),
        ("md RAID", size - 65536, MD),
        ("Intel RAID", size - 1024, b"Intel Raid ISM Cfg Sig. 1.3.00"),
        ("DDF RAID", size - 512, b"\xde\x11\xde\x11"),
        ("ZFS", 128 << 10, b"\x0c\xb1\xba\0\0\0\0\0"),
        ("ZFS", (384 << 10) + 1024, b"\x0c\xb1\xba\0\0\0\0\0"),
        // Labels lie at multiples of 256 KiB, so the odd 192 KiB at the end do not count.
        ("ZFS", 64 * MIB - (384 << 10), b"\0\0\0\0\0\xba\xb1\x0c"),
        ("ZFS", 64 * MIB - 1024, b"\0\0\0\0\0\xba\xb1\x0c"),
        ("a GPT that is damaged or made for another sector size", 512, b"EFI PART"),
        ("a GPT that is damaged or made for another sector size", 4096, b"EFI PART"),
        ("a GPT that is damaged or made for another sector size", size - 4096, b"EFI PART"),
        ("unknown data in the first 1 MiB", 5000, b"\x01"),
        ("unknown data in the first 1 MiB", MIB - 1, b"\x01"),
        ("nothing", MIB, b"\x01"),
    ];
    for (name, offset, magic) in ends {
        assert_eq!(found_with(*offset, magic), *name, "{offset}");
    }
}

#[test]
fn what_the_disk_held_as_a_whole_is_named_beside_its_table() {
    // The partition of the second one reaches over the place.
    for (size, beside) in [(62 * MIB, &["md RAID"][..]), (63 * MIB + (160 << 10), &[][..])] {
        let disk = Memory::new(64 * MIB + (192 << 10), 512);
        let (type_guid, uuid) = (uuid::Uuid::from_u128(1), uuid::Uuid::from_u128(2));
        let entry = Entry { index: 1, type_guid, uuid, label: "data".to_owned(), start: MIB, size, attributes: 0 };
        let table = Table { disk_guid: uuid::Uuid::from_u128(3), partitions: vec![entry] };
        Image::new(&table, disk.size(), 512).unwrap().write(&disk).unwrap();
        let mut sector = [0; 512];
        sector[..4].copy_from_slice(MD);
        disk.write_at(64 * MIB + (128 << 10), &sector).unwrap();
        let found = inspect(&disk).unwrap();
        let more = if beside.is_empty() { "" } else { ", and beside the partitions md RAID" };
        assert_eq!(found.to_string(), format!("a GPT with 1 \"data\"{more}"));
        assert_eq!(serde_json::to_value(&found).unwrap()["beside"], serde_json::json!(beside));
    }
}

#[test]
fn small_disks_and_areas_are_no_trouble() {
    for size in [512, 1024, 4096, 8192, 65536] {
        assert_eq!(inspect(&Memory::new(size, 512)).unwrap(), Contents::Blank);
        assert_eq!(signatures(&Memory::new(size, 512), size - 512, 512).unwrap(), [""; 0]);
    }
}

#[test]
fn partitions_of_an_mbr_table_are_found_with_the_logical_ones() {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(64 * MIB).unwrap();
    let script = tempfile::NamedTempFile::new().unwrap();
    let text = "label: dos\nstart=2048, size=8M, type=ef\nsize=40M, type=5\nx5: size=8M\nx6: size=10M\n";
    std::fs::write(script.path(), text).unwrap();
    let mut sfdisk = Command::new("sfdisk");
    sfdisk.arg("--quiet").arg(file.path()).stdin(std::fs::File::open(script.path()).unwrap());
    assert!(sfdisk.status().unwrap().success());
    let json = Command::new("sfdisk").arg("--json").arg(file.path()).output().unwrap().stdout;
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let number = |value: &serde_json::Value| value.as_u64().unwrap() * 512;
    let mut expected: Vec<_> = json["partitiontable"]["partitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|partition| OldArea {
            start: number(&partition["start"]),
            size: number(&partition["size"]),
            boots: partition["type"] == "ef",
            is_table: false,
        })
        .collect();
    assert_eq!(expected.len(), 4);
    // With sectors of the other size the first one would be from 8 MiB to the end, and the others not on the disk.
    expected.push(OldArea { start: 8 * MIB, size: 56 * MIB, boots: true, is_table: false });
    expected.sort_by_key(|area| (area.start, area.size));
    for sector_size in [512, 4096] {
        let contents = inspect(&FileDisk::open(file.path(), sector_size).unwrap()).unwrap();
        let Contents::Foreign { what, areas } = contents else { panic!("not foreign") };
        assert_eq!(what, ["MBR partition table"]);
        // A record for each logical partition, before it; the first one begins the extended partition.
        let (mut records, mut areas): (Vec<_>, Vec<_>) = areas.into_iter().partition(|area| area.is_table);
        records.sort_by_key(|area| area.start);
        assert_eq!(records.iter().map(|record| record.size).collect::<Vec<_>>(), [u64::from(sector_size); 2]);
        assert!(areas.iter().any(|area| area.start == records[0].start && area.size == 40 * MIB), "{areas:?}");
        for record in &records {
            let mut bytes = [0; 512];
            std::os::unix::fs::FileExt::read_exact_at(file.as_file(), &mut bytes, record.start).unwrap();
            assert_eq!(bytes[510..], [0x55, 0xaa]);
        }
        areas.sort_by_key(|area| (area.start, area.size));
        assert_eq!(areas, expected);
    }
}

#[test]
fn what_the_partitions_of_an_mbr_table_hold_is_named() {
    let disk = Memory::new(64 * MIB, 512);
    let mut mbr = [0; 512];
    for (entry, start) in [(446, 2048_u32), (462, 65536)] {
        mbr[entry + 4] = 0x83;
        mbr[entry + 8..entry + 12].copy_from_slice(&start.to_le_bytes());
        mbr[entry + 12..entry + 16].copy_from_slice(&32768_u32.to_le_bytes());
    }
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    disk.write_at(0, &mbr).unwrap();
    let put = |at: u64, magic: &[u8]| {
        let (mut sector, inside) = ([0; 512], usize::try_from(at % 512).unwrap());
        sector[inside..inside + magic.len()].copy_from_slice(magic);
        disk.write_at(at - at % 512, &sector).unwrap();
    };
    put(MIB + 0x438, b"\x53\xef");
    put(32 * MIB + 512, b"LABELONE");
    let found = inspect(&disk).unwrap();
    assert_eq!(found.to_string(), "MBR partition table, ext, LVM2");
    assert_eq!(
        serde_json::to_value(&found).unwrap()["what"],
        serde_json::json!(["MBR partition table", "ext", "LVM2"])
    );
}

#[test]
fn a_chain_of_logical_partitions_that_never_ends_is_left() {
    let disk = Memory::new(MIB, 512);
    let mut record = [0; 512];
    record[510..].copy_from_slice(&[0x55, 0xaa]);
    let extended = |start: u8| [0, 0, 0, 0, 5, 0, 0, 0, start, 0, 0, 0, 1, 0, 0, 0];
    record[446..462].copy_from_slice(&extended(1));
    disk.write_at(0, &record).unwrap();
    // Records at 1 and 2 lead to each other (relative to the first, which is at 1).
    record[446..462].copy_from_slice(&extended(1));
    disk.write_at(512, &record).unwrap();
    record[446..462].copy_from_slice(&extended(0));
    disk.write_at(1024, &record).unwrap();
    assert_eq!(inspect(&disk).unwrap().to_string(), "MBR partition table");
}
