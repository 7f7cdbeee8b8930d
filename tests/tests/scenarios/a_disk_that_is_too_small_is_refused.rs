//! A disk that the layout does not fit is refused with both sizes, and not a byte is written to it.

use metalstrap_qemu::{Exit, minutes};
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{LONG, SERIAL, Scene, is_blank};

#[test]
fn a_disk_that_is_too_small_is_refused() {
    let mut scene = Scene::new("too-small", Target::Tiny).unwrap();
    scene.site.reboot_on_failure_after = Some(3);
    let layout = scene.manifest().unwrap().layout;
    let size: u64 = 512 << 20;
    let mut machine = scene.start(size, |builder| builder).unwrap();
    machine.serial().wait_for("*** INSTALLATION FAILED: disk-too-small ***", LONG).unwrap();
    assert_eq!(machine.wait_exit(minutes(2)).unwrap(), Exit::Reset);

    let slot = layout.root_size + layout.root_verity_size;
    // One MiB before the first partition; the backup table is 33 sectors of 512 bytes.
    let tables = (1 << 20) + 33 * 512;
    let wanted = layout.esp_size + u64::from(layout.slots) * slot + layout.free_size;
    let reported = scene.reported("failed", minutes(1)).unwrap();
    assert_eq!(reported["code"], "disk-too-small");
    assert_eq!(reported["step"], "plan");
    let happened = format!(
        "planning the disk: disk vda (serial {SERIAL}) has {size} bytes, but the layout needs {}: ESP {}, {} slots of {slot}, \
         {} free, {tables} for partition tables and alignment",
        wanted + tables,
        layout.esp_size,
        layout.slots,
        layout.free_size,
    );
    assert_eq!(reported["happened"], happened);
    assert_eq!(reported["untouched"], "No disk was written to.");
    let console = machine.serial().text();
    assert!(console.contains(&format!("What happened: {happened}")), "{console}");
    assert!(is_blank(&machine.disk(0).unwrap()).unwrap(), "something was written to the disk");
    drop(machine);
    scene.passed().unwrap();
}
