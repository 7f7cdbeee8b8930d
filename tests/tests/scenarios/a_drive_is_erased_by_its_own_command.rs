//! `erase` of the host config on drives as QEMU makes them: an NVMe namespace is formatted, beside another one that stays and
//! alone; NVMe, virtio and SCSI disks are discarded. Each is sampled, and what was on it is gone. A SCSI and a SATA drive that
//! cannot erase themselves are refused, and nothing is written to them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use metalstrap_qemu::{Builder, Disk};
use metalstrap_release::host::{Erase, Existing};
use metalstrap_tests::image;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, Scene, is_blank};
use metalstrap_tests::workbench::{self, Said};
use serde_json::{Value, json};

/// Names come in the order in which drivers find disks, so each is looked for by what it is. That goes for the namespaces of
/// one drive too: since Linux 6.12 they are looked at side by side (`nvme_scan_ns_async`), and n1 is the first that is ready.
const SCRIPT: &str = r#"
nvme() {
    for disk in /sys/block/nvme*; do
        [ -b "/dev/${disk##*/}" ] && grep -q "^$1 *$" "$disk/device/serial" && [ "$(cat "$disk/nsid")" = "$2" ] &&
            echo "${disk##*/}" || true
    done
}
scsi() { for disk in /sys/block/sd*; do readlink -f "$disk" | grep -q "/$1" && basename "$disk" || true; done; }
until [ -n "$(nvme ONE 1)" ] && [ -n "$(nvme TWO 1)" ] && [ -n "$(scsi virtio)" ] && [ -n "$(scsi ata)" ]; do usleep 20000; done
one=/dev/$(nvme ONE 1) two=/dev/$(nvme TWO 1) scsi=/dev/$(scsi virtio) sata=/dev/$(scsi ata)
there "$one" "$two" /dev/vda "$scsi" "$sata"
run two-formatted installer install "$two" serial-secure
run one-formatted installer install "$one" serial-secure
run one-discarded installer install "$one" serial-discard
run virtio-discarded installer install /dev/vda serial-discard
run scsi-refused installer install "$scsi" serial-secure
run scsi-discarded installer install "$scsi" serial-discard
run sata-refused installer install "$sata" serial-secure
"#;

/// Where something lies that no sample sees and no installation overwrites.
const OLD: (u64, &[u8]) = ((2 << 30) + 12_345 * 512, b"what was there before");

#[test]
fn a_drive_is_erased_by_its_own_command() {
    let scene = Scene::new("erase", Target::Tiny).unwrap();
    for (erase, name) in [(Erase::Secure, "secure"), (Erase::Discard, "discard")] {
        let mut host = scene.host.clone();
        (host.existing, host.intent, host.erase) = (Existing::Wipe, Some(name.to_owned()), erase);
        scene.published.add_host(&format!("serial-{name}"), &host).unwrap();
    }
    let file = |name: &str| scene.run.path().join(format!("{name}.img"));
    for name in ["one", "two", "virtio", "scsi", "sata"] {
        let file = File::create(file(name)).unwrap();
        file.set_len(DISK).unwrap();
        if name != "sata" {
            file.write_all_at(OLD.1, OLD.0).unwrap();
        }
    }
    let neighbour: Vec<u8> = (0..4_u32 << 20).flat_map(u32::to_le_bytes).collect();
    fs::write(file("neighbour"), &neighbour).unwrap();

    let two = [
        "-device".to_owned(),
        "nvme,id=two,serial=TWO".to_owned(),
        "-drive".to_owned(),
        format!("if=none,id=two1,format=raw,cache=unsafe,discard=unmap,file={}", file("two").display()),
        "-device".to_owned(),
        "nvme-ns,drive=two1,bus=two,nsid=1,logical_block_size=4096,physical_block_size=4096".to_owned(),
        "-drive".to_owned(),
        format!("if=none,id=two2,format=raw,cache=unsafe,file={}", file("neighbour").display()),
        "-device".to_owned(),
        "nvme-ns,drive=two2,bus=two,nsid=2".to_owned(),
    ];
    let two: Vec<&str> = two.iter().map(String::as_str).collect();
    let disks = [
        Disk::nvme(DISK).file(&file("one")).serial("ONE"),
        Disk::virtio(DISK).file(&file("virtio")).serial("VIRTIO"),
        Disk::scsi(DISK).file(&file("scsi")).serial("SCSI").sector_size(4096),
        Disk::sata(DISK).file(&file("sata")).serial("SATA"),
    ];
    let with_disks = |machine| disks.into_iter().fold(machine, |machine: Builder, disk| machine.disk(disk));
    let mut machine = workbench::start(&scene, SCRIPT, |machine| with_disks(machine).qemu_arguments(&two)).unwrap();
    let said = workbench::finish(&mut machine).unwrap();

    let format =
        |others: &[u32]| json!({"oacs": "0x010a", "sanicap": "0x00000000", "fna": "0x00", "other_namespaces": others});
    erased(&said, "two-formatted", "nvme-format-user-data", &format(&[2]));
    erased(&said, "one-formatted", "nvme-format-user-data", &format(&[]));
    for name in ["one-discarded", "virtio-discarded", "scsi-discarded"] {
        erased(&said, name, "discard", &Value::Null);
    }
    let manifest = scene.manifest().unwrap();
    for (name, sector) in [("one", 512), ("two", 4096), ("virtio", 512), ("scsi", 4096)] {
        image::check_release(&file(name), sector, &manifest).unwrap();
        assert_eq!(at(&file(name), OLD.0, OLD.1.len()), vec![0; OLD.1.len()], "{name}");
    }
    assert!(fs::read(file("neighbour")).unwrap() == neighbour, "the other namespace has changed");

    refused(&said, "sata-refused", "SATA", "the drive has no security commands");
    // Behind virtio-scsi.
    refused(&said, "scsi-refused", "SCSI", "its transport (virtio) has no command for that");
    assert!(is_blank(&file("sata")).unwrap());
    drop(machine);
    scene.passed().unwrap();
}

/// The receipt says so, and the installation ended well.
fn erased(said: &Said, name: &str, method: &str, abilities: &Value) {
    let (lines, code) = said.of(name).unwrap();
    assert_eq!(code, 0, "{lines:#?}");
    let receipts = said.events(name, "erase", "info").unwrap();
    let [receipt] = receipts.as_slice() else { panic!("{receipts:?}") };
    let samples = json!({"blocks": 256, "zeroes": 256, "changed": 0});
    let found = (&receipt["method"], &receipt["abilities"], &receipt["refused"], &receipt["samples"]);
    assert_eq!(found, (&method.into(), abilities, &json!([]), &samples));
}

/// Which of both is sda is up to the kernel.
fn refused(said: &Said, name: &str, serial: &str, why: &str) {
    let (lines, code) = said.of(name).unwrap();
    let disk = format!("disk sda (serial {serial}) cannot be erased as \"erase\" in the host config wants");
    let text = format!("error: [cannot-erase]: locking the disk: {disk}: {why}");
    let is_text = |line: &&str| line.replace("sdb (", "sda (") == text;
    assert!(code == 1 && lines.last().is_some_and(is_text), "{lines:#?}");
    assert!(lines.contains(&"No disk was written to."), "{lines:#?}");
}

fn at(path: &Path, offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    File::open(path).unwrap().read_exact_at(&mut bytes, offset).unwrap();
    bytes
}
