//! A disk takes a write and never answers. The installer's main thread, on which its reactor runs, waits for it in the kernel,
//! where no signal reaches it, and all others are stopped, so that none tells that it lives: PID 1 notices, reports it, and reboots
//! the machine, in the time that docs/design.md says and by itself, without the watchdog.

use std::time::Duration;

use metalstrap_qemu::{Exit, minutes};
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, LONG, Scene};
use metalstrap_tests::uptime::last_line;
use serde_json::json;

/// The first step that writes.
const STEP: &str = "invalidate";
/// PID 1's silence, and its patience after SIGKILL; the last sign of life is at most 10 s older than the hang.
const NOTICED: std::ops::Range<Duration> = Duration::from_secs(300 + 30 - 10)..Duration::from_secs(300 + 30 + 90);

#[test]
fn a_hung_installer_is_rebooted() {
    let mut scene = Scene::new("hung", Target::Tiny).unwrap();
    scene.site.reboot_on_failure_after = Some(3);
    scene.sabotage("stuck", STEP).unwrap();

    let mut machine = scene.start(DISK, |builder| builder.watchdog()).unwrap();
    // One byte a second: after the first write, whatever its size, the next one would wait for days.
    let throttle =
        json!({"device": "disk0", "bps": 0, "bps_rd": 0, "bps_wr": 1, "iops": 0, "iops_rd": 0, "iops_wr": 0});
    machine.monitor("block_set_io_throttle", &throttle).unwrap();
    let began = machine.serial().wait_for_event("the first write", LONG, |event| event["step"] == STEP).unwrap();

    machine.serial().wait_for("Reporting a failure: ", minutes(12)).unwrap();
    let noticed = last_line(&machine, "the report", |line| line.text.contains("Reporting a failure: ")).unwrap();
    let hung = noticed.at - began.at;
    assert!(NOTICED.contains(&hung), "it took {hung:?}");
    machine.serial().wait_for("*** INSTALLATION FAILED: installer-died ***", minutes(3)).unwrap();
    machine.serial().wait_for("Rebooting in 3 s unless one of these keys is pressed.", minutes(2)).unwrap();
    // To flush what the disk does not take costs 30 s.
    assert_eq!(machine.wait_exit(minutes(3)).unwrap(), Exit::Reset);
    assert!(machine.monitor_times("WATCHDOG").is_empty());

    let reported = scene.reported("failed", minutes(1)).unwrap();
    let happened = "the installer process did not respond for 300 s and could not be killed";
    assert_eq!((&reported["code"], &reported["happened"]), (&json!("installer-died"), &json!(happened)));
    assert_eq!(reported["step"], STEP);
    assert_eq!(
        reported["untouched"],
        "No disk but the one being installed to was written to. What is on it may not be complete and may not boot."
    );
    assert_eq!(
        reported["advice"],
        "Reboot: it still waits for a device, so a retry reboots too. If it happens again, check the disk and the console's log."
    );
    assert!(machine.serial().text().contains(&format!("What happened: {happened}")));
    drop(machine);
    scene.passed().unwrap();
}
