use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Mutex;

use super::*;
use crate::disk::Identity;
use crate::failure::code_of;
use crate::inventory::Contents;
use crate::report::Screen;

/// A made-up machine: `/sys`, mountinfo and swaps below one directory. Acts change it as a kernel would.
#[derive(Debug)]
struct Machine {
    dir: tempfile::TempDir,
    roots: Roots,
    /// What was done.
    done: Mutex<Vec<String>>,
    /// The device that does not go, and why.
    stays: Option<(&'static str, io::ErrorKind)>,
    /// How often somebody still has the disk when it is asked for, though nothing is seen to hold it.
    busy: Mutex<u32>,
    /// The device that is seen until the next wait, though it was ended.
    lingering: Mutex<Option<&'static str>>,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let roots = Roots { sys: at("sys"), dev: at("dev"), mountinfo: at("mountinfo"), swaps: at("swaps") };
        fs::create_dir_all(roots.sys.join("block")).unwrap();
        fs::write(&roots.mountinfo, "").unwrap();
        fs::write(&roots.swaps, "Filename\tType\n").unwrap();
        Self { dir, roots, done: Mutex::default(), stays: None, busy: Mutex::new(0), lingering: Mutex::new(None) }
    }

    fn block(&self, device: &str) -> PathBuf {
        self.roots.sys.join("block").join(device)
    }

    fn file(&self, path: &str, text: &str) {
        let path = self.block(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A partition: `sda/sda1`.
    fn partition(&self, path: &str) {
        self.file(&format!("{path}/partition"), "1\n");
    }

    /// `holder` is made of the device at each of these paths.
    fn made_of(&self, holder: &str, of: &[&str]) {
        for path in of {
            let name = path.rsplit('/').next().unwrap();
            self.file(&format!("{path}/holders/{holder}"), "");
            self.file(&format!("{holder}/slaves/{name}"), "");
        }
    }

    fn mapped(&self, device: &str, name: &str, uuid: &str) {
        self.file(&format!("{device}/dm/name"), name);
        self.file(&format!("{device}/dm/uuid"), uuid);
        self.file(&format!("{device}/dev"), &format!("253:{}\n", device.strip_prefix("dm-").unwrap()));
    }

    fn swap(&self, nodes: &[&str]) {
        let lines = nodes.iter().map(|node| format!("{node} partition 1 0 -2\n"));
        fs::write(&self.roots.swaps, format!("Filename\tType\n{}", lines.collect::<String>())).unwrap();
    }

    fn disk(&self) -> DiskFacts {
        DiskFacts {
            name: "sda".into(),
            path: "/dev/sda".into(),
            identity: Identity { serial: Some("S1".into()), size: 1 << 20, ..Identity::default() },
            by_path: None,
            firmware: None,
            sector_size: 512,
            physical_sector_size: 512,
            transport: "sata".into(),
            rotational: false,
            removable: false,
            read_only: false,
            nvme: None,
            used_by: Vec::new(),
            contents: Contents::Blank,
        }
    }

    fn found(&self) -> Vec<String> {
        of(&self.roots, &self.disk()).unwrap().iter().map(ToString::to_string).collect()
    }

    fn refused(&self) -> String {
        let error = of(&self.roots, &self.disk()).unwrap_err();
        assert_eq!(code_of(&error), Code::DiskInUse);
        format!("{error:#}")
    }

    fn take_down(&self) -> (Result<()>, Vec<Value>) {
        let told = Told::default();
        let tell = Reporter::new("r".into(), Box::new(told.clone()), None);
        let result = take_down(&self.roots, &self.disk(), self, &tell);
        let events = told.0.lock().unwrap();
        (result, events.iter().filter(|event| event["state"] == "info").map(|event| event["fields"].clone()).collect())
    }

    /// Removes what names the device.
    fn forget(&self, device: &str) {
        let all = [self.block("sda"), self.block("sdb"), self.block("md127"), self.block("dm-3")];
        for block in all.iter().filter(|block| block.exists()) {
            for (part, _) in crate::inventory::parts(block, "x") {
                let _ = fs::remove_file(part.join("holders").join(device));
            }
        }
        let _ = fs::remove_dir_all(self.block(device));
    }
}

impl Acts for Machine {
    fn take_down(&self, roots: &Roots, holder: &Holder) -> io::Result<()> {
        assert_eq!(roots.sys, self.dir.path().join("sys"));
        self.done.lock().unwrap().push(holder.to_string());
        if let Some((_, kind)) = self.stays.filter(|(device, _)| *device == holder.device) {
            return if kind == io::ErrorKind::TimedOut { Ok(()) } else { Err(kind.into()) };
        }
        match &holder.kind {
            Kind::Swap { node } => {
                let text = fs::read_to_string(&roots.swaps)?;
                let node = node.display().to_string();
                let rest = text.lines().filter(|line| !line.starts_with(&node)).map(|line| format!("{line}\n"));
                fs::write(&roots.swaps, rest.collect::<String>())?;
            }
            Kind::Mapped { .. } | Kind::Array => self.forget(&holder.device),
            Kind::Bcache { there, .. } => {
                fs::remove_dir_all(there)?;
                *self.lingering.lock().unwrap() = Some("bcache0");
            }
        }
        Ok(())
    }

    fn is_free(&self, disk: &DiskFacts) -> io::Result<bool> {
        assert_eq!(disk.path, Path::new("/dev/sda"));
        let mut left = self.busy.lock().unwrap();
        let free = *left == 0;
        *left = left.saturating_sub(1);
        Ok(free)
    }

    fn wait(&self) {
        // bcache's device goes from sysfs after its directory has.
        let _ = self.lingering.lock().unwrap().take().map(|device| self.forget(device));
    }
}

#[derive(Debug, Clone, Default)]
struct Told(std::sync::Arc<Mutex<Vec<Value>>>);

impl Screen for Told {
    fn line(&self, _: &str) {}
    fn progress(&self, _: &str) {}
    fn event(&self, json: &str) {
        self.0.lock().unwrap().push(serde_json::from_str(json).unwrap());
    }
}

/// RAID 1 with an encrypted volume in a partition of the array, LVM on the array's rest and on a partition of the disk, a
/// thin volume, and swap on one.
fn tower() -> Machine {
    let machine = Machine::new();
    for partition in ["sda/sda1", "sda/sda2", "sda/sda3", "sdb/sdb1", "md127/md127p1"] {
        machine.partition(partition);
    }
    machine.file("md127/md/array_state", "clean\n");
    machine.made_of("md127", &["sda/sda1", "sdb/sdb1"]);
    machine.mapped("dm-0", "crypt", "CRYPT-LUKS2-1");
    machine.made_of("dm-0", &["md127/md127p1"]);
    machine.mapped("dm-3", "vg-pool", "LVM-1");
    machine.made_of("dm-3", &["md127", "sda/sda2"]);
    machine.mapped("dm-1", "vg-thin", "LVM-2");
    machine.made_of("dm-1", &["dm-3"]);
    machine.swap(&["/dev/mapper/vg-thin", "/dev/sda3", "/dev/sdb9"]);
    machine
}

#[test]
fn what_is_above_comes_first() {
    let expected = [
        "encrypted volume crypt (dm-0)",
        "swap on dm-1",
        "LVM volume vg-thin (dm-1)",
        "LVM volume vg-pool (dm-3)",
        "md array md127, also on sdb1",
        "swap on sda3",
    ];
    assert_eq!(tower().found(), expected);
    assert_eq!(Machine::new().found(), Vec::<String>::new());
}

#[test]
fn each_is_taken_down_and_told_and_nothing_holds_the_disk_then() {
    let machine = tower();
    let expected = machine.found();
    let (result, events) = machine.take_down();
    result.unwrap();
    assert_eq!(*machine.done.lock().unwrap(), expected);
    assert_eq!(machine.found(), Vec::<String>::new());
    let crypt = serde_json::json!({"device": "dm-0", "what": "encrypted volume", "name": "crypt", "also_on": []});
    let array = serde_json::json!({"device": "md127", "what": "md array", "name": null, "also_on": ["sdb1"]});
    assert_eq!((events.len(), &events[0], &events[4]), (6, &crypt, &array));
    // The other disk's swap is its own affair.
    assert!(fs::read_to_string(&machine.roots.swaps).unwrap().contains("/dev/sdb9"));
    // And a disk that nothing holds is not a step at all.
    assert_eq!(machine.take_down().1, Vec::<Value>::new());
}

#[test]
fn what_is_mounted_stays_whatever_else_there_is() {
    let machine = tower();
    fs::write(&machine.roots.mountinfo, "24 1 253:1 / /srv rw - ext4 /dev/mapper/vg-thin rw\n").unwrap();
    let text = "disk sda (serial S1) is in use and cannot be freed: dm-1 is mounted on /srv";
    assert_eq!(machine.refused(), text);
    let (result, _) = machine.take_down();
    assert_eq!(format!("{:#}", result.unwrap_err()), text);
    assert_eq!(*machine.done.lock().unwrap(), Vec::<String>::new());
    // By its name alone, as btrfs has it.
    fs::write(&machine.roots.mountinfo, "24 1 0:45 / /srv rw - btrfs /dev/mapper/crypt rw\n").unwrap();
    let text = "disk sda (serial S1) is in use and cannot be freed: mapper/crypt is mounted on /srv";
    assert_eq!(machine.refused(), text);
}

#[test]
fn a_holder_of_another_kind_is_named() {
    let machine = Machine::new();
    machine.partition("sda/sda1");
    machine.made_of("drbd0", &["sda/sda1"]);
    let text = "disk sda (serial S1) is in use and cannot be freed: sda1 is held by drbd0, which is none of device mapper, md \
                and bcache";
    assert_eq!(machine.refused(), text);
}

#[test]
fn one_that_does_not_go_ends_the_run_with_its_reason() {
    let mut machine = tower();
    machine.stays = Some(("dm-3", io::ErrorKind::ResourceBusy));
    let (result, events) = machine.take_down();
    let error = result.unwrap_err();
    let text = "taking down what holds the disk: taking down LVM volume vg-pool (dm-3), which holds disk sda (serial S1): \
                resource busy";
    assert_eq!((code_of(&error), format!("{error:#}").as_str(), events.len()), (Code::DiskInUse, text, 3));

    let mut machine = tower();
    machine.stays = Some(("md127", io::ErrorKind::TimedOut));
    let error = machine.take_down().0.unwrap_err();
    let text = "taking down what holds the disk: taking down md array md127, also on sdb1, which holds disk sda (serial S1): \
                it is still there";
    assert_eq!((code_of(&error), format!("{error:#}").as_str()), (Code::DiskInUse, text));
}

/// A backing device and a cache, on partitions of these disks.
fn bcache(backing: &str, cache: &str) -> Machine {
    let machine = Machine::new();
    for path in [backing, cache] {
        machine.partition(path);
    }
    machine.made_of("bcache0", &[backing, cache]);
    machine.file(&format!("{backing}/bcache/stop"), "");
    let set = machine.roots.sys.join("fs/bcache/uuid");
    fs::create_dir_all(&set).unwrap();
    fs::create_dir_all(machine.block(cache).join("bcache")).unwrap();
    symlink(&set, machine.block(cache).join("bcache/set")).unwrap();
    symlink(machine.block(backing).join("bcache"), set.join("bdev0")).unwrap();
    symlink(machine.block(backing).join("bcache"), machine.block("bcache0").join("bcache")).unwrap();
    machine
}

#[test]
fn bcache_goes_with_its_data_but_a_cache_of_another_disk_stays() {
    let machine = bcache("sda/sda1", "sda/sda2");
    assert_eq!(machine.found(), ["bcache on sda1", "bcache on sda2"]);
    let stops: Vec<_> = of(&machine.roots, &machine.disk()).unwrap().into_iter().map(|holder| holder.kind).collect();
    let at = |path: &str| machine.block(path);
    let kind = |there: &str, stop: &str| Kind::Bcache { there: at(there), stop: at(stop) };
    let expected =
        [kind("sda/sda1/bcache", "sda/sda1/bcache/stop"), kind("sda/sda2/bcache", "sda/sda2/bcache/set/stop")];
    assert_eq!(stops, expected);
    machine.take_down().0.unwrap();
    assert_eq!(machine.found(), Vec::<String>::new());

    assert_eq!(bcache("sda/sda1", "sdb/sdb1").found(), ["bcache on sda1"]);
    let text = "disk sda (serial S1) is in use and cannot be freed: sda1 caches sdb1, which may lack what is cached";
    assert_eq!(bcache("sdb/sdb1", "sda/sda1").refused(), text);
}

#[test]
fn a_disk_that_is_closed_later_is_waited_for() {
    let machine = bcache("sda/sda1", "sda/sda2");
    *machine.busy.lock().unwrap() = 3;
    machine.take_down().0.unwrap();
    assert_eq!(*machine.busy.lock().unwrap(), 0);
    assert_eq!(*machine.done.lock().unwrap(), ["bcache on sda1", "bcache on sda2"]);

    let machine = tower();
    *machine.busy.lock().unwrap() = LOOKS;
    let error = machine.take_down().0.unwrap_err();
    let text =
        "taking down what holds the disk: disk sda (serial S1) is still in use: somebody who is not seen in sysfs";
    assert_eq!((code_of(&error), format!("{error:#}").as_str()), (Code::DiskInUse, text));
}

#[test]
fn the_kernel_is_asked_in_its_own_words() {
    let machine = tower();
    let holder = |device: &str| {
        let all = of(&machine.roots, &machine.disk()).unwrap();
        all.into_iter().find(|holder| holder.device == device).unwrap()
    };
    KernelActs.take_down(&machine.roots, &holder("md127")).unwrap();
    assert_eq!(fs::read_to_string(machine.block("md127/md/array_state")).unwrap(), "clear");
    let number = |kind: Kind| if let Kind::Mapped { number, .. } = kind { Some(number) } else { None };
    assert_eq!(number(holder("dm-3").kind), Some((253, 3)));
    let error = KernelActs.take_down(&machine.roots, &holder("dm-3")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound, "there is no mapper/control");

    let machine = bcache("sda/sda1", "sdb/sdb1");
    let backing = of(&machine.roots, &machine.disk()).unwrap().remove(0);
    KernelActs.take_down(&machine.roots, &backing).unwrap();
    assert_eq!(fs::read_to_string(machine.block("sda/sda1/bcache/stop")).unwrap(), "1");
    fs::remove_file(machine.block("sda/sda1/bcache/stop")).unwrap();
    assert_eq!(KernelActs.take_down(&machine.roots, &backing).unwrap_err().kind(), io::ErrorKind::NotFound);
}
