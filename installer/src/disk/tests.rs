mod direct;
mod zeroes;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use metalstrap_release::verity::BlockStore as _;
use proptest::prelude::*;

use super::*;
use crate::failure::{Code, code_of};
use crate::gpt::tests::Loop;

fn file(size: u64) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(size).unwrap();
    file
}

fn text(error: io::Error) -> String {
    format!("{:#}", anyhow::Error::new(error))
}

#[test]
fn a_file_keeps_its_size_and_takes_whole_sectors() {
    let file = file(8192);
    let disk = FileDisk::open(file.path(), 512).unwrap();
    let name = file.path().display();
    disk.write_at(512, &[7; 1024]).unwrap();
    disk.flush().unwrap();
    disk.forget_cache().unwrap();
    let mut bytes = [0; 3];
    disk.read_at(511, &mut bytes).unwrap();
    assert_eq!(bytes, [0, 7, 7]);
    let outside = format!("writing bytes 8192 to 8704 of {name}: the range is outside of the disk");
    assert_eq!(text(disk.write_at(8192, &[0; 512]).unwrap_err()), outside);
    let outside = format!(
        "reading bytes 18446744073709551615 to 18446744073709551615 of {name}: the range is outside of the disk"
    );
    assert_eq!(text(disk.read_at(u64::MAX, &mut bytes).unwrap_err()), outside);
    let part = format!("writing bytes 512 to 515 of {name}: the range is not whole sectors");
    assert_eq!(text(disk.write_at(512, &[0; 3]).unwrap_err()), part);
    let part = format!("writing bytes 1 to 513 of {name}: the range is not whole sectors");
    assert_eq!(text(disk.write_at(1, &[0; 512]).unwrap_err()), part);
    assert_eq!(fs::metadata(file.path()).unwrap().len(), 8192);
}

#[test]
fn a_file_is_held_by_one_at_a_time() {
    let file = file(4096);
    let refused = |sector_size| {
        let error = FileDisk::open(file.path(), sector_size).unwrap_err();
        (code_of(&error), format!("{error:#}").replace(file.path().to_str().unwrap(), "FILE"))
    };
    assert_eq!(refused(1024), (Code::DiskIo, "FILE has 4096 bytes, not whole sectors of 1024".into()));
    file.as_file().set_len(5000).unwrap();
    assert_eq!(refused(512), (Code::DiskIo, "FILE has 5000 bytes, not whole sectors of 512".into()));
    file.as_file().set_len(4096).unwrap();
    let held = FileDisk::open(file.path(), 4096).unwrap();
    assert_eq!(refused(4096), (Code::DiskInUse, "disk FILE is locked by another program".into()));
    drop(held);
    FileDisk::open(file.path(), 4096).unwrap();
}

#[test]
fn a_block_device_is_held_exclusively_and_must_be_the_chosen_one() {
    let (file, sys) = (file(1 << 20), Path::new("/sys"));
    let Some(device) = Loop::attach(file.path(), 4096) else { return };
    let path = Path::new(&device.0);
    let name = path.file_name().unwrap().to_str().unwrap();
    let identity = Identity { size: 1 << 20, ..Identity::default() };
    let refused = |identity: &Identity| {
        let error = BlockDevice::open(path, identity, sys).unwrap_err();
        (code_of(&error), format!("{error:#}"))
    };
    let other = format!("disk {name} is not the one that was chosen: it has 1048576 bytes, not 4096");
    assert_eq!(refused(&Identity { size: 4096, ..Identity::default() }), (Code::DiskInUse, other));
    let other = format!("disk {name} (serial S) is not the one that was chosen: it has serial none, not S");
    assert_eq!(refused(&Identity { serial: Some("S".into()), ..identity.clone() }), (Code::DiskInUse, other));

    let disk = BlockDevice::open(path, &identity, sys).unwrap();
    assert_eq!((disk.size(), disk.sector_size(), disk.describe()), (1 << 20, 4096, name.to_owned()));
    let busy = format!(
        "disk {name} is in use: it or a partition of it is mounted, used as swap, or held by md, dm or another program"
    );
    assert_eq!(refused(&identity), (Code::DiskInUse, busy));
    disk.write_at(4096, &[9; 4096]).unwrap();
    disk.flush().unwrap();
    disk.forget_cache().unwrap();
    let mut bytes = [0; 4096];
    disk.read_at(4096, &mut bytes).unwrap();
    assert_eq!(bytes, [9; 4096]);
    assert_eq!(fs::read(file.path()).unwrap()[4096..8192], [9; 4096], "the file behind has it after a flush");
    drop(disk);

    let error = BlockDevice::open(file.path(), &identity, sys).unwrap_err();
    assert_eq!(format!("{error:#}"), format!("{} is not a block device", file.path().display()));
}

#[test]
fn lesson_3_the_identity_is_checked_again_on_the_open_disk_before_the_first_write() {
    let (file, sys) = (file(1 << 20), tempfile::tempdir().unwrap());
    let Some(device) = Loop::attach(file.path(), 512) else { return };
    let path = Path::new(&device.0);
    // A sysfs of our own, where the serial can change under the open device.
    let number = std::os::unix::fs::MetadataExt::rdev(&fs::metadata(path).unwrap());
    let number = format!("{}:{}", nix::sys::stat::major(number), nix::sys::stat::minor(number));
    let block = sys.path().join("dev/block").join(number);
    fs::create_dir_all(&block).unwrap();
    fs::write(block.join("serial"), "A").unwrap();
    let identity = Identity { serial: Some("A".into()), size: 1 << 20, ..Identity::default() };
    let disk = BlockDevice::open(path, &identity, sys.path()).unwrap();
    fs::write(block.join("serial"), "B").unwrap();
    let name = path.file_name().unwrap().to_str().unwrap();
    let expected =
        format!("writing bytes 0 to 512 of {name} (serial A): the disk is not the chosen one: it has serial B, not A");
    for _ in 0..2 {
        assert_eq!(text(disk.write_at(0, &[1; 512]).unwrap_err()), expected);
    }
    drop(disk);
    assert!(fs::read(file.path()).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn a_region_does_not_reach_beyond_itself() {
    let recording = Arc::new(Recording::memory(1 << 20, 512));
    let region = Region { disk: recording.clone(), start: 8192, size: 8192 };
    region.write_block(1, &[5; 4096]).unwrap();
    assert_eq!(recording.log(), [Recorded::Write { offset: 12288, bytes: vec![5; 4096] }]);
    let mut block = [0; 4096];
    region.read_block(1, &mut block).unwrap();
    assert_eq!(block, [5; 4096]);
    let expected = "writing bytes 16384 to 20480 of memory: the range is outside of bytes 8192 to 16384";
    assert_eq!(text(region.write_block(2, &block).unwrap_err()), expected);
    assert!(region.read_block(u64::MAX, &mut block).is_err());
    assert!(region.write_at(u64::MAX - 4, &[0; 8]).is_err());
    assert_eq!(recording.log().len(), 1, "nothing was written outside");
}

#[test]
fn a_faulty_disk_fails_where_it_is_told_to() {
    let recording = Arc::new(Recording::memory(1 << 20, 512));
    let judge = |operation| (operation == Operation::Write(512, 512)).then(|| io::Error::other("worn out"));
    let disk = Faulty::new(recording.clone(), judge);
    disk.write_at(0, &[1; 512]).unwrap();
    assert_eq!(text(disk.write_at(512, &[1; 512]).unwrap_err()), "writing bytes 512 to 1024 of memory: worn out");
    disk.flush().unwrap();
    assert_eq!(recording.log(), [Recorded::Write { offset: 0, bytes: vec![1; 512] }, Recorded::Flush]);
}

proptest! {
    /// Memory and Guarded against the plainest model: a vector, and a set of allowed sectors.
    #[test]
    fn disks_in_memory_hold_what_was_written_where_it_is_allowed(
        writes in prop::collection::vec((0_u64..64, 1_usize..24, any::<u8>()), 0..24),
        ranges in prop::collection::vec((0_u64..64, 0_u64..24), 0..6),
    ) {
        let memory = Arc::new(Memory::new(64 * 512, 512));
        let allowed: Vec<_> = ranges.iter().map(|(start, length)| start * 512..(start + length) * 512).collect();
        let disk = Guarded::new(memory.clone(), allowed.clone());
        let mut model = vec![0; 64 * 512];
        for (sector, sectors, byte) in writes {
            let (start, length) = (sector * 512, sectors * 512);
            let end = start + as_u64(length);
            let free = (start..end).step_by(512).all(|at| allowed.iter().any(|range| range.contains(&at)));
            let fits = end <= 64 * 512;
            prop_assert_eq!(disk.write_at(start, &vec![byte; length]).is_ok(), free && fits);
            if free && fits {
                model[usize::try_from(start).unwrap()..usize::try_from(end).unwrap()].fill(byte);
            }
        }
        let mut found = vec![1; 64 * 512];
        memory.read_at(0, &mut found).unwrap();
        prop_assert_eq!(found, model);
    }
}
