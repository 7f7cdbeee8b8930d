//! `existing: keep`: the next release goes into the other slot and is started from then on; the one before stays. Named by
//! the host config again, it is started before the newer one, until its attempts are used up: then the newer one is.

use metalstrap_qemu::Machine;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{self, DISK, LONG, Scene};

#[test]
fn another_release_goes_beside_the_one_that_works() {
    let scene = Scene::new("beside", Target::Tiny).unwrap();
    let first = scene.manifest().unwrap().root().unwrap().root_hash.to_string();
    let second = scene.published.add_tiny("2", &scene.run.path().join("second"), Vec::new()).unwrap().to_string();

    let mut machine = scene.start(DISK, |builder| builder).unwrap();
    assert_eq!(started(&mut machine), first);
    gives(&scene, "2");
    let mut machine = scene.start_again(machine).unwrap();
    assert_eq!(started(&mut machine), second);
    let plan = scene::plan(&machine).unwrap();
    assert_eq!(plan["existing"], serde_json::json!({"is": "updated", "from": "_empty"}));
    assert_eq!((&plan["target"], &plan["fallback"]), (&"b".into(), &"tiny_1".into()));

    // The firmware and systemd-boot.
    let mut machine = machine.power_cycle(|builder| builder.firmware_boot()).unwrap();
    assert_eq!(started(&mut machine), second);

    gives(&scene, "1");
    let mut machine = scene.start_again(machine).unwrap();
    assert_eq!(started(&mut machine), first);
    let plan = scene::plan(&machine).unwrap();
    assert_eq!((&plan["existing"]["is"], &plan["target"]), (&"kept".into(), &"a".into()));
    assert_eq!(plan["names"]["renamed"][0][1], "tiny_2+0.efi");
    // Nobody says that it has started well, so its attempts count down.
    for expected in [&first, &first, &first, &second] {
        machine = machine.power_cycle(|builder| builder.firmware_boot()).unwrap();
        assert_eq!(&started(&mut machine), expected);
    }
    drop(machine);
    scene.passed().unwrap();
}

/// Every machine gets this version from now on.
fn gives(scene: &Scene, version: &str) {
    let mut host = scene.host.clone();
    host.release.version = version.to_owned();
    scene.published.add_default_host(&host).unwrap();
}

/// Root hash of the OS that was started, once it has switched the machine off.
fn started(machine: &mut Machine<'_>) -> String {
    scene::started(machine, LONG).unwrap().root_hash
}
