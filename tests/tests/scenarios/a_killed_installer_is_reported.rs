//! The installer process dies without a word, in the midst of an installation: PID 1 says so on the console, reports it
//! to the server, and reboots the machine after the time that the site config gives.

use metalstrap_qemu::{Exit, minutes};
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, LONG, Scene};

#[test]
fn an_installer_killed_by_sigkill_is_reported() {
    dies("kill", "the installer process was killed by signal 9 (SIGKILL)");
}

#[test]
fn an_installer_killed_by_sigsegv_is_reported() {
    dies("segv", "the installer process was killed by signal 11 (SIGSEGV)");
}

#[test]
fn an_installer_killed_by_the_oom_killer_is_reported() {
    dies("oom", "the installer process was killed by the kernel because memory ran out (SIGKILL)");
}

/// What may be under way when the saboteur strikes, behind the step before it.
const STEPS: [&str; 5] = ["hash-tree", "root", "read-back", "gpt", "esp"];

/// The saboteur does this deed, and this must have happened.
fn dies(deed: &str, happened: &str) {
    let mut scene = Scene::new(&format!("dies-{deed}"), Target::Tiny).unwrap();
    scene.site.reboot_on_failure_after = Some(3);
    scene.sabotage(deed, "root").unwrap();

    let mut machine = scene.start(DISK, |builder| builder).unwrap();
    machine.serial().wait_for("*** INSTALLATION FAILED: installer-died ***", LONG).unwrap();
    machine.serial().wait_for("Rebooting in 3 s unless one of these keys is pressed.", minutes(2)).unwrap();
    assert_eq!(machine.wait_exit(minutes(2)).unwrap(), Exit::Reset);

    let reported = scene.reported("failed", minutes(1)).unwrap();
    assert_eq!(reported["happened"], happened);
    assert_eq!(reported["code"], "installer-died");
    // The saboteur strikes once the kernel's log says that the root file system is being written; a busy host may give it
    // its turn a step later. The supervisor hears of a step before the kernel's log does, and the serial line last.
    let place = |step: &serde_json::Value| STEPS.iter().position(|known| step == known).unwrap();
    let reported_step = place(&reported["step"]);
    let events = machine.serial().events();
    let told = place(&events.iter().rev().find(|event| event.value["state"] == "started").unwrap().value["step"]);
    assert!(reported_step > 0 && (told == reported_step || told + 1 == reported_step), "{reported:?}, told {told}");
    assert_eq!(
        reported["untouched"],
        "No disk but the one being installed to was written to. What is on it may not be complete and may not boot."
    );
    assert!(machine.serial().text().contains(&format!("What happened: {happened}")));
    drop(machine);
    scene.passed().unwrap();
}
