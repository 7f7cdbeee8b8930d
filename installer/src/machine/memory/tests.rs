use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::anyhow;
use metalstrap_release::digest::Digest;
use metalstrap_release::host::Mode;
use uuid::Uuid;

use super::*;
use crate::boot_files::EspContents;
use crate::disk::Identity;
use crate::eventlog::Measurer;
use crate::gpt::Table;
use crate::machine::Seams;
use crate::plan::tests::holding;
use crate::remembered::nv::INDEX;
use crate::report::{Reporter, Screen};
use crate::tpm::Tpm as _;
use crate::tpm::nv::Content;
use crate::tpm::swtpm::{GONE, Swtpm};

#[derive(Debug, Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Screen for Told {
    fn line(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn progress(&self, _text: &str) {}
    fn event(&self, _json: &str) {}
}

impl Told {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
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

fn machine<'a>(place: &'a Place, tell: &'a Reporter, measurer: Measurer) -> Machine<'a> {
    Machine::new(place, tell, measurer, None, Seams::default())
}

fn reporter(told: &Told) -> Reporter {
    Reporter::new("run".to_owned(), Box::new(told.clone()), None)
}

#[test]
fn the_plan_of_a_disk_knows_what_the_machine_remembers_of_it_and_of_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let (place, told) = (place(directory.path()), Told::default());
    let tell = reporter(&told);
    let machine = machine(&place, &tell, Measurer::off());
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
    let tell = reporter(&told);
    let machine = machine(&place, &tell, Measurer::off());
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
    let tell = reporter(&told);
    let shared = place(directory.path());
    let mut own = shared.clone();
    let Place::Ordinary { remembered, .. } = &mut own else { panic!("not ordinary") };
    *remembered = None;
    for (place, intent, file) in [(&own, "own", "one.img.intents"), (&shared, "shared", "intents.json")] {
        let machine = machine(place, &tell, Measurer::off());
        assert!(machine.remember_intents(&images[0], [intent.to_owned()].iter()));
        let known = images.each_ref().map(|image| machine.for_plan(image).remembered);
        assert_eq!((known, directory.path().join(file).exists()), ([vec![intent.to_owned()], vec![]], true));
    }
    assert_eq!(*told.0.lock().unwrap(), [""; 0]);
}

fn versions(timestamp: u64) -> Versions {
    let keys = Digest::of(b"keys");
    Versions { format: 1, anchor: keys, root: 1, online_keys: keys, timestamp, snapshot: 3, targets: 2, hosts: 0 }
}

/// What is given to the machine's measurer.
type Found = anyhow::Result<Option<Box<dyn crate::tpm::Tpm>>>;

/// A run with this TPM on a machine that remembers nothing else: what it recalls, and what it says until it has remembered
/// `timestamp`.
fn run_with(tpm: Found, timestamp: u64) -> (Vec<Versions>, Vec<String>) {
    let directory = tempfile::tempdir().unwrap();
    let (place, told) = (place(directory.path()), Told::default());
    let tell = reporter(&told);
    let mut machine = machine(&place, &tell, Measurer::with(tpm, &directory.path().join("log")));
    let known = machine.recall();
    machine.remember(&versions(timestamp));
    (known, told.lines())
}

fn run(swtpm: &Swtpm, timestamp: u64) -> (Vec<Versions>, Vec<String>) {
    run_with(Ok(Some(Box::new(swtpm.connect()))), timestamp)
}

fn silent(known: &[Versions]) -> (Vec<Versions>, Vec<String>) {
    (known.to_vec(), Vec::new())
}

#[test]
fn the_tpm_remembers_where_nothing_else_does() {
    let swtpm = Swtpm::start();
    assert_eq!(run(&swtpm, 5), silent(&[]));
    assert_eq!(run(&swtpm, 6), silent(&[versions(5)]));
    assert_eq!(run(&swtpm, 6), silent(&[versions(6)]));
    assert_eq!(run_with(Ok(None), 6), silent(&[]));
}

#[test]
fn each_memory_is_asked() {
    let (swtpm, directory, told) = (Swtpm::start(), tempfile::tempdir().unwrap(), Told::default());
    run(&swtpm, 5);
    Memory::at(Some(&directory.path().join("versions.json"))).remember(&versions(7)).unwrap();
    let (place, tell, log) = (place(directory.path()), reporter(&told), directory.path().join("log"));
    let measurer = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &log);
    assert_eq!(machine(&place, &tell, measurer).recall(), [versions(7), versions(5)]);
}

#[test]
fn an_owner_with_a_password_keeps_the_tpm_from_remembering_and_not_from_telling() {
    let swtpm = Swtpm::start();
    run(&swtpm, 5);
    swtpm.set_owner_password();
    // Nothing is written where nothing has changed.
    assert_eq!(run(&swtpm, 5), silent(&[versions(5)]));
    let warning = "warning: the TPM does not remember the versions of the metadata: writing NV index 0x01a06d73 of the TPM: \
                   authorization failure without DA implications (associated with session number 1): Response code value: 0x9a2";
    assert_eq!(run(&swtpm, 6), (vec![versions(5)], vec![warning.to_owned()]));
    let other = Swtpm::start();
    other.set_owner_password();
    assert_eq!(run(&other, 6), (vec![], vec![warning.to_owned()]));
    assert_eq!(run(&swtpm, 5), silent(&[versions(5)]));
}

#[test]
fn what_is_not_ours_or_newer_than_we_are_is_left_alone_and_what_is_damaged_is_not() {
    let without = "going on without what the TPM remembers";
    let swtpm = Swtpm::start();
    swtpm.connect().nv_write(INDEX, &[1; 64]).unwrap();
    let warning = format!(
        "warning: reading NV index 0x01a06d73 of the TPM: somebody else has defined it, for something else: it is left alone; \
         {without}"
    );
    assert_eq!(run(&swtpm, 5), (vec![], vec![warning]));
    assert_eq!(swtpm.connect().nv_read(INDEX, 64).unwrap(), Content::Bytes(vec![1; 64]));

    let swtpm = Swtpm::start();
    let mut newer = versions(9).to_record();
    newer[11] = 2;
    let sum = Digest::of(&newer[..116]);
    newer[116..].copy_from_slice(&sum.0[..12]);
    swtpm.connect().nv_write(INDEX, &newer).unwrap();
    let warning = format!(
        "warning: reading NV index 0x01a06d73 of the TPM: its record of metadata versions has format 2, and this installer knows 1; \
         {without}"
    );
    assert_eq!(run(&swtpm, 5), (vec![], vec![warning]));
    assert_eq!(swtpm.connect().nv_read(INDEX, 128).unwrap(), Content::Bytes(newer.clone()));

    newer.truncate(60);
    newer.resize(128, 0);
    swtpm.connect().nv_write(INDEX, &newer).unwrap();
    let warning = "warning: what the TPM remembers is damaged; going on without it".to_owned();
    assert_eq!(run(&swtpm, 5), (vec![], vec![warning]));
    assert_eq!(run(&swtpm, 5), silent(&[versions(5)]));
}

#[test]
fn a_tpm_that_fails_is_told_of_once_and_the_rest_remembers() {
    let warning = "warning: it does not answer; going on without what the TPM remembers".to_owned();
    assert_eq!(run_with(Err(anyhow!("it does not answer")), 5), (vec![], vec![warning]));

    let (swtpm, directory, told) = (Swtpm::start(), tempfile::tempdir().unwrap(), Told::default());
    let (place, tell, log) = (place(directory.path()), reporter(&told), directory.path().join("log"));
    let measurer = Measurer::with(Ok(Some(Box::new(swtpm.connect()))), &log);
    let mut machine = machine(&place, &tell, measurer);
    assert_eq!(machine.recall(), []);
    drop(swtpm);
    machine.remember(&versions(5));
    let expected =
        "warning: the TPM does not remember the versions of the metadata: writing NV index 0x01a06d73 of the TPM: ";
    assert_eq!(told.lines(), [format!("{expected}{GONE}")]);
    assert_eq!(Memory::at(Some(&directory.path().join("versions.json"))).recall().unwrap(), Some(versions(5)));
}
