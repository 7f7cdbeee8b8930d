//! md, dm-crypt, LVM, bcache and swap hold a disk, one on the other, some of them on another disk too: the installer, run as an
//! ordinary command, takes them down from the top to the bottom and installs. While a file system of the disk is mounted, it
//! refuses, and everything stays. What has happened once does not happen to what somebody else has put there since.

use metalstrap_qemu::{Builder, Disk, find_tool};
use metalstrap_release::host::Existing;
use metalstrap_tests::image::{self, Part};
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, SERIAL, Scene};
use metalstrap_tests::workbench::{self, Said};
use serde_json::json;

/// md, LVM, swap, the data of a bcache, a file system, the cache.
const DISKS_OWN: &str = "size=64M\nsize=64M\nsize=64M\nsize=64M\nsize=64M\nsize=256M\n";
/// The other half of the array, and of an LVM volume.
const OTHERS: &str = "size=64M\nsize=64M\n";

/// What is made of the disk: dm-0 to dm-3 in this order.
const SCRIPT: &str = r#"
there /dev/vda6 /dev/vdb2
mount -t ext4 -o ro,noload /dev/vda5 /mnt
written() { awk '{ print $7 }' /sys/block/vda/stat; }
holders() {
    ls -1d /sys/block/vda/holders/* /sys/block/vda/vda*/holders/* /sys/block/vda/vda*/bcache 2>/dev/null || true
    sed 1d /proc/swaps
}

run written-before written
run mounted installer install /dev/vda default
run written-after written

mdadm --create /dev/md127 --run --assume-clean --homehost=any --level=1 --raid-devices=2 /dev/vda1 /dev/vdb1
key=$(printf %064d 1)
echo "0 $(cat /sys/block/md127/size) crypt aes-cbc-plain64 $key 0 /dev/md127 0" | dmsetup create crypt --uuid CRYPT-PLAIN-crypt
lvm pvcreate /dev/mapper/crypt
lvm vgcreate deep /dev/mapper/crypt
lvm lvcreate --yes --extents 100%FREE --name swap deep
mkswap /dev/mapper/deep-swap
swapon /dev/mapper/deep-swap
lvm vgcreate flat /dev/vda2 /dev/vdb2
lvm lvcreate --yes --extents 100%FREE --name root flat
mkswap /dev/vda3
swapon /dev/vda3
make-bcache --bucket 64k --writeback -C /dev/vda6 -B /dev/vda4
for device in /dev/vda6 /dev/vda4; do echo "$device" >/sys/fs/bcache/register; done
there /dev/bcache0
lvm vgcreate fast /dev/bcache0
lvm lvcreate --yes --extents 100%FREE --name data fast
dd if=/dev/urandom of=/dev/mapper/fast-data bs=1M count=8
run held holders

run still-mounted installer install /dev/vda default
run still-held holders
umount /mnt

run install installer install /dev/vda default
run left holders
run devices ls -1 /sys/block
run verify installer verify /dev/vda default

last=$(($(cat /sys/block/vda/size) / 2048 - 1))
dd if=/dev/vda of=/head bs=1M count=1
dd if=/dev/vda of=/tail bs=1M count=1 skip=$last
dd if=/dev/zero of=/dev/vda bs=1M count=1 conv=fsync
dd if=/dev/zero of=/dev/vda bs=1M count=1 conv=fsync seek=$last
mkswap /dev/vda
sync
run anew-before written
run anew installer install /dev/vda default
run anew-after written
dd if=/head of=/dev/vda bs=1M conv=fsync
dd if=/tail of=/dev/vda bs=1M conv=fsync seek=$last
"#;

#[test]
fn what_holds_a_disk_is_taken_down_before_it_is_wiped() {
    let mut scene = Scene::new("holders", Target::Tiny).unwrap();
    scene.host.existing = Existing::Wipe;
    scene.host.intent = Some("trial".to_owned());
    scene.published.add_default_host(&scene.host).unwrap();
    let (disk, other) = (scene.run.path().join("disk.img"), scene.run.path().join("other.img"));
    image::partitioned(&disk, DISK, DISKS_OWN).unwrap();
    image::partitioned(&other, 256 << 20, OTHERS).unwrap();
    let old = image::partitions(&disk, 512).unwrap();
    make_ext4(&disk, &old[4]);

    let disks = [Disk::virtio(DISK).file(&disk).serial(SERIAL), Disk::virtio(256 << 20).file(&other).serial("OTHER")];
    let with_disks = |machine| disks.into_iter().fold(machine, |machine: Builder, disk| machine.disk(disk));
    let mut machine = workbench::start(&scene, SCRIPT, with_disks).unwrap();
    let said = workbench::finish(&mut machine).unwrap();

    refused_while_mounted(&said);
    let held = said.of("held").unwrap().0;
    assert_eq!(held.len(), 8, "{held:?}");
    assert_eq!(said.of("still-held").unwrap().0, held);
    assert_eq!(said.of("install").unwrap().1, 0, "{:?}", said.of("install"));
    let fields = |device: &str, what: &str, name: Option<&str>, also_on: &[&str]| json!({"device": device, "what": what, "name": name, "also_on": also_on});
    let expected = [
        fields("dm-1", "swap", None, &[]),
        fields("dm-1", "LVM volume", Some("deep-swap"), &[]),
        fields("dm-0", "encrypted volume", Some("crypt"), &[]),
        fields("md127", "md array", None, &["vdb1"]),
        fields("dm-2", "LVM volume", Some("flat-root"), &["vdb2"]),
        fields("vda3", "swap", None, &[]),
        fields("dm-3", "LVM volume", Some("fast-data"), &[]),
        fields("vda4", "bcache", None, &[]),
        fields("vda6", "bcache", None, &[]),
    ];
    assert_eq!(said.events("install", "holders", "info").unwrap(), expected);
    assert_eq!(said.of("left").unwrap(), (Vec::new(), 0));
    let devices = said.of("devices").unwrap().0;
    assert!(!devices.iter().any(|name| name.starts_with("dm-") || name.starts_with("bcache")), "{devices:?}");
    assert_eq!(said.of("verify").unwrap().1, 0, "{:?}", said.of("verify"));

    refused_once_it_has_happened(&said);

    image::check_release(&disk, 512, &scene.manifest().unwrap()).unwrap();
    let found: Vec<_> = old.iter().map(|part| image::signature(&disk, part).unwrap()).collect();
    // The first one begins where the ESP does.
    assert_eq!(found, ["vfat", "", "", "", "", ""]);
    let kept = image::partitions(&other, 512).unwrap();
    let found: Vec<_> = kept.iter().map(|part| image::signature(&other, part).unwrap()).collect();
    assert_eq!(found, ["linux_raid_member", "LVM2_member"]);
    drop(machine);
    scene.passed().unwrap();
}

fn refused_while_mounted(said: &Said) {
    let text = "error: [disk-in-use]: planning the disk: disk vda (serial SCENE-1) is in use and cannot be freed: vda5 is \
                mounted on /mnt";
    for name in ["mounted", "still-mounted"] {
        let (lines, code) = said.of(name).unwrap();
        assert_eq!((lines.last(), code), (Some(&text), 1), "{lines:?}");
        assert!(lines.contains(&"No disk was written to."), "{lines:?}");
        assert!(said.events(name, "holders", "info").unwrap().is_empty());
    }
    assert_eq!(said.of("written-before").unwrap(), said.of("written-after").unwrap());
}

/// A person has laid the disk out anew since: the machine remembers that the intent has happened to it.
fn refused_once_it_has_happened(said: &Said) {
    let (lines, code) = said.of("anew").unwrap();
    let text = "error: [disk-not-blank]: planning the disk: disk vda (serial SCENE-1) holds swap, on which the intent \"trial\" \
                has happened, but not as ";
    assert!(lines.last().is_some_and(|line| line.starts_with(text)) && code == 1, "{lines:?}");
    assert_eq!(said.of("anew-before").unwrap(), said.of("anew-after").unwrap());
}

fn make_ext4(disk: &std::path::Path, part: &Part) {
    let mut mke2fs = std::process::Command::new(find_tool("mke2fs").unwrap());
    let offset = format!("offset={}", part.start);
    let blocks = (part.size / 4096).to_string();
    mke2fs.args(["-q", "-F", "-t", "ext4", "-b", "4096", "-E", &offset]).arg(disk).arg(blocks);
    assert!(mke2fs.status().unwrap().success());
}
