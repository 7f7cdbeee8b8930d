//! Two descriptors of one disk: each sees what the other wrote.

use super::*;
use crate::not_run::not_run;

/// One thing done to a disk, in sectors of 512 bytes; `odd` starts the buffer at an address that direct I/O refuses.
#[derive(Debug, Clone)]
enum Step {
    Write { at: u64, sectors: u64, byte: u8, odd: bool },
    Zero { at: u64, sectors: u64 },
    Read { at: u64, sectors: u64, odd: bool },
    Forget,
}

const SECTORS: u64 = 64;

/// Half of the places are whole pages, so that direct I/O is as likely as not.
fn place() -> impl Strategy<Value = (u64, u64)> {
    let pages = (0..SECTORS / 8, 1..=SECTORS / 8).prop_map(|(at, pages)| (at * 8, pages * 8));
    prop_oneof![pages, (0..SECTORS, 1..=SECTORS)].prop_map(|(at, sectors)| (at, sectors.min(SECTORS - at)))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (place(), any::<u8>(), any::<bool>())
            .prop_map(|((at, sectors), byte, odd)| Step::Write { at, sectors, byte, odd }),
        1 => place().prop_map(|(at, sectors)| Step::Zero { at, sectors }),
        4 => (place(), any::<bool>()).prop_map(|((at, sectors), odd)| Step::Read { at, sectors, odd }),
        1 => Just(Step::Forget),
    ]
}

fn range(at: u64, sectors: u64) -> std::ops::Range<usize> {
    usize::try_from(at * 512).unwrap()..usize::try_from((at + sectors) * 512).unwrap()
}

/// Does the steps to a disk of zeroes and to a model of it.
fn each_sees_what_the_other_wrote(disk: &dyn Disk, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut model = vec![0; range(0, SECTORS).end];
    let mut buffer = Buffer::new(model.len() + ALIGNMENT);
    for step in steps {
        match *step {
            Step::Write { at, sectors, byte, odd } => {
                let range = range(at, sectors);
                let bytes = &mut buffer[usize::from(odd)..usize::from(odd) + range.len()];
                bytes.fill(byte);
                disk.write_at(at * 512, bytes).unwrap();
                model[range].fill(byte);
            }
            Step::Zero { at, sectors } => {
                disk.write_zeroes(at * 512, sectors * 512).unwrap();
                model[range(at, sectors)].fill(0);
            }
            Step::Read { at, sectors, odd } => {
                let range = range(at, sectors);
                let bytes = &mut buffer[usize::from(odd)..usize::from(odd) + range.len()];
                disk.read_at(at * 512, bytes).unwrap();
                prop_assert!(*bytes == model[range], "{step:?}");
            }
            Step::Forget => {
                disk.flush().unwrap();
                disk.forget_cache().unwrap();
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_plain_file_is_one_disk_through_both_descriptors(steps in prop::collection::vec(step(), 1..40)) {
        let file = file(SECTORS * 512);
        each_sees_what_the_other_wrote(&FileDisk::open(file.path(), 512).unwrap(), &steps)?;
    }
}

#[test]
fn a_block_device_is_one_disk_through_both_descriptors() {
    let file = file(SECTORS * 512);
    let Some(device) = Loop::attach(file.path(), 512) else { return };
    let identity = Identity { size: SECTORS * 512, ..Identity::default() };
    let disk = BlockDevice::open(Path::new(&device.0), &identity, Path::new("/sys")).unwrap();
    assert!(disk.direct_file(0, 4096).is_some());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(64));
    let strategy = prop::collection::vec(step(), 1..40);
    let steps = |steps: Vec<Step>| {
        disk.write_zeroes(0, SECTORS * 512).unwrap();
        each_sees_what_the_other_wrote(&disk, &steps)
    };
    runner.run(&strategy, steps).unwrap();
}

#[test]
fn the_direct_file_is_for_whole_aligned_writes_that_are_allowed() {
    let file = file(1 << 20);
    let disk = Arc::new(FileDisk::open(file.path(), 512).unwrap());
    if disk.direct_file(0, 0).is_none() {
        return not_run("the file system of temporary files has no direct I/O");
    }
    let given = |disk: &dyn Disk, offset, length| disk.direct_file(offset, length).is_some();
    for (offset, length, expected) in [
        (0, 4096, true),
        (4096, 8192, true),
        (512, 4096, false),
        (0, 512, false),
        (1 << 20, 4096, false),
        (1 << 20, 0, true),
    ] {
        assert_eq!(given(disk.as_ref(), offset, length), expected, "{length} bytes at {offset}");
    }
    let guarded = Guarded::new(disk.clone(), std::iter::once(4096..12288));
    for (offset, length, expected) in [(4096, 8192, true), (0, 4096, false), (8192, 8192, false), (0, 0, false)] {
        assert_eq!(given(&guarded, offset, length), expected, "{length} bytes at {offset} in the plan");
    }
    assert!(!given(&Recording::new(disk.clone()), 0, 4096));
    assert!(!given(&Faulty::new(disk.clone(), |_| None), 0, 4096));
    assert!(given(&Faulty::new(disk, |_| None).passed_by(), 0, 4096), "unless it is told to be passed by");
    assert!(!given(&ReadOnly::open(file.path(), 1 << 20, 512).unwrap(), 0, 4096));
}

#[test]
fn a_direct_read_gets_what_is_on_the_device() {
    let file = file(1 << 20);
    let Some(device) = Loop::attach(file.path(), 512) else { return };
    let identity = Identity { size: 1 << 20, ..Identity::default() };
    let disk = BlockDevice::open(Path::new(&device.0), &identity, Path::new("/sys")).unwrap();
    let mut buffer = Buffer::new(4097);
    disk.read_at(4096, &mut buffer[1..]).unwrap();
    assert!(buffer.iter().all(|byte| *byte == 0), "now in the page cache of the device");
    // Behind the device's back, as a drive that loses a write would do it.
    std::os::unix::fs::FileExt::write_all_at(file.as_file(), &[5; 4096], 4096).unwrap();
    disk.read_at(4096, &mut buffer[1..]).unwrap();
    assert!(buffer.iter().all(|byte| *byte == 0), "the page cache does not know");
    disk.read_at(4096, &mut buffer[..4096]).unwrap();
    assert!(buffer[..4096].iter().all(|byte| *byte == 5), "a direct read does");
}
