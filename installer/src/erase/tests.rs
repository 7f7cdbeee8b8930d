//! Drives are replayed: each test says which command comes and what the drive answers. The capability words are those that
//! drives have shown in public reports; what no report shows is made by the specification.

mod ata;
mod nvme;
mod replay;

use std::sync::{Arc, Mutex};

use serde_json::json;

use super::*;
use crate::disk::{Faulty, Identity, Memory, Operation, Recorded, Recording};
use crate::failure::code_of;
use crate::inventory::{Contents, NvmeFacts};
use crate::report::Screen;
use replay::{Replay, opener};

const SIZE: u64 = 600 << 20;
const GUID: Uuid = Uuid::from_u128(7);

fn facts(transport: &str) -> DiskFacts {
    let nvme = NvmeFacts {
        namespace: 1,
        transport: Some("pcie".into()),
        subsystem_nqn: None,
        controller_id: None,
        eui: None,
        nguid: None,
        metadata_bytes: None,
    };
    DiskFacts {
        name: "disk0".into(),
        path: "/dev/disk0".into(),
        identity: Identity { serial: Some("S1".into()), size: SIZE, ..Identity::default() },
        by_path: None,
        firmware: Some("F1".into()),
        sector_size: 512,
        physical_sector_size: 512,
        transport: transport.into(),
        rotational: false,
        removable: false,
        read_only: false,
        nvme: (transport == "nvme").then_some(nvme),
        used_by: Vec::new(),
        contents: Contents::Blank,
    }
}

/// A disk with something at its start, in its middle and at its end.
fn used() -> Arc<Memory> {
    let disk = Memory::new(SIZE, 512);
    for position in [0, SIZE / 2, SIZE - (1 << 20)] {
        disk.write_at(position, &b"secret\n\n".repeat(1 << 17)).unwrap();
    }
    Arc::new(disk)
}

#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Vec<Value>>>);

impl Screen for Told {
    fn line(&self, _: &str) {}
    fn progress(&self, _: &str) {}
    fn event(&self, json: &str) {
        self.0.lock().unwrap().push(serde_json::from_str(json).unwrap());
    }
}

/// What became of an erasure: the receipt or the error, and state and fields of each event.
struct Erased {
    result: Result<Receipt>,
    events: Vec<(String, Value)>,
}

fn erase(eraser: &Eraser, disk: &dyn Disk) -> Erased {
    let told = Told::default();
    let tell = Reporter::new("r".into(), Box::new(told.clone()), None);
    let result = eraser.erase(disk, GUID, &Progress::default(), &tell);
    let told = told.0.lock().unwrap();
    let plain = |event: &Value| {
        assert_eq!(event["step"], "erase");
        (event["state"].as_str().unwrap().to_owned(), event["fields"].clone())
    };
    let events = told.iter().map(plain).collect();
    Erased { result, events }
}

fn refused(disk: &dyn Disk, facts: &DiskFacts, erase: Erase, open: &DriveOpener) -> String {
    let error = Eraser::choose(disk, facts, erase, open).unwrap_err();
    assert_eq!(code_of(&error), Code::CannotErase);
    let text = format!("{error:#}");
    let prefix = "disk disk0 (serial S1) cannot be erased as \"erase\" in the host config wants: ";
    text.strip_prefix(prefix).unwrap_or(&text).to_owned()
}

/// Every byte of the disk is zero.
fn is_empty(disk: &dyn Disk) -> bool {
    let mut piece = vec![0; 1 << 20];
    (0..disk.size()).step_by(1 << 20).all(|start| {
        disk.read_at(start, &mut piece).unwrap();
        piece.iter().all(|byte| *byte == 0)
    })
}

#[test]
fn zeroes_go_from_the_end_to_the_start_and_the_start_waits_for_all_else() {
    let recording = Recording::new(used());
    let eraser = Eraser::choose(&recording, &facts("virtio"), Erase::Zeroes, &opener(Replay::nothing())).unwrap();
    let erased = erase(&eraser, &recording);
    let receipt = erased.result.unwrap();
    assert_eq!((receipt.method, receipt.checked), (Method::Zeroes, Checked { blocks: 256, zeroes: 256, changed: 0 }));
    assert!(is_empty(&recording));
    let large = |what: &Recorded| match what {
        Recorded::Write { offset, bytes } => (bytes.len() > 4096).then_some((offset >> 20, bytes.len() >> 20)),
        Recorded::Flush => Some((u64::MAX, 0)),
    };
    let log: Vec<_> = recording.take().iter().filter_map(large).collect();
    const FLUSH: (u64, usize) = (u64::MAX, 0);
    let expected = [FLUSH, (512, 88), (256, 256), FLUSH, (0, 256), FLUSH, (599, 1), FLUSH, (0, 1), FLUSH];
    assert_eq!(log, expected);
    let fields = Value::Object(receipt_fields(&eraser, &facts("virtio")));
    assert_eq!(fields["abilities"], Value::Null);
}

/// The receipt of another erasure by the same eraser.
fn receipt_fields(eraser: &Eraser, facts: &DiskFacts) -> Map<String, Value> {
    erase(eraser, used().as_ref()).result.unwrap().fields(facts).unwrap()
}

#[test]
fn zeroes_that_a_drive_loses_are_found() {
    #[derive(Debug)]
    struct Lossy(Arc<Memory>);
    impl Disk for Lossy {
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
        fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
            // It does a quarter less than it is told to.
            self.0.write_zeroes(offset, length / 4 * 3 / 512 * 512)
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
        fn describe(&self) -> String {
            "lossy".to_owned()
        }
    }
    let disk = Lossy(used());
    let eraser = Eraser::choose(&disk, &facts("virtio"), Erase::Zeroes, &opener(Replay::nothing())).unwrap();
    let error = erase(&eraser, &disk).result.unwrap_err();
    assert_eq!(code_of(&error), Code::EraseFailed);
    let text = format!("{error:#}");
    let all = "blocks that were looked at do not read as zeroes, the first at byte 202309632";
    assert!(text.starts_with("lossy is not erased by zeroes: ") && text.ends_with(all), "{text}");
}

/// A disk in memory that takes discards: does something with the range.
#[derive(Debug)]
struct Thin {
    inner: Arc<Memory>,
    keeps: bool,
}

impl Disk for Thin {
    fn size(&self) -> u64 {
        self.inner.size()
    }
    fn sector_size(&self) -> u32 {
        self.inner.sector_size()
    }
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buffer)
    }
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.inner.write_at(offset, bytes)
    }
    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inner.write_zeroes(offset, length)
    }
    fn discard(&self, offset: u64, length: u64) -> io::Result<bool> {
        if !self.keeps {
            self.inner.write_zeroes(offset, length)?;
        }
        Ok(true)
    }
    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
    fn describe(&self) -> String {
        "thin".to_owned()
    }
}

#[test]
fn a_discard_counts_only_where_the_content_is_gone() {
    let open = opener(Replay::nothing());
    assert_eq!(refused(used().as_ref(), &facts("virtio"), Erase::Discard, &open), "it takes no discards");
    let thin = |keeps| Thin { inner: used(), keeps };
    let (good, bad) = (thin(false), thin(true));
    let eraser = Eraser::choose(&good, &facts("virtio"), Erase::Discard, &open).unwrap();
    let receipt = erase(&eraser, &good).result.unwrap();
    assert_eq!((receipt.method, receipt.checked.zeroes), (Method::Discard, 256));
    assert!(is_empty(&good));
    let error = erase(&eraser, &bad).result.unwrap_err();
    let text = "thin is not erased by discard: 256 of 256 blocks that were looked at still hold what they held, the first at \
                byte 0";
    assert_eq!((code_of(&error), format!("{error:#}").as_str()), (Code::EraseFailed, text));
}

#[test]
fn a_disk_whose_commands_do_not_reach_a_drive_is_refused_with_the_reason() {
    let open = opener(Replay::nothing());
    let disk = Memory::new(SIZE, 512);
    let secure = |facts: &DiskFacts| refused(&disk, facts, Erase::Secure, &open);
    assert_eq!(secure(&facts("virtio")), "its transport (virtio) has no command for that");
    assert_eq!(secure(&facts("file")), "it is a file");
    assert_eq!(
        secure(&facts("usb")),
        "it is on USB, where a bridge that loses a security command leaves a locked drive"
    );
    let mut remote = facts("nvme");
    remote.nvme.as_mut().unwrap().transport = Some("tcp".into());
    assert_eq!(secure(&remote), "it is no drive of this machine, but reached by tcp");
    let none: DriveOpener = Box::new(|disk| KernelDrive::of(disk));
    assert_eq!(refused(&disk, &facts("sata"), Erase::Secure, &none), "it is no drive");
    assert_eq!(refused(&disk, &facts("sata"), Erase::None, &none), "it is not to be erased");
}

#[test]
fn a_disk_that_fails_while_samples_are_taken_is_not_erased() {
    let judge = |what: Operation| matches!(what, Operation::Write(..)).then(|| io::Error::other("no"));
    let disk = Faulty::new(Arc::new(Memory::new(SIZE, 512)), judge);
    let eraser = Eraser::choose(&disk, &facts("virtio"), Erase::Zeroes, &opener(Replay::nothing())).unwrap();
    let error = erase(&eraser, &disk).result.unwrap_err();
    assert_eq!(code_of(&error), Code::DiskIo);
    assert_eq!(format!("{error:#}"), "taking samples of memory: writing bytes 0 to 4096 of memory: no");
}
