//! The installed OS is updated by its own systemd-sysupdate from what `metalstrap publish` lays out, and its firmware and
//! systemd-boot start the new version. Then the installer, told to install that version, finds it on the disk.

use std::fs::File;
use std::io::copy;

use metalstrap_qemu::{Builder, Exit, Machine, minutes};
use metalstrap_release::host::{HandoffMode, Host};
use metalstrap_tests::observe::{self, MARK, Observed, UPDATED};
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, LONG, Scene, plan};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

#[test]
fn an_installed_system_updates_itself() {
    let scene = Scene::new("sysupdate", Target::Debian).unwrap();
    let first = scene.manifest().unwrap().root().unwrap().root_hash.to_string();
    let (url, dir) = (scene.site.repository.clone(), scene.run.path().join("second"));
    let second = scene.published.add_debian("2", &url, &dir).unwrap().to_string();

    // Installed over the network and started by kexec, it is told to update itself.
    let told = observe::updating(scene.site.ca.as_bytes());
    let mut machine = scene.start(DISK, |builder| with(builder.memory(1024), &told)).unwrap();
    assert_eq!(finished(&machine)["root_hash"], first);
    machine.serial().wait_for(UPDATED, minutes(15)).unwrap();
    let result = machine.serial().wait_for("\n", minutes(1)).unwrap();
    assert_eq!(result.trim(), "success 0");
    let updated: Vec<_> =
        scene.lab.requests().unwrap().into_iter().filter(|it| it.path.starts_with("/sysupdate/")).collect();
    assert_eq!(updated.iter().filter(|it| it.status == 200 && it.bytes > 1 << 20).count(), 3, "{updated:?}");

    // The plug is pulled; firmware and systemd-boot start what they find.
    machine = machine
        .power_cycle(|builder| with(builder.no_smbios_strings().firmware_boot(), &observe::credentials()))
        .unwrap();
    let observed = seen(&machine);
    assert!(observed.multi_user && observed.root_is_verity, "{observed:?}");
    assert_eq!(observed.root_hash, second);
    assert_eq!(observed.var, "ext4", "/var is the one that the first version has made");
    machine.press_power_button().unwrap();
    assert_eq!(machine.wait_exit(minutes(5)).unwrap(), Exit::PoweredOff);

    // The installer finds it, and leaves the disk as it is.
    let before = digest(&machine);
    let mut host = Host { handoff: HandoffMode::Poweroff, ..scene.host.clone() };
    host.release.version = "2".to_owned();
    scene.published.add_default_host(&host).unwrap();
    let mut machine = scene.start_again(machine).unwrap();
    let fields = finished(&machine);
    assert_eq!((&fields["release"], &fields["root_hash"]), (&"debian_2".into(), &second.as_str().into()));
    assert_eq!(fields["payload_fetched_bytes"], 0);
    let plan = plan(&machine).unwrap();
    assert_eq!((&plan["existing"]["is"], &plan["target"]), (&"kept".into(), &"b".into()));
    assert_eq!(plan["fallback"], "debian_1");
    assert_eq!(machine.wait_exit(minutes(2)).unwrap(), Exit::PoweredOff);
    assert!(digest(&machine) == before, "something was written to the disk");
    drop(machine);
    scene.passed().unwrap();
}

/// With these credentials.
fn with(builder: Builder, credentials: &[(String, Vec<u8>)]) -> Builder {
    credentials.iter().fold(builder, |builder, (name, value)| builder.credential(name, value))
}

/// What the installer says at the end of its run.
fn finished(machine: &Machine<'_>) -> Value {
    let is_end = |event: &Value| event["state"] == "finished";
    machine.serial().wait_for_event("the end of the run", LONG, is_end).unwrap().value["fields"].clone()
}

/// What the OS says of itself once it is up.
fn seen(machine: &Machine<'_>) -> Observed {
    machine.serial().wait_for(MARK, minutes(15)).unwrap();
    Observed::parse(&machine.serial().wait_for("\n", minutes(1)).unwrap()).unwrap()
}

/// SHA-256 of all that is on its disk.
fn digest(machine: &Machine<'_>) -> Vec<u8> {
    let mut hasher = Sha256::new();
    copy(&mut File::open(machine.disk(0).unwrap()).unwrap(), &mut hasher).unwrap();
    hasher.finalize().to_vec()
}
