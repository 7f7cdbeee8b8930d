//! 512 MiB of memory are enough to boot from the network, install and kexec; the disk boots afterwards.

use metalstrap_qemu::{Disk, Exit, Machine, minutes};
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, LONG, SERIAL, Scene};
use metalstrap_tiny::report::{PREFIX, Report};

#[test]
fn half_a_gibibyte_is_enough() {
    let scene = Scene::new("half-gib", Target::Tiny).unwrap();
    scene.lab.serve_netboot(&scene.netboot().unwrap()).unwrap();
    let root = scene.manifest().unwrap().root().unwrap().clone();

    // Sectors of 4096 bytes: some controllers offer nothing else.
    let disk = Disk::nvme(DISK).serial(SERIAL).sector_size(4096);
    let machine = Machine::builder("small").memory(512).disk(disk).firmware_http_boot();
    let mut machine = machine.start(&scene.lab).unwrap();
    machine.serial().wait_for(PREFIX, LONG).unwrap();
    assert_eq!(machine.wait_exit(minutes(2)).unwrap(), Exit::PoweredOff);
    let after_kexec = Report::find(&machine.serial().text()).unwrap();
    assert_eq!(after_kexec.root_hash, root.root_hash.to_string());
    assert!(after_kexec.root_is_verity);
    assert_eq!(after_kexec.blocks, root.data.content_size / 4096);

    let reported = scene.reported("finished", minutes(1)).unwrap();
    assert_eq!(reported["handoff"], "kexec");
    assert_eq!(reported["root_hash"], root.root_hash.to_string());
    assert!(reported["peak_rss_bytes"].as_u64().unwrap() <= 128 << 20, "{reported}");
    assert!(reported["lowest_mem_available_bytes"].as_u64().unwrap() > 0, "{reported}");

    let mut machine = machine.power_cycle(|builder| builder.firmware_boot()).unwrap();
    machine.serial().wait_for(PREFIX, LONG).unwrap();
    assert_eq!(machine.wait_exit(minutes(2)).unwrap(), Exit::PoweredOff);
    let from_disk = Report::find(&machine.serial().text()).unwrap();
    assert_eq!(from_disk, after_kexec);
    drop(machine);
    scene.passed().unwrap();
}
