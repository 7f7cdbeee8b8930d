//! A machine on which the installer runs as an ordinary command, among the tools of other systems: a shell script in an
//! initrd of Debian's busybox, mdadm, lvm2, dmsetup and make-bcache, with the release in a directory. What the script runs
//! by `run NAME COMMAND…` can be asked for afterwards.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use metalstrap_initrd::cpio::Archive;
use metalstrap_initrd::kernel::Kernel;
use metalstrap_initrd::modules::Selection;
use metalstrap_qemu::{Builder, Exit, Machine, minutes};
use metalstrap_release::site::Site;
use metalstrap_tiny::machine::PROBE;
use serde_json::Value;

use crate::artifacts::{Flavour, built, installer};
use crate::scene::Scene;

/// Of the cloud kernel, where NVMe and ext4 are built in: disks, and all that may hold one.
const MODULES: [&str; 8] = ["virtio_blk", "virtio_scsi", "sd_mod", "ahci", "dm-mod", "dm-crypt", "raid1", "bcache"];

/// Directories of the initrd that are taken from `out/workbench`; what is below their directories is of no use here.
const TAKEN: [&str; 4] = ["usr/bin", "usr/sbin", "usr/lib/x86_64-linux-gnu", "usr/lib64"];

/// No daemon answers in the initrd, and only the disks themselves are looked at.
const LVM_CONF: &str = r#"devices { use_devicesfile=0 obtain_device_list_from_udev=0 external_device_info_source="none" }
activation { udev_sync=0 udev_rules=0 monitoring=0 }
backup { backup=0 archive=0 }
"#;

/// How long a script may take, with several installations in it, without KVM on a busy host.
const PATIENCE: Duration = minutes(30);

const MISSING: &str = "the workbench is not there: scripts/fetch-workbench makes it";

/// What every script begins with. The last line that it prints is how it ended.
const PRELUDE: &str = r#"#!/usr/bin/busybox sh
export PATH=/usr/sbin:/usr/bin:/bin DM_DISABLE_UDEV=1 MDADM_NO_UDEV=1
/usr/bin/busybox mkdir -p /bin /mnt /run /tmp
/usr/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
exec >/dev/console 2>&1
trap 'echo "@@ script ended with $?"; poweroff -f' EXIT
set -e
while read -r module; do insmod "$module"; done </modules.list
# run NAME COMMAND…: what it prints stands between two marks, the second with its exit code.
run() {
    local name=$1 code=0
    shift
    echo "@@ $name begins"
    "$@" || code=$?
    echo
    echo "@@ $name ended with $code"
}
# installer VERB DISK HOST: its events, then its lines for people.
installer() {
    local code=0
    metalstrap-installer "$1" --site /site.json --repository /repository --remembered /run/remembered --json --disk "$2" \
        --host "$3" 2>/run/said || code=$?
    cat /run/said
    return "$code"
}
# Drivers find disks in their own time.
there() {
    for disk in "$@"; do until [ -b "$disk" ]; do usleep 20000; done; done
}
"#;

/// Starts a machine in the lab of `scene` that runs `script`, with the disks that `more` gives it.
///
/// # Errors
/// A part is missing, or the machine does not start.
pub fn start<'lab>(scene: &'lab Scene, script: &str, more: impl FnOnce(Builder) -> Builder) -> Result<Machine<'lab>> {
    let kernel = Flavour::Cloud.kernel()?;
    let initrd = scene.run.path().join("workbench.initrd");
    let bytes = archive(scene, &kernel, script)?.to_bytes();
    fs::write(&initrd, bytes).with_context(|| format!("writing {}", initrd.display()))?;
    let machine = Machine::builder("workbench").memory(768).network_ports(0);
    // Without KVM a busy host gives the guest its timer ticks too late for the kernel's trial of its timer.
    let cmdline = "console=ttyS0 loglevel=1 panic=-1 no_timer_check";
    more(machine).direct_boot(&kernel.vmlinuz, Some(&initrd), cmdline).start(&scene.lab)
}

/// Waits until the script of `machine` has come to its end, and that it is a good one; gives all that was said.
///
/// # Errors
/// It failed, or does not end in time.
pub fn finish(machine: &mut Machine<'_>) -> Result<Said> {
    let exit = machine.wait_exit(PATIENCE)?;
    let said = Said(machine.serial().text());
    let last = said.0.lines().rev().find(|line| line.starts_with("@@ script ended with "));
    ensure!(last == Some("@@ script ended with 0") && exit == Exit::PoweredOff, "{exit:?}, {last:?}: {}", said.0);
    Ok(said)
}

/// efibootmgr with its libraries, as files (path, mode, bytes) of an initrd: `probe` and what it needs.
///
/// # Errors
/// They are not there.
pub fn efibootmgr() -> Result<Vec<(String, u32, Vec<u8>)>> {
    let libraries = ["libc.so.6", "libefiboot.so.1", "libefivar.so.1", "libpopt.so.0"];
    let libraries =
        libraries.map(|name| (format!("lib/x86_64-linux-gnu/{name}"), format!("usr/lib/x86_64-linux-gnu/{name}")));
    let loader = ("lib64/ld-linux-x86-64.so.2".to_owned(), "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2".to_owned());
    let program = (PROBE.trim_start_matches('/').to_owned(), "usr/bin/efibootmgr".to_owned());
    let all = libraries.into_iter().chain([loader, program]);
    all.map(|(to, from)| {
        let path = built(&format!("workbench/{from}")).context(MISSING)?;
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok((to, 0o755, bytes))
    })
    .collect()
}

/// All that was on the console.
#[derive(Debug)]
pub struct Said(String);

impl Said {
    /// What the command printed that was run under this name, without empty lines, and its exit code.
    ///
    /// # Errors
    /// None was, or it did not end.
    pub fn of(&self, name: &str) -> Result<(Vec<&str>, i32)> {
        let without = || format!("finding what {name} said in\n{}", self.0);
        let (_, rest) = self.0.split_once(&format!("@@ {name} begins\n")).with_context(without)?;
        let (text, rest) = rest.split_once(&format!("@@ {name} ended with ")).with_context(without)?;
        let code = rest.lines().next().unwrap_or_default().parse().with_context(without)?;
        Ok((text.lines().filter(|line| !line.is_empty()).collect(), code))
    }

    /// The fields of the events of `step` that the command told under this name as `state`.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn events(&self, name: &str, step: &str, state: &str) -> Result<Vec<Value>> {
        let (lines, _) = self.of(name)?;
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let wanted = events.filter(|event| {
            event.get("step").is_some_and(|it| it == step) && event.get("state").is_some_and(|it| it == state)
        });
        Ok(wanted.map(|event| event.get("fields").cloned().unwrap_or_default()).collect())
    }
}

fn archive(scene: &Scene, kernel: &Kernel, script: &str) -> Result<Archive> {
    let mut archive = Archive::new();
    let read = |path: &Path| fs::read(path).with_context(|| format!("reading {}", path.display()));
    archive.directory("proc", 0o755)?;
    archive.directory("sys", 0o755)?;
    archive.character_device("dev/console", 0o600, 5, 1)?;
    archive.file("init", 0o755, format!("{PRELUDE}{script}").into_bytes())?;
    archive.file("etc/lvm/lvm.conf", 0o644, LVM_CONF.as_bytes().to_vec())?;
    archive.file("usr/sbin/metalstrap-installer", 0o755, read(&installer()?)?)?;
    // There is no network: a report would be waited for.
    let site = Site { report_url: None, ..scene.site.clone() };
    archive.file("site.json", 0o644, serde_json::to_vec_pretty(&site)?)?;
    // The loader of programs is named by its old place.
    archive.symlink("lib64", "usr/lib64")?;
    archive.symlink("lib/x86_64-linux-gnu", "../usr/lib/x86_64-linux-gnu")?;
    for directory in TAKEN {
        let from = built(&format!("workbench/{directory}")).context(MISSING)?;
        put(&mut archive, directory, &from, false)?;
    }
    put(&mut archive, "repository", &scene.published.repository, true)?;
    let selection = Selection::named(kernel, &MODULES)?;
    selection.put(kernel, &mut archive)?;
    let version = &kernel.version;
    let list: String = selection.load_order().iter().map(|file| format!("/lib/modules/{version}/{file}\n")).collect();
    archive.file("modules.list", 0o644, list.into_bytes())?;
    Ok(archive)
}

/// Puts the files and links of a directory below `at`; `deep` also those below its directories.
fn put(archive: &mut Archive, at: &str, from: &Path, deep: bool) -> Result<()> {
    let reading = |path: &Path| format!("reading {}", path.display());
    for entry in fs::read_dir(from).with_context(|| reading(from))? {
        let entry = entry.with_context(|| reading(from))?;
        let path: PathBuf = entry.path();
        let (kind, name) = (entry.file_type().with_context(|| reading(&path))?, entry.file_name());
        let at = format!("{at}/{}", name.to_string_lossy());
        if kind.is_symlink() {
            let target = fs::read_link(&path).with_context(|| reading(&path))?;
            archive.symlink(&at, &target.to_string_lossy())?;
        } else if kind.is_file() {
            archive.file(&at, 0o755, fs::read(&path).with_context(|| reading(&path))?)?;
        } else if deep {
            put(archive, &at, &path, deep)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_command_said_lies_between_its_marks() {
        let event = r#"{"metalstrap":1,"step":"erase","state":"info","fields":{"method":"discard"}}"#;
        let said = Said(format!("@@ a begins\none\n\n@@ a ended with 0\n@@ b begins\n{event}\nx\n@@ b ended with 3\n"));
        assert_eq!(said.of("a").unwrap(), (vec!["one"], 0));
        assert_eq!(said.of("b").unwrap(), (vec![event, "x"], 3));
        assert_eq!(said.events("b", "erase", "info").unwrap(), [serde_json::json!({"method": "discard"})]);
        assert!(said.events("b", "erase", "progress").unwrap().is_empty());
        assert!(said.of("c").is_err());
    }
}
