use std::sync::{Arc, Mutex};

use metalstrap_release::host::Mode;
use uuid::Uuid;

use super::*;
use crate::boot_files::EspContents;
use crate::disk::Identity;
use crate::eventlog::Measurer;
use crate::gpt::Table;
use crate::machine::Seams;
use crate::plan::tests::holding;
use crate::report::{Reporter, Screen};

#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Screen for Told {
    fn line(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn progress(&self, _text: &str) {}
    fn event(&self, _json: &str) {}
}

fn disk(serial: Option<&str>) -> DiskFacts {
    DiskFacts {
        name: "vda".to_owned(),
        path: "/dev/vda".into(),
        identity: Identity { serial: serial.map(str::to_owned), size: 1 << 30, ..Identity::default() },
        by_path: None,
        firmware: None,
        nvme: None,
        sector_size: 512,
        physical_sector_size: 512,
        transport: "virtio".to_owned(),
        rotational: false,
        removable: false,
        read_only: false,
        used_by: Vec::new(),
        contents: Contents::Blank,
    }
}

#[test]
fn the_plan_of_a_disk_knows_what_the_machine_remembers_of_it_and_of_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place::Ordinary {
        site: "s".into(),
        disk: "d".into(),
        sector_size: 512,
        directory: None,
        host: None,
        remembered: directory.path().join("versions.json"),
        read_back: true,
        mode: Mode::Install,
    };
    let told = Told::default();
    let tell = Reporter::new("run".to_owned(), Box::new(told.clone()), None);
    let (measurer, seams) = (Measurer::off(), Seams::default());
    let (place, tell) = (&place, &tell);
    let machine = Machine { place, tell, measurer, network: None, clock: None, missing: Vec::new(), host: None, seams };
    let known = |disk: &DiskFacts| machine.for_plan(disk).remembered;
    let (ours, other, unknown) = (disk(Some("S1")), disk(Some("S2")), disk(None));
    machine.remember_intents(&ours, ["one".to_owned(), "two".to_owned()].iter());
    // Nothing tells it from the next one that looks like it.
    machine.remember_intents(&unknown, ["one".to_owned()].iter());
    let none: [String; 0] = [];
    assert_eq!(
        (known(&ours), known(&other), known(&unknown)),
        (vec!["one".into(), "two".into()], none.to_vec(), none.to_vec())
    );
    std::fs::write(directory.path().join("intents.json"), "{").unwrap();
    assert_eq!(known(&ours), none);
    // And of what the disk knows not all may be to be read.
    let mut contents = holding(Table { disk_guid: Uuid::nil(), partitions: Vec::new() });
    let Contents::Gpt { esp: EspContents::Volume(files), .. } = &mut contents else { panic!("no ESP") };
    files.dropped_intents = 2;
    assert_eq!(known(&DiskFacts { contents, ..disk(Some("S2")) }), none);
    let text = format!("{told:?}");
    assert!(text.contains("; going on with what the disk knows of its intents"), "{text}");
    let line = "warning: lines of EFI/metalstrap/intents on vda (serial S2) that are no intents do not count: 2";
    assert!(text.contains(line), "{text}");
}
