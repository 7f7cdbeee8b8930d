//! Disks on every bus with every sector size that QEMU gives them there: the inventory tells the sizes as they are, the
//! release is installed, and the host's tools find nothing wrong with it. Where no other scenario starts such a pair of bus
//! and size, the firmware starts the OS from it here (docs/testing.md has the table).

use std::path::Path;

use metalstrap_qemu::{Builder, Disk, Machine};
use metalstrap_tests::image;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, LONG, Scene, started};
use metalstrap_tests::workbench;
use serde_json::Value;

/// A kind of disk: bus, logical and physical sector size.
type Kind = (&'static str, u32, u32);

/// SATA first: disks get the port of their number, and the chipset has six.
const KINDS: [Kind; 6] = [
    ("sata", 512, 4096),
    ("virtio", 512, 4096),
    ("virtio", 4096, 4096),
    ("scsi", 512, 512),
    ("scsi", 512, 4096),
    ("scsi", 4096, 4096),
];

/// Those that the firmware starts the OS from.
const STARTED: [Kind; 2] = [("virtio", 4096, 4096), ("scsi", 4096, 4096)];

const SCRIPT: &str = r#"
until [ "$(ls -d /sys/block/vd* /sys/block/sd* 2>/dev/null | wc -l)" = 6 ]; do usleep 20000; done
disks=$(cd /sys/block; echo vd* sd*)
for disk in $disks; do there "/dev/$disk"; done
run inventory metalstrap-installer inventory
for disk in $disks; do run "$disk" installer install "/dev/$disk" default; done
"#;

fn name((bus, logical, physical): Kind) -> String {
    format!("{bus}-{logical}-{physical}")
}

fn disk(kind: Kind, dir: &Path) -> Disk {
    let (bus, logical, physical) = kind;
    let disk = match bus {
        "virtio" => Disk::virtio(DISK),
        "scsi" => Disk::scsi(DISK),
        _ => Disk::sata(DISK),
    };
    let file = dir.join(name(kind)).with_extension("img");
    disk.file(&file).serial(&name(kind)).sector_size(logical).physical_sector_size(physical)
}

#[test]
fn every_bus_and_sector_size_is_installed_to() {
    let scene = Scene::new("buses", Target::Tiny).unwrap();
    scene.published.add_default_host(&scene.host).unwrap();
    let manifest = scene.manifest().unwrap();
    let dir = scene.run.path();
    let with_disks = |machine| KINDS.into_iter().fold(machine, |machine: Builder, kind| machine.disk(disk(kind, dir)));
    let mut machine = workbench::start(&scene, SCRIPT, with_disks).unwrap();
    let said = workbench::finish(&mut machine).unwrap();
    let inventory = said.of("inventory").unwrap().0.join("\n");
    let inventory: Vec<Value> = serde_json::from_str(&inventory).unwrap();
    for kind in KINDS {
        let facts = inventory.iter().find(|facts| facts["serial"] == name(kind)).unwrap();
        let found =
            (facts["transport"].as_str(), facts["sector_size"].as_u64(), facts["physical_sector_size"].as_u64());
        // A disk behind virtio-scsi is one of virtio to the inventory.
        let transport = if kind.0 == "sata" { "sata" } else { "virtio" };
        assert_eq!(found, (Some(transport), Some(kind.1.into()), Some(kind.2.into())), "{facts}");
        let installed = facts["name"].as_str().unwrap();
        assert_eq!(said.of(installed).unwrap().1, 0, "{:#?}", said.of(installed));
        image::check_release(&machine.disk(position(kind)).unwrap(), kind.1.into(), &manifest).unwrap();
    }
    for kind in STARTED {
        let name = format!("from-{}", name(kind));
        let mut machine =
            Machine::builder(&name).memory(512).network_ports(0).disk(disk(kind, dir)).start(&scene.lab).unwrap();
        assert_eq!(started(&mut machine, LONG).unwrap().root_hash, manifest.root().unwrap().root_hash.to_string());
    }
    drop(machine);
    scene.passed().unwrap();
}

fn position(kind: Kind) -> usize {
    KINDS.iter().position(|other| *other == kind).unwrap()
}
