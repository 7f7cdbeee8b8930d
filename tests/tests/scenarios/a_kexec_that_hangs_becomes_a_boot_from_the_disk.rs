//! The kernel that the installer jumps into hangs, by an addition to its command line that a boot from the disk does not have: the
//! watchdog, which went along, resets the machine, and the firmware starts the OS from its disk. When the machine comes to the
//! installer again, that says that the kexec failed, and reboots instead.

use metalstrap_qemu::{Disk, Machine};
use metalstrap_tests::measured::note;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{self, DISK, LONG, SERIAL, Scene};
use metalstrap_tests::uptime::{last_line, seconds};
use serde_json::{Value, json};

/// Seconds of the watchdog.
const WATCHDOG: &str = "30";
/// A UART says in its register 5 that it is ready. The one that these ports are is none, and the fifth behind them is the page
/// register of a DMA channel that nobody uses, which reads as zero: the kernel waits for ever before its first message.
const HANGS: &str = "earlycon=uart8250,io,0x82";
/// PID 1's last words.
const JUMP: &str = "Starting the installed kernel.";
const MARK: &str = "MetalstrapKexec-6f6b9b5c-2f0e-4b7b-9d57-0b5b4f6e8a31";

#[test]
fn a_kexec_that_hangs_becomes_a_boot_from_the_disk() {
    let mut scene = Scene::publishing("hung-kexec", Target::Tiny, &["--watchdog", WATCHDOG]).unwrap();
    scene.host.cmdline_extra = HANGS.to_owned();
    let root_hash = scene.manifest().unwrap().root().unwrap().root_hash.to_string();
    let image = scene.netboot().unwrap();
    let machine = Machine::builder("machine").memory(1024).disk(Disk::virtio(DISK).serial(SERIAL)).watchdog();
    let mut machine = machine.reboots(true).firmware_boot_with_stick(&image).start(&scene.lab).unwrap();

    machine.serial().wait_for(JUMP, LONG).unwrap();
    assert_eq!(started(&mut machine), root_hash);
    let resets = machine.monitor_times("WATCHDOG");
    let [reset] = resets.as_slice() else { panic!("{resets:?}") };
    let left = last_line(&machine, "the jump", |line| line.text.contains(JUMP)).unwrap();
    let hung = seconds(left.time, *reset).unwrap();
    // It is fed a moment after those words; a busy host comes late.
    assert!((29.0..120.0).contains(&hung), "the machine hung for {hung} s");
    assert_eq!(scene::plan(&machine).unwrap()["handoff"], json!({"ending": "kexec", "reasons": []}));
    // The mark could be set.
    assert_eq!(warnings(&values(&machine)), Vec::<Value>::new());
    let run = values(&machine)[0]["run"].as_str().unwrap().to_owned();

    // The firmware tries the stick first again.
    let mut machine = machine.power_cycle(|builder| builder).unwrap();
    machine.serial().wait_for("Rebooting.", LONG).unwrap();
    assert_eq!(started(&mut machine), root_hash);
    assert!(machine.monitor_times("WATCHDOG").is_empty());
    let reason = format!(
        "this machine's last kexec, into tiny_1 by run {run}, was not confirmed by the OS and counts as failed (EFI variable \
         {MARK})"
    );
    assert_eq!(scene::plan(&machine).unwrap()["handoff"], json!({"ending": "reboot", "reasons": [reason]}));
    let complaint = json!(format!("reboot instead of kexec: {reason}"));
    for events in [values(&machine), scene.lab.reports().unwrap()] {
        assert!(warnings(&events).contains(&complaint), "{events:#?}");
        let ends: Vec<_> = events.iter().filter(|event| event["state"] == "finished").collect();
        assert_eq!(ends.last().unwrap()["fields"]["handoff"], "reboot");
    }
    drop(machine);
    note(&json!({"watchdog_recovers": true})).unwrap();
    scene.passed().unwrap();
}

/// Root hash of the OS that was started from the disk, once it has switched the machine off.
fn started(machine: &mut Machine<'_>) -> String {
    let report = scene::started(machine, LONG).unwrap();
    assert!(!report.cmdline.contains(HANGS), "{report:?}");
    report.root_hash
}

/// The events on the console.
fn values(machine: &Machine<'_>) -> Vec<Value> {
    machine.serial().events().into_iter().map(|event| event.value).collect()
}

/// What was warned of that is about the kexec.
fn warnings(events: &[Value]) -> Vec<Value> {
    let warnings = events.iter().filter(|event| event["state"] == "warning");
    let messages = warnings.map(|event| event["fields"]["message"].clone());
    messages.filter(|message| message.as_str().is_some_and(|text| text.contains("kexec"))).collect()
}
