//! The plug is pulled at a random moment while the root file system is written; the machine is switched on again, keeps
//! what is on its disk, fetches the rest, and the OS starts.

use std::time::Duration;

use metalstrap_qemu::{Exit, minutes};
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, LONG, Scene};
use metalstrap_tiny::report::{PREFIX, Report};

/// What the console says while the root file system is written.
const WRITING: &str = "Writing the root file system: ";

#[test]
fn a_machine_cut_while_writing_goes_on_where_it_was() {
    let scene = Scene::new("cut", Target::Tiny).unwrap();
    let root = scene.manifest().unwrap().root().unwrap().clone();
    let machine = scene.start(DISK, |builder| builder).unwrap();
    metalstrap_qemu::until("the first bytes of the root file system", LONG, || {
        let text = machine.serial().text();
        let mut told = text.split(WRITING).skip(1);
        Ok(told.any(|told| !told.starts_with("0 B of")).then_some(()))
    })
    .unwrap();
    // Any moment of the writing is as good as another: a random one each time.
    let moment = Duration::from_millis(u64::from(std::process::id()) * 7919 % 1500);
    println!("cut {} ms after the first bytes", moment.as_millis());
    std::thread::sleep(moment);

    let mut machine = machine.power_cycle(|builder| builder).unwrap();
    machine.serial().wait_for(PREFIX, LONG).unwrap();
    assert_eq!(machine.wait_exit(minutes(2)).unwrap(), Exit::PoweredOff);
    let started = Report::find(&machine.serial().text()).unwrap();
    assert_eq!((started.root_hash, started.root_is_verity), (root.root_hash.to_string(), true));
    let blocks = &scene.reported("finished", minutes(1)).unwrap()["blocks"];
    assert!(blocks["kept"].as_u64().unwrap() > 0, "nothing was kept: {blocks}");
    drop(machine);
    scene.passed().unwrap();
}
