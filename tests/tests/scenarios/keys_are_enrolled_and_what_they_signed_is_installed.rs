//! Secure Boot from a firmware without keys on: it gets the host config's, and starts from then on what they have signed and
//! nothing else, by the network's image and from the disk. Locked down by that, the installer jumps into a kernel that is signed by
//! a key of the firmware, and reboots, as the plan says before anything is written, into one that is not.

use std::fs;
use std::path::Path;
use std::process::Command;

use metalstrap_initrd::Signer;
use metalstrap_qemu::{Disk, Exit, Machine, minutes};
use metalstrap_release::host::{HandoffMode, SecureBootKeys};
use metalstrap_tests::measured::note;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{self, DISK, LONG, SERIAL, Scene};
use serde_json::{Value, json};

#[test]
fn keys_are_enrolled_and_what_they_signed_is_installed() {
    let mut scene = Scene::new("secure-boot", Target::Tiny).unwrap();
    let dir = scene.run.path().to_owned();
    let keys = make_keys(&dir);
    let (certificate, signer) = (dir.join("db.pem"), Signer::read(&dir.join("db.key"), &dir.join("db.pem")).unwrap());
    let published = &scene.published;
    let signed = published.add_signed_tiny("2", &dir.join("signed"), &signer, Some(&certificate)).unwrap().to_string();
    let outside = published.add_signed_tiny("3", &dir.join("outside"), &signer, None).unwrap().to_string();
    scene.host.release.version = "2".to_owned();
    scene.host.secure_boot_keys = Some(keys);
    scene.host.handoff = HandoffMode::Reboot;
    let unsigned_image = scene.netboot().unwrap();
    let image = dir.join("signed.efi");
    fs::copy(&unsigned_image, &image).unwrap();
    signer.sign_file(&image).unwrap();

    // In setup mode anything is started.
    let disk = Disk::virtio(DISK).serial(SERIAL);
    let machine = Machine::builder("machine").memory(1024).disk(disk).in_setup_mode().usb_stick(&unsigned_image);
    let mut machine = machine.start(&scene.lab).unwrap();
    assert_eq!(machine.wait_exit(LONG).unwrap(), Exit::Reset);
    assert_eq!(enrolled(&machine), [json!(["db", "KEK", "PK"])]);

    // The firmware's own way: boot loader and UKI are signed.
    let mut machine = machine.power_cycle(|builder| builder.firmware_boot()).unwrap();
    assert_eq!(started(&mut machine), signed);

    // The firmware passes it over, and starts the disk behind it.
    let mut machine = machine.power_cycle(|builder| builder.usb_stick(&unsigned_image)).unwrap();
    machine.serial().wait_for("Access Denied", minutes(4)).unwrap();
    assert_eq!(started(&mut machine), signed);
    assert!(machine.serial().events().is_empty(), "the installer was started");
    note(&json!({"secure_boot": {"unsigned_refused": true}})).unwrap();

    // This one's kernel is not signed, and the release does not say that it were.
    let keys = scene.host.secure_boot_keys.take();
    (scene.host.release.version, scene.host.handoff) = ("3".to_owned(), HandoffMode::Kexec);
    scene.published.add_default_host(&scene.host).unwrap();
    let mut machine = machine.power_cycle(|builder| builder.usb_stick(&image)).unwrap();
    assert_eq!(machine.wait_exit(LONG).unwrap(), Exit::Reset);
    let reason = "the kernel is locked down (integrity), and the release does not say by whom its kernel is signed (`metalstrap \
                  publish --secure-boot-certificate`)";
    assert_eq!(scene::plan(&machine).unwrap()["handoff"], json!({"ending": "reboot", "reasons": [reason]}));
    let mut machine = machine.power_cycle(|builder| builder.firmware_boot()).unwrap();
    assert_eq!(started(&mut machine), outside);
    note(&json!({"secure_boot": {"signed_installs": true}})).unwrap();

    // The firmware has the keys, and this one's kernel is signed by the one in db.
    (scene.host.release.version, scene.host.secure_boot_keys) = ("2".to_owned(), keys);
    scene.published.add_default_host(&scene.host).unwrap();
    let mut machine = machine.power_cycle(|builder| builder.usb_stick(&image)).unwrap();
    assert_eq!(started(&mut machine), signed);
    assert_eq!(enrolled(&machine), Vec::<Value>::new());
    assert_eq!(scene::plan(&machine).unwrap()["handoff"], json!({"ending": "kexec", "reasons": []}));
    note(&json!({"secure_boot": {"lockdown_kexec": true}})).unwrap();
    drop(machine);
    scene.passed().unwrap();
}

/// Makes key and certificate `db` in `dir`, and signed updates of all three variables with that one certificate, the way that
/// docs/security.md shows.
fn make_keys(dir: &Path) -> SecureBootKeys {
    let run = |program: &str, line: &str| {
        let output = Command::new(program).args(line.split(' ')).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{program} {line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run("openssl", "req -x509 -newkey rsa:2048 -nodes -days 9 -subj /CN=operator -keyout db.key -out db.pem");
    run("openssl", "x509 -in db.pem -outform der -out db.der");
    run("sbsiglist", "--owner 11223344-5566-7788-99aa-bbccddeeff00 --type x509 --output db.esl db.der");
    let [pk, kek, db] = ["PK", "KEK", "db"].map(|name| {
        // Without them it signs for APPEND_WRITE too, and the firmware refuses a PK.
        let attributes = "NON_VOLATILE,BOOTSERVICE_ACCESS,RUNTIME_ACCESS";
        run("sbvarsign", &format!("--attr {attributes} --key db.key --cert db.pem --output {name}.auth {name} db.esl"));
        fs::read(dir.join(format!("{name}.auth"))).unwrap()
    });
    SecureBootKeys::new(&pk, &kek, &db)
}

/// Root hash of the OS that was started, once it has switched the machine off.
fn started(machine: &mut Machine<'_>) -> String {
    scene::started(machine, LONG).unwrap().root_hash
}

/// What the installer told that it had enrolled, each time.
fn enrolled(machine: &Machine<'_>) -> Vec<Value> {
    let events = machine.serial().events();
    events.iter().filter_map(|event| event.value.pointer("/fields/enrolled").cloned()).collect()
}
