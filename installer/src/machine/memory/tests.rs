use std::path::Path;
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

fn place(directory: &Path) -> Place {
    Place::Ordinary {
        site: "s".into(),
        disk: "d".into(),
        sector_size: 512,
        directory: None,
        host: None,
        remembered: Some(directory.join("versions.json")),
        read_back: true,
        mode: Mode::Install,
    }
}

fn machine<'a>(place: &'a Place, tell: &'a Reporter) -> Machine<'a> {
    let (measurer, seams) = (Measurer::off(), Seams::default());
    Machine { place, tell, measurer, network: None, clock: None, missing: Vec::new(), host: None, seams }
}

#[test]
fn the_plan_of_a_disk_knows_what_the_machine_remembers_of_it_and_of_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let told = Told::default();
    let tell = Reporter::new("run".to_owned(), Box::new(told.clone()), None);
    let machine = machine(&place, &tell);
    let known = |disk: &DiskFacts| machine.for_plan(disk).remembered;
    let (ours, other, unknown) = (disk(Some("S1")), disk(Some("S2")), disk(None));
    assert!(machine.remember_intents(&ours, ["one".to_owned(), "two".to_owned()].iter()));
    // Nothing tells it from the next one that looks like it.
    assert!(!machine.remember_intents(&unknown, ["one".to_owned()].iter()));
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

#[test]
fn an_esp_without_room_for_the_note_is_told_with_who_knows_instead() {
    let directory = tempfile::tempdir().unwrap();
    let place = place(directory.path());
    let told = Told::default();
    let tell = Reporter::new("run".to_owned(), Box::new(told.clone()), None);
    let machine = machine(&place, &tell);
    machine.tell_unnoted(&[], false, |_| false);
    let unnoted = ["one".to_owned(), "two".to_owned()];
    machine.tell_unnoted(&unnoted, true, |_| false);
    machine.tell_unnoted(&unnoted, false, |_| true);
    machine.tell_unnoted(&unnoted, false, |intent| intent == "two");
    let text = "warning: that [\"one\", \"two\"] happened is not noted on the EFI system partition, which has no room for that, or \
                whose EFI/metalstrap/intents is damaged: ";
    let rest = [
        "this machine remembers it",
        "until the next wipe the partition table says it",
        "nothing else knows it of [\"one\"], which may happen again",
    ];
    assert_eq!(*told.0.lock().unwrap(), rest.map(|rest| format!("{text}{rest}")));
}

#[test]
fn images_do_not_share_what_has_happened_to_them() {
    let directory = tempfile::tempdir().unwrap();
    let image = |name: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, "").unwrap();
        DiskFacts { transport: "file".to_owned(), path, ..disk(None) }
    };
    let images = ["one.img", "two.img"].map(image);
    let told = Told::default();
    let tell = Reporter::new("run".to_owned(), Box::new(told.clone()), None);
    let shared = place(directory.path());
    let mut own = shared.clone();
    let Place::Ordinary { remembered, .. } = &mut own else { panic!("not ordinary") };
    *remembered = None;
    for (place, intent, file) in [(&own, "own", "one.img.intents"), (&shared, "shared", "intents.json")] {
        let machine = machine(place, &tell);
        assert!(machine.remember_intents(&images[0], [intent.to_owned()].iter()));
        let known = images.each_ref().map(|image| machine.for_plan(image).remembered);
        assert_eq!((known, directory.path().join(file).exists()), ([vec![intent.to_owned()], vec![]], true));
    }
    assert_eq!(*told.0.lock().unwrap(), [""; 0]);
}
