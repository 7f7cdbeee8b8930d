//! The plug is pulled at a random moment while the root file system is written; the machine is switched on again, keeps
//! what is on its disk, fetches the rest and no more, and the OS starts.

use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use metalstrap_qemu::minutes;
use metalstrap_release::manifest::Payload;
use metalstrap_release::seek_table::SeekTable;
use metalstrap_tests::artifacts::built;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, LONG, Scene, started};

const BLOCK: usize = 4096;

/// Bytes of a disk in a file that were ever written.
fn written(disk: &Path) -> anyhow::Result<u64> {
    Ok(disk.metadata()?.blocks() * 512)
}

/// Which blocks of `image` lie in their place, which begins at `start` of the disk.
fn in_place(disk: &Path, start: u64, image: &[u8]) -> Vec<bool> {
    let disk = File::open(disk).unwrap();
    let mut found = vec![0; image.len()];
    disk.read_exact_at(&mut found, start).unwrap();
    found.chunks(BLOCK).zip(image.chunks(BLOCK)).map(|(found, right)| found == right).collect()
}

/// Bytes of the frames of a payload that hold a block which is not in its place, and of the seek table.
fn needed(scene: &Scene, payload: &Payload, in_place: &[bool]) -> u64 {
    let path = scene.published.repository.join(format!("payloads/{}.zst", payload.sha256));
    let bytes = std::fs::read(path).unwrap();
    let table = &bytes[usize::try_from(payload.size - payload.seek_table_size).unwrap()..];
    let table = SeekTable::parse(table, payload).unwrap();
    let lacks = |offset: u64, size: u64| {
        let blocks = [offset, offset + size].map(|at| usize::try_from(at).unwrap() / BLOCK);
        in_place[blocks[0]..blocks[1]].contains(&false)
    };
    let frames = table.frames().iter().filter(|frame| lacks(frame.content_offset, frame.content_size));
    payload.seek_table_size + frames.map(|frame| frame.size).sum::<u64>()
}

#[test]
fn a_machine_cut_while_writing_goes_on_where_it_was() {
    let scene = Scene::new("cut", Target::Tiny).unwrap();
    let root = scene.manifest().unwrap().root().unwrap().clone();
    let image = std::fs::read(built("tiny").unwrap().join("root.raw")).unwrap();
    let zero = image.chunks(BLOCK).filter(|block| block.iter().all(|byte| *byte == 0)).count();
    let blocks = image.len() / BLOCK;
    let mut machine = scene.start(DISK, |builder| builder).unwrap();
    let is_plan = |event: &serde_json::Value| event["step"] == "plan" && event["state"] == "info";
    let plan = machine.serial().wait_for_event("its plan", LONG, is_plan).unwrap().value;
    let partitions = plan["fields"]["plan"]["partitions"].as_array().unwrap();
    let start = partitions.iter().find(|partition| partition["role"] == "root-a").unwrap()["start"].as_u64().unwrap();
    let disk = machine.disk(0).unwrap();
    // What is wiped is written too, before the hash tree, which is small.
    let wiped = |event: &serde_json::Value| event["step"] == "hash-tree" && event["state"] == "started";
    machine.serial().wait_for_event("the hash tree", LONG, wiped).unwrap();
    let before = written(&disk).unwrap();
    // Any moment of the writing is as good as another: a random one each time, from the keys the standard library draws for
    // each hash table.
    let moment = (1 << 20) + RandomState::new().hash_one(()) % (6 << 20);
    println!("cut when {moment} bytes of it were written");
    metalstrap_qemu::until("the writing of the root file system", LONG, || {
        Ok((written(&disk)? >= before + moment).then_some(()))
    })
    .unwrap();
    machine.power_off().unwrap();
    // The cut hit the writing: some of it is there, and not all.
    let there = in_place(&disk, start, &image);
    let kept = there.iter().filter(|is_there| **is_there).count();
    println!("{kept} of {blocks} blocks are there, {zero} of which are zeroes");
    assert!(zero < kept && kept < blocks, "{kept} of {blocks} blocks, {zero} of them zeroes");

    let mut machine = machine.power_cycle(|builder| builder).unwrap();
    assert_eq!(started(&mut machine, LONG).unwrap().root_hash, root.root_hash.to_string());
    // The second run keeps each block that was there, and fetches no frame all of which was.
    scene.reported("finished", minutes(1)).unwrap();
    let reports = scene.lab.reports().unwrap();
    let done = reports.iter().find(|event| event["step"] == "root" && event["state"] == "done").unwrap();
    assert_eq!(done["fields"]["content"]["kept"], kept * BLOCK, "{done}");
    let fetched = done["fields"]["fetched"].as_u64().unwrap();
    let other_table = root.fine.as_ref().map_or(0, |fine| fine.seek_table_size);
    let needed = needed(&scene, &root.data, &there) + other_table;
    println!("{fetched} bytes were fetched of {}, {needed} were needed", root.data.size);
    assert!(fetched <= needed && needed < root.data.size, "{fetched} of {needed} and {}", root.data.size);
    drop(machine);
    scene.passed().unwrap();
}
