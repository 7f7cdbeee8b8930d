use std::os::unix::fs::symlink;

use super::*;

/// A made-up machine: `/sys`, `/dev` and mountinfo below one directory.
struct Machine {
    dir: tempfile::TempDir,
    roots: Roots,
}

impl Machine {
    fn new(mountinfo: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let roots = Roots { sys: at("sys"), dev: at("dev"), mountinfo: at("mountinfo"), swaps: at("swaps") };
        fs::create_dir_all(roots.sys.join("block")).unwrap();
        fs::create_dir_all(&roots.dev).unwrap();
        fs::write(&roots.mountinfo, mountinfo).unwrap();
        Self { dir, roots }
    }

    /// A disk of 1 MiB at `path` below `/sys/devices`, with attributes.
    fn disk(&self, path: &str, attributes: &[(&str, &str)]) -> PathBuf {
        let block = self.roots.sys.join("devices").join(path);
        let name = block.file_name().unwrap().to_owned();
        for (attribute, text) in [("size", "2048\n"), ("queue/logical_block_size", "512\n")].iter().chain(attributes) {
            let file = block.join(attribute);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        symlink(&block, self.roots.sys.join("block").join(&name)).unwrap();
        fs::write(self.roots.dev.join(&name), vec![0; 1 << 20]).unwrap();
        block
    }

    fn disks(&self) -> Vec<DiskFacts> {
        disks_in(&self.roots).unwrap()
    }
}

#[test]
fn every_kind_of_disk_is_found_with_its_transport_and_others_are_not() {
    let machine = Machine::new("");
    let pci = "pci0000:00/0000:00:03.0";
    for path in [
        format!("{pci}/virtio0/block/vda"),
        format!("{pci}/nvme/nvme0/nvme0n1"),
        "virtual/nvme-subsystem/nvme-subsys1/nvme1n1".into(),
        format!("{pci}/ata1/host0/target0:0:0/0:0:0:0/block/sda"),
        format!("{pci}/host1/port-1:0/end_device-1:0/target1:0:0/1:0:0:0/block/sdb"),
        format!("{pci}/usb1/1-1/1-1:1.0/host2/target2:0:0/2:0:0:0/block/sdc"),
        format!("{pci}/host3/target3:2:0/3:2:0:0/block/sdd"),
        "platform/80860F14:00/mmc_host/mmc0/mmc0:0001/block/mmcblk0".into(),
        // Not these.
        "platform/80860F14:00/mmc_host/mmc0/mmc0:0001/block/mmcblk0boot0".into(),
        "virtual/block/loop0".into(),
        "virtual/block/nbd0".into(),
        "virtual/block/dm-0".into(),
        format!("{pci}/ata2/host4/target4:0:0/4:0:0:0/block/sr0"),
    ] {
        machine.disk(&path, &[]);
    }
    machine.disk(&format!("{pci}/nvme/nvme1/nvme1c1n1"), &[("hidden", "1\n")]);
    machine.disk(&format!("{pci}/usb1/1-2/host5/target5:0:0/5:0:0:0/block/sde"), &[("size", "0\n")]);
    let found: Vec<_> = machine.disks().iter().map(|disk| format!("{} {}", disk.name, disk.transport)).collect();
    let expected =
        ["mmcblk0 mmc", "nvme0n1 nvme", "nvme1n1 nvme", "sda sata", "sdb sas", "sdc usb", "sdd scsi", "vda virtio"];
    assert_eq!(found, expected);
}

#[test]
fn the_facts_of_a_disk_are_read() {
    let machine = Machine::new("24 1 254:1 / /srv rw - ext4 /dev/vda1 rw\n");
    let attributes = [
        ("serial", "S1"),
        ("removable", "1\n"),
        ("ro", "1\n"),
        ("queue/rotational", "1\n"),
        ("queue/logical_block_size", "4096\n"),
        ("queue/physical_block_size", "8192\n"),
        ("dev", "254:0\n"),
        ("vda1/partition", "1\n"),
        ("vda1/dev", "254:1\n"),
        ("vda2/partition", "2\n"),
        ("vda2/dev", "254:2\n"),
        ("vda2/holders/dm-0/name", "x"),
        ("vda3/partition", "3\n"),
        ("device/rev", "1.0 \n"),
    ];
    fs::write(&machine.roots.swaps, "Filename\tType\n/dev/vda3 partition 1 0 -2\n").unwrap();
    machine.disk("pci0000:00/0000:00:05.0/virtio0/block/vda", &attributes);
    let expected = DiskFacts {
        name: "vda".into(),
        path: machine.roots.dev.join("vda"),
        identity: Identity { serial: Some("S1".into()), size: 1 << 20, ..Identity::default() },
        by_path: Some("pci-0000:00:05.0".into()),
        firmware: Some("1.0".into()),
        nvme: None,
        sector_size: 4096,
        physical_sector_size: 8192,
        transport: "virtio".into(),
        rotational: true,
        removable: true,
        read_only: true,
        used_by: ["vda1 is mounted on /srv", "vda2 is held by dm-0", "vda3 is used as swap"].map(Into::into).to_vec(),
        contents: Contents::Blank,
    };
    assert_eq!(machine.disks(), [expected]);
}

#[test]
fn a_cache_of_bcache_holds_a_disk_also_where_nothing_is_attached_to_it() {
    let machine = Machine::new("");
    let attributes = [
        ("vda1/partition", "1\n"),
        ("vda1/bcache/nbuckets", "8\n"),
        ("vda2/partition", "2\n"),
        ("vda2/bcache/stop", ""),
        ("vda2/holders/bcache0/name", "x"),
    ];
    machine.disk("pci0000:00/0000:00:05.0/virtio0/block/vda", &attributes);
    assert_eq!(machine.disks().remove(0).used_by, ["vda1 is held by bcache", "vda2 is held by bcache0"]);
}

#[test]
fn an_nvme_namespace_tells_more_of_itself() {
    let machine = Machine::new("");
    let attributes = [
        ("nsid", "1\n"),
        ("eui", "00 25 38 8b 71 b0 a5 c2\n"),
        ("metadata_bytes", "0\n"),
        ("device/transport", "pcie\n"),
        ("device/subsysnqn", "nqn.1994-11.com.samsung:nvme:980\n"),
        ("device/cntlid", "5\n"),
        ("device/firmware_rev", "2B4QFXO7\n"),
    ];
    machine.disk("pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1", &attributes);
    let disk = machine.disks().remove(0);
    assert_eq!(
        (disk.by_path.as_deref(), disk.firmware.as_deref()),
        (Some("pci-0000:01:00.0-nvme-1"), Some("2B4QFXO7"))
    );
    let expected = NvmeFacts {
        namespace: 1,
        transport: Some("pcie".into()),
        subsystem_nqn: Some("nqn.1994-11.com.samsung:nvme:980".into()),
        controller_id: Some(5),
        eui: Some("00 25 38 8b 71 b0 a5 c2".into()),
        nguid: None,
        metadata_bytes: Some(0),
    };
    assert_eq!(disk.nvme, Some(expected));
}

#[test]
fn a_disk_that_cannot_be_read_is_listed_as_such() {
    let machine = Machine::new("");
    machine.disk("pci0000:00/virtio0/block/vda", &[]);
    fs::remove_file(machine.roots.dev.join("vda")).unwrap();
    let error = "No such file or directory (os error 2)".to_owned();
    assert_eq!(machine.disks()[0].contents, Contents::Unreadable { error, otherwise: None });
    fs::write(machine.roots.dev.join("vda"), vec![0; 512]).unwrap();
    let path = machine.roots.dev.join("vda").display().to_string();
    let error = format!("reading bytes 1048064 to 1048576 of {path}: failed to fill whole buffer");
    assert_eq!(machine.disks()[0].contents, Contents::Unreadable { error, otherwise: None });
}

#[test]
fn a_plain_file_is_a_disk_and_other_things_are_not() {
    let machine = Machine::new("");
    let path = machine.dir.path().join("image");
    fs::write(&path, vec![0; 8192]).unwrap();
    let facts = disk_at(&machine.roots, &path, 4096).unwrap();
    assert_eq!((facts.transport.as_str(), facts.identity.size, facts.sector_size), ("file", 8192, 4096));
    assert_eq!(facts.contents, Contents::Blank);
    let held = facts.lock(&machine.roots.sys).unwrap();
    let text = |error: anyhow::Error| format!("{error:#}");
    let name = path.display();
    assert_eq!(text(facts.lock(&machine.roots.sys).unwrap_err()), format!("disk {name} is locked by another program"));
    held.write_at(0, &[1; 4096]).unwrap();
    drop(held);
    let changed = format!("disk {name} has changed since it was looked at");
    assert_eq!(text(facts.lock(&machine.roots.sys).unwrap_err()), changed);
    let error = disk_at(&machine.roots, machine.dir.path(), 512).unwrap_err();
    assert_eq!(text(error), format!("{} is neither a block device nor a plain file", machine.dir.path().display()));
}

#[test]
fn this_machine_can_be_listed() {
    for disk in disks(Path::new("/sys")).unwrap() {
        assert!(disk.identity.size > 0 && disk.path.starts_with("/dev"), "{disk:?}");
    }
}
