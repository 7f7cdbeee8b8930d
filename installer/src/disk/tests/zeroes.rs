//! Zeroes, by whatever way a disk gets them.

use super::*;

const SIZE: u64 = 3 << 20;

/// Zeroes ranges of a disk that is full of ones, and looks at all of it each time.
fn zeroes_are_where_they_were_asked_for(disk: &dyn Disk) {
    let sector = u64::from(disk.sector_size());
    let mut model = Buffer::new(usize::try_from(SIZE).unwrap());
    model.fill(0xff);
    disk.write_at(0, &model).unwrap();
    let mut found = Buffer::new(model.len());
    // A sector inside of a page, pages and parts of pages, more than one write of zeroes, the last sector, nothing.
    let ranges =
        [(sector, sector), (8192, 4096), (12288 - sector, 8192), (1 << 19, 2 << 20), (SIZE - sector, sector), (0, 0)];
    for (offset, length) in ranges {
        disk.write_zeroes(offset, length).unwrap();
        model[usize::try_from(offset).unwrap()..usize::try_from(offset + length).unwrap()].fill(0);
        disk.read_at(0, &mut found).unwrap();
        assert!(found[..] == model[..], "{} after zeroes at {offset}", disk.describe());
        // Through the page cache too, where there is one: the buffer starts at an odd address.
        disk.read_at(0, &mut found[1..4097]).unwrap();
        assert!(found[1..4097] == model[..4096], "{} after zeroes at {offset}", disk.describe());
    }
    disk.flush().unwrap();
    disk.forget_cache().unwrap();
    disk.read_at(0, &mut found).unwrap();
    assert!(found[..] == model[..], "{} from the device", disk.describe());
    let refused = |offset, length| text(disk.write_zeroes(offset, length).unwrap_err());
    let name = disk.describe();
    let outside = format!("writing bytes {SIZE} to {} of {name}: the range is outside of the disk", SIZE + sector);
    assert_eq!(refused(SIZE, sector), outside);
    let part = format!("writing bytes 1 to {} of {name}: the range is not whole sectors", 1 + sector);
    assert_eq!(refused(1, sector), part);
    disk.read_at(0, &mut found).unwrap();
    assert!(found[..] == model[..], "{name} after refusals");
}

#[test]
fn zeroes_of_a_disk_in_memory() {
    for sector_size in [512, 4096] {
        zeroes_are_where_they_were_asked_for(&Memory::new(SIZE, sector_size));
    }
}

#[test]
fn zeroes_of_a_plain_file() {
    for sector_size in [512, 4096] {
        let file = file(SIZE);
        zeroes_are_where_they_were_asked_for(&FileDisk::open(file.path(), sector_size).unwrap());
        assert_eq!(fs::metadata(file.path()).unwrap().len(), SIZE);
    }
}

#[test]
fn zeroes_of_a_block_device() {
    for sector_size in [512, 4096] {
        let file = file(SIZE);
        let Some(device) = Loop::attach(file.path(), sector_size) else { return };
        let identity = Identity { size: SIZE, ..Identity::default() };
        let disk = BlockDevice::open(Path::new(&device.0), &identity, Path::new("/sys")).unwrap();
        zeroes_are_where_they_were_asked_for(&disk);
    }
}

#[test]
fn zeroes_take_no_room_in_a_file() {
    use std::os::unix::fs::MetadataExt as _;
    let file = file(SIZE);
    let disk = FileDisk::open(file.path(), 512).unwrap();
    disk.write_at(0, &vec![1; usize::try_from(SIZE).unwrap()]).unwrap();
    disk.flush().unwrap();
    let before = fs::metadata(file.path()).unwrap().blocks();
    disk.write_zeroes(1 << 20, 1 << 20).unwrap();
    disk.flush().unwrap();
    assert_eq!(before - fs::metadata(file.path()).unwrap().blocks(), (1 << 20) / 512);
}

/// A disk with nothing but what it must have.
#[derive(Debug)]
struct Plain(Recording);

impl Disk for Plain {
    fn size(&self) -> u64 {
        self.0.size()
    }
    fn sector_size(&self) -> u32 {
        self.0.sector_size()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, bytes)
    }
    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
}

#[test]
fn zeroes_of_a_disk_that_has_no_way_of_its_own_are_written() {
    let disk = Plain(Recording::memory(SIZE, 512));
    zeroes_are_where_they_were_asked_for(&disk);
    assert!(!disk.0.take().is_empty());
    disk.write_zeroes(512, (2 << 20) + 512).unwrap();
    let written = |offset, length| Recorded::Write { offset, bytes: vec![0; length] };
    let expected = [written(512, 1 << 20), written(512 + (1 << 20), 1 << 20), written(512 + (2 << 20), 512)];
    assert!(disk.0.take() == expected, "in pieces");
    assert!(disk.write_zeroes(SIZE - 512, 1 << 20).is_err());
    assert!(disk.0.take().is_empty(), "nothing of a range that leaves the disk");
}

#[test]
fn zeroes_go_through_every_wrapper() {
    let recording = Arc::new(Recording::memory(1 << 20, 512));
    let judge = |operation| (operation == Operation::Write(1024, 512)).then(|| io::Error::other("worn out"));
    let faulty = Arc::new(Faulty::new(recording.clone(), judge));
    let disk = Guarded::new(faulty, [512..2048, 4096..8192]);
    disk.write_at(512, &[1; 512]).unwrap();
    disk.write_zeroes(512, 512).unwrap();
    let written = |byte| Recorded::Write { offset: 512, bytes: vec![byte; 512] };
    assert_eq!(recording.take(), [written(1), written(0)]);
    let refused = |offset, length| text(disk.write_zeroes(offset, length).unwrap_err());
    assert_eq!(refused(1024, 512), "writing bytes 1024 to 1536 of memory: worn out");
    assert_eq!(refused(0, 1024), "writing bytes 0 to 1024 of memory: the plan does not write there");
    let region = Region { disk: recording.clone(), start: 4096, size: 4096 };
    region.write_zeroes(512, 512).unwrap();
    assert_eq!(recording.take(), [Recorded::Write { offset: 4608, bytes: vec![0; 512] }]);
    let outside = "writing bytes 4608 to 8704 of memory: the range is outside of bytes 4096 to 8192";
    assert_eq!(text(region.write_zeroes(512, 4096).unwrap_err()), outside);
    assert_eq!(recording.take(), []);

    let file = file(4096);
    let disk = ReadOnly::open(file.path(), 4096, 512).unwrap();
    let name = file.path().display();
    let expected = format!("writing bytes 0 to 512 of {name}: read-only filesystem or storage medium");
    assert_eq!(text(disk.write_zeroes(0, 512).unwrap_err()), expected);
}
