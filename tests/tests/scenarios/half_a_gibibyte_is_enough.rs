//! 512 MiB of memory are enough to boot from the network, install and kexec; the disk boots afterwards. The firmware's boot
//! entries are as `disk-first` wants them, as efibootmgr sees them in the installed OS.

use metalstrap_qemu::{Disk, Machine, minutes};
use metalstrap_release::host::BootOrder;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, LONG, SERIAL, Scene, started};
use metalstrap_tests::{image, workbench};
use metalstrap_tiny::report::PROBED;

/// Bytes: some controllers offer no smaller sectors.
const SECTOR: u64 = 4096;

#[test]
fn half_a_gibibyte_is_enough() {
    let mut scene = Scene::new("half-gib", Target::Tiny).unwrap();
    let efibootmgr = workbench::efibootmgr().unwrap();
    let root_hash = scene.published.add_tiny("2", &scene.run.path().join("tiny"), efibootmgr).unwrap().to_string();
    scene.host.release.version = "2".to_owned();
    scene.host.boot_order = BootOrder::DiskFirst;
    scene.lab.serve_netboot(&scene.netboot().unwrap()).unwrap();
    let blocks = scene.manifest().unwrap().root().unwrap().data.content_size / 4096;

    let disk = Disk::nvme(DISK).serial(SERIAL).sector_size(u32::try_from(SECTOR).unwrap());
    let machine = Machine::builder("small").memory(512).disk(disk).firmware_http_boot();
    let mut machine = machine.start(&scene.lab).unwrap();
    let after_kexec = started(&mut machine, LONG).unwrap();
    assert_eq!(after_kexec.root_hash, root_hash);
    assert_eq!(after_kexec.blocks, blocks);
    let ours = is_first(&machine);
    let said = probed(&machine.serial().text());
    assert!(said.contains(&format!("BootNext: {ours}")), "{said:#?}");
    assert!(!said.contains(&format!("BootCurrent: {ours}")), "{said:#?}");

    let reported = scene.reported("finished", minutes(1)).unwrap();
    assert_eq!(reported["handoff"], "kexec");
    assert_eq!(reported["root_hash"], root_hash);
    assert!(reported["peak_rss_bytes"].as_u64().unwrap() <= 128 << 20, "{reported}");
    assert!(reported["lowest_mem_available_bytes"].as_u64().unwrap() > 0, "{reported}");

    let mut machine = machine.power_cycle(|builder| builder.firmware_boot()).unwrap();
    assert_eq!(started(&mut machine, LONG).unwrap(), after_kexec);
    assert_eq!(is_first(&machine), ours);
    let said = probed(&machine.serial().text());
    assert!(said.contains(&format!("BootCurrent: {ours}")), "{said:#?}");
    assert!(!said.iter().any(|line| line.starts_with("BootNext")), "{said:#?}");
    drop(machine);
    scene.passed().unwrap();
}

/// The number of our entry, which must be the whole of what efibootmgr shows for it, and the first of the boot order.
fn is_first(machine: &Machine<'_>) -> String {
    let said = probed(&machine.serial().text());
    let parts = image::partitions(&machine.disk(0).unwrap(), SECTOR).unwrap();
    let (esp, uuid) = (&parts[0], parts[0].uuid.to_lowercase());
    let (start, size) = (esp.start / SECTOR, esp.size / SECTOR);
    let entry =
        format!("* Linux (tiny)\tHD(1,GPT,{uuid},{start:#x},{size:#x})/File(\\EFI\\systemd\\systemd-bootx64.efi)");
    let ours: Vec<_> = said.iter().filter_map(|line| line.strip_prefix("Boot")?.strip_suffix(&entry)).collect();
    let [ours] = ours.as_slice() else { panic!("not one {entry:?} in {said:#?}") };
    let order = said.iter().find_map(|line| line.strip_prefix("BootOrder: ")).unwrap();
    assert_eq!(order.split(',').next(), Some(*ours), "{order}");
    (*ours).to_owned()
}

/// The lines of the last efibootmgr on the console.
fn probed(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.strip_prefix(PROBED)).map(str::to_owned).collect()
}
