//! A USB stick with settings leads a machine to its repository and its host config, of which the site config says nothing. A
//! fixed disk with the same label, left behind in the machine, is named and passed over. The machine's hardware clock is dead: the
//! date that the server sends takes its place, and it is set at the end.

use std::collections::BTreeMap;
use std::time::SystemTime;

use metalstrap_qemu::{Disk, minutes};
use metalstrap_tests::artifacts::Flavour;
use metalstrap_tests::image;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, Scene, started};
use serde_json::{Value, json};

const LABEL: &str = "METALSTRAP";
const FILE: &str = "SETTINGS.TXT";
const KEY: &str = "serial-RACK-7";

#[test]
fn a_usb_stick_leads_a_machine_to_its_repository() {
    let mut scene = Scene::new("usb-stick", Target::Tiny).unwrap();
    // Debian's kernel for virtual machines has no USB.
    scene.flavour = Flavour::Generic;
    let url = std::mem::take(&mut scene.site.repository);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    scene.site.clock_floor = Some(now - 86_400);
    scene.published.add_host(KEY, &scene.host).unwrap();
    // What machines get that nobody leads fits no disk.
    scene.host.disk.serial = Some("NONE".to_owned());
    let root_hash = scene.manifest().unwrap().root().unwrap().root_hash.to_string();
    let (stick, fixed) = (scene.run.path().join("stick.img"), scene.run.path().join("fixed.img"));
    let settings = format!("# Rack 7\nmetalstrap.repository={url}\nmetalstrap.host={KEY}\n");
    image::labelled(&stick, LABEL, FILE, &settings).unwrap();
    let settings = "metalstrap.repository=https://left.test:8443\nmetalstrap.host=serial-OTHER\n";
    image::labelled(&fixed, LABEL, FILE, settings).unwrap();

    let machine = scene.start(DISK, |builder| {
        let fixed = Disk::virtio(0).file(&fixed).serial("LEFT-1");
        builder.memory(1024).clock("1970-01-02T00:00:00").disk(fixed).disk(Disk::usb(0).file(&stick))
    });
    let mut machine = machine.unwrap();
    assert_eq!(started(&mut machine, minutes(15)).unwrap().root_hash, root_hash);

    let console: Vec<Value> = machine.serial().events().into_iter().map(|event| event.value).collect();
    scene.reported("finished", minutes(1)).unwrap();
    for events in [console, scene.lab.reports().unwrap()] {
        for step in ["discovery", "plan"] {
            let found = of_medium(&events, step);
            let names: Vec<&str> = found.values().filter_map(|setting| setting["medium"].as_str()).collect();
            let [name, same] = names.as_slice() else { panic!("{step}: {found:?}") };
            assert!(name.starts_with("sda (QEMU HARDDISK") && name == same, "{step}: {found:?}");
            let of_stick = |setting: &str, value: &str| {
                let told = json!({"setting": setting, "value": value, "source": "medium", "medium": name});
                (setting.to_owned(), told)
            };
            let expected = BTreeMap::from([of_stick("repository", &url), of_stick("host", KEY)]);
            assert_eq!(found, expected, "{step}");
        }
        let mut warnings: Vec<&str> =
            of_step(&events, "discovery", "warning", "/fields/message").filter_map(Value::as_str).collect();
        // A report whose answer got lost comes again.
        warnings.dedup();
        let [warning] = warnings.as_slice() else { panic!("{warnings:?}") };
        let passed_over = "(serial LEFT-1) has the label METALSTRAP and is not believed: it is neither on USB nor removable \
                           nor optical";
        assert!(warning.ends_with(passed_over), "{warning}");
        let mut clock: Vec<_> = of_step(&events, "clock", "info", "/fields/source").collect();
        clock.dedup();
        assert_eq!(clock, ["server-date"]);
        let was =
            of_step(&events, "clock", "info", "/fields/hardware_clock_was").next().and_then(Value::as_str).unwrap();
        assert!(was.starts_with("1970-01-02 "), "{was}");
    }
    drop(machine);
    scene.passed().unwrap();
}

/// The settings that the events of `step` say a medium has set, by their names.
fn of_medium(events: &[Value], step: &str) -> BTreeMap<String, Value> {
    let settings = of_step(events, step, "info", "/fields/settings").next().and_then(Value::as_array).unwrap();
    let of_medium = settings.iter().filter(|setting| setting["source"] == "medium");
    of_medium.map(|setting| (setting["setting"].as_str().unwrap().to_owned(), setting.clone())).collect()
}

/// What the events of this step and state have at `pointer`.
fn of_step<'e>(events: &'e [Value], step: &str, state: &str, pointer: &str) -> impl Iterator<Item = &'e Value> {
    let of_step = events.iter().filter(move |event| event["step"] == step && event["state"] == state);
    of_step.filter_map(move |event| event.pointer(pointer))
}
