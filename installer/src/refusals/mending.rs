//! What is installed already: looked at, mended, and not taken for something else.

use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::published::{ESP_BYTES, ROOT_BYTES, good, host, payload_path};
use super::servers::server;
use super::trial::{Outcome, Trial};
use crate::disk::Recorded;
use crate::esp;
use crate::failure::Code;
use crate::look::Findings;
use crate::test_server::reply;
use metalstrap_release::host::Mode;

/// Where the ESP of the layout begins.
const ESP: u64 = 1 << 20;
/// Where slot A's root file system begins: behind the ESP and the slot's hash tree.
const ROOT: u64 = ESP + ESP_BYTES + (1 << 20);

/// A disk with the release on it.
async fn installed() -> Trial {
    let trial = Trial::of(&good());
    let (outcome, trial) = trial.run_and_keep().await;
    outcome.installed();
    trial
}

fn place_of(path: &str) -> u64 {
    let layout = esp::layout(esp::Order::of(&good().manifest), ESP_BYTES, 512).unwrap();
    ESP + layout.extents().iter().find(|extent| extent.path == path).unwrap().offset
}

fn damage(trial: &Trial, at: u64) {
    let disk = std::fs::File::options().write(true).open(trial.disk()).unwrap();
    disk.write_all_at(&[0x5A; 4096], at).unwrap();
}

async fn look(trial: &Trial) -> Findings {
    trial.verify().await.unwrap()
}

/// The bytes that were written, apart from each other by place.
fn written(outcome: &Outcome) -> Vec<(u64, usize)> {
    let writes = outcome.log.iter().filter_map(|what| match what {
        Recorded::Write { offset, bytes } => Some((*offset, bytes.len())),
        Recorded::Flush => None,
    });
    let mut writes: Vec<_> = writes.collect();
    writes.sort_unstable();
    writes
}

#[tokio::test]
async fn an_installed_release_is_whole_and_a_second_run_writes_nothing() {
    let trial = installed().await;
    let found = look(&trial).await;
    assert!(found.whole && found.partition_table && found.boot_files_named, "{found:?}");
    assert_eq!(found.release, "tiny 1");
    assert!(found.mirrors_dropped.is_empty(), "{found:?}");
    assert!(found.parts.iter().all(|part| part.damaged == 0 && part.runs.is_empty()), "{found:?}");
    for mode in [Mode::Install, Mode::Repair] {
        let (outcome, _trial) = installed().await.in_mode(mode).run_and_keep().await;
        outcome.result.as_ref().unwrap();
        assert_eq!(written(&outcome), []);
    }
}

#[tokio::test]
async fn damaged_blocks_are_named_and_a_repair_writes_them_and_nothing_else() {
    let trial = installed().await;
    let uki = place_of("EFI/Linux/tiny_1+3.efi");
    let tree = ESP + ESP_BYTES + 4096;
    let root = [ROOT + 5 * 4096, ROOT + ROOT_BYTES as u64 - 4096];
    [root[0], root[1], uki + 8192, tree].into_iter().for_each(|at| damage(&trial, at));
    let found = look(&trial).await;
    let last = ROOT_BYTES as u64 / 4096 - 1;
    let parts: Vec<_> = found.parts.iter().map(|part| (part.name.as_str(), part.damaged, part.runs.clone())).collect();
    let third = std::iter::once(2..3).collect();
    let expected = [
        ("hash-tree", 1, std::iter::once(1..2).collect()),
        ("root", 2, vec![5..6, last..last + 1]),
        ("EFI/BOOT/BOOTX64.EFI", 0, vec![]),
        ("EFI/systemd/systemd-bootx64.efi", 0, vec![]),
        ("EFI/Linux/tiny_1+3.efi", 1, third),
    ];
    assert_eq!((found.whole, parts.as_slice()), (false, expected.as_slice()));

    let (outcome, trial) = trial.in_mode(Mode::Repair).run_and_keep().await;
    outcome.result.as_ref().unwrap();
    // A boot file gets new clusters, and its name when it is whole; of the rest the damaged blocks are written.
    let on_the_esp = |at: u64| (ESP..ESP + ESP_BYTES).contains(&at);
    let (esp, rest): (Vec<_>, Vec<_>) = written(&outcome).into_iter().partition(|(at, _)| on_the_esp(*at));
    assert_eq!(rest, [(tree, 4096), (root[0], 4096), (root[1], 4096)]);
    assert!(esp.iter().all(|(at, length)| at + *length as u64 <= uki || *at >= uki + 4 * 4096), "{esp:?}");
    assert!(look(&trial).await.whole);
}

#[tokio::test]
async fn a_mirror_that_lies_to_who_looks_is_named() {
    let published = good();
    let tree = payload_path(&published.manifest.filesystems[0].hash_tree);
    // Both install; then one of them sends another hash tree, and the other one none, once, so that the first is asked.
    let [lies, fails] = [(); 2].map(|()| Arc::new(AtomicBool::new(false)));
    let (path, now) = (tree.clone(), Arc::clone(&lies));
    let liar = server(&published, move |asked, _, mut right| {
        if asked == path && now.load(Ordering::Relaxed) {
            right.bytes.iter_mut().rev().take(20).for_each(|byte| *byte ^= 0x10);
        }
        right
    })
    .await;
    let (path, now) = (tree.clone(), Arc::clone(&fails));
    let other = server(&published, move |asked, _, right| {
        if asked == path && now.swap(false, Ordering::Relaxed) { reply("503 Service Unavailable", b"") } else { right }
    })
    .await;
    let mut trial = Trial::at(&published, &liar);
    trial.site["mirrors"] = serde_json::json!([format!("https://127.0.0.1:{}/os", other.port)]);
    trial.site["ca"] = format!("{}{}", liar.ca, other.ca).into();
    let (outcome, trial) = trial.run_and_keep().await;
    outcome.installed();
    damage(&trial, ESP + ESP_BYTES + 4096);
    [lies, fails].iter().for_each(|now| now.store(true, Ordering::Relaxed));
    let found = look(&trial).await;
    assert_eq!((found.whole, found.parts[0].damaged), (false, 1));
    let [dropped] = found.mirrors_dropped.as_slice() else { panic!("{:?}", found.mirrors_dropped) };
    let start = format!("https://127.0.0.1:{}/os: {tree}", liar.port);
    assert!(dropped.starts_with(&start) && dropped.contains(" is corrupt"), "{dropped}");
}

#[tokio::test]
async fn the_uuid_of_the_hash_tree_is_looked_at_and_mended_too() {
    let trial = installed().await;
    let superblock = ESP + ESP_BYTES;
    let disk = std::fs::File::options().write(true).open(trial.disk()).unwrap();
    // Behind signature, version and kind of hash.
    disk.write_all_at(&[0x5A], superblock + 16).unwrap();
    let found = look(&trial).await;
    let runs: Vec<_> = found.parts.iter().map(|part| part.runs.clone()).filter(|runs| !runs.is_empty()).collect();
    assert_eq!((found.whole, runs), (false, vec![vec![0..1]]));
    let (outcome, trial) = trial.in_mode(Mode::Repair).run_and_keep().await;
    outcome.result.as_ref().unwrap();
    assert_eq!(written(&outcome), [(superblock, 4096)]);
    assert!(look(&trial).await.whole);
}

#[tokio::test]
async fn a_repair_wipes_nothing_whatever_is_still_to_happen() {
    let mut wipes = host();
    (wipes["existing"], wipes["intent"]) = ("wipe".into(), "new".into());
    let published = good().with_host(serde_json::to_vec(&wipes).unwrap());
    let (_, trial) = Trial::of(&good()).run_and_keep().await;
    damage(&trial, ROOT + 5 * 4096);
    let trial = trial.from(&published);
    assert!(!look(&trial).await.whole);
    let (outcome, trial) = trial.in_mode(Mode::Repair).run_and_keep().await;
    outcome.result.as_ref().unwrap();
    assert_eq!(written(&outcome), [(ROOT + 5 * 4096, 4096)]);
    assert!(look(&trial).await.whole);
}

#[tokio::test]
async fn a_repair_remembers_no_intent() {
    let mut wipes = host();
    (wipes["existing"], wipes["intent"]) = ("wipe".into(), "new".into());
    let published = good().with_host(serde_json::to_vec(&wipes).unwrap());
    let (outcome, trial) = Trial::of(&published).run_and_keep().await;
    outcome.result.as_ref().unwrap();
    let memory = trial.disk().with_file_name("intents.json");
    std::fs::remove_file(&memory).unwrap();
    damage(&trial, ROOT + 5 * 4096);
    let (outcome, _trial) = trial.in_mode(Mode::Repair).run_and_keep().await;
    outcome.result.as_ref().unwrap();
    assert_eq!((written(&outcome), memory.exists()), (vec![(ROOT + 5 * 4096, 4096)], false));
}

#[tokio::test]
async fn the_exit_codes_of_verify_and_repair_say_what_is_on_the_disk() {
    let trial = installed().await;
    assert_eq!(trial.by_command("verify"), Ok(0));
    damage(&trial, ROOT + 5 * 4096);
    assert_eq!(trial.by_command("verify"), Ok(3));
    // Nothing is installed: it could not look.
    assert_eq!(Trial::of(&good()).by_command("verify"), Ok(1));
    assert_eq!(Trial::of(&good()).by_command("repair"), Ok(1));
    assert_eq!(trial.by_command("repair"), Ok(0));
    assert_eq!(trial.by_command("verify"), Ok(0));
    // And what clap says of wrong usage is none of these.
    assert_eq!(crate::cli::exit_code_of(&["metalstrap-installer", "verify", "--wrong"]), Err(2));
    // The versions may not take the place of the intents, which are beside them.
    let words = ["metalstrap-installer", "verify", "--site", "s", "--disk", "d", "--remembered", "m/intents.json"];
    assert_eq!(crate::cli::exit_code_of(&words), Err(2));
}

#[tokio::test]
async fn an_esp_whose_root_directory_is_lost_is_not_whole() {
    let trial = installed().await;
    // The root directory is the first cluster of the data region, and the fallback loader's is not far behind.
    let root_directory = place_of("EFI/BOOT/BOOTX64.EFI") / (1 << 20) * (1 << 20);
    let disk = std::fs::File::open(trial.disk()).unwrap();
    let mut block = vec![0; 4096];
    let at = (0..).map(|number| root_directory + number * 4096).find(|at| {
        disk.read_exact_at(&mut block, *at).unwrap();
        block.starts_with(b"ESP        ")
    });
    damage(&trial, at.unwrap());
    let found = look(&trial).await;
    assert_eq!((found.whole, found.boot_files_named), (false, false));
    let (outcome, trial) = trial.in_mode(Mode::Repair).run_and_keep().await;
    outcome.result.as_ref().unwrap();
    assert!(look(&trial).await.whole);
}

#[tokio::test]
async fn an_esp_that_is_none_is_damaged_for_who_looks_and_the_slot_is_looked_at() {
    let trial = installed().await;
    damage(&trial, ROOT + 5 * 4096);
    // What its boot sector says of its sectors.
    let disk = std::fs::File::options().write(true).open(trial.disk()).unwrap();
    disk.write_all_at(&[0x5A; 8], ESP + 11).unwrap();
    let found = look(&trial).await;
    assert_eq!((found.whole, found.partition_table, found.boot_files_named), (false, true, false));
    let runs: Vec<_> = found.parts.iter().map(|part| (part.name.as_str(), part.runs.clone())).collect();
    assert_eq!(runs[..2], [("hash-tree", vec![]), ("root", std::iter::once(5..6).collect())]);
    assert!(found.parts.len() == 5 && found.parts[2..].iter().all(|file| file.damaged == file.blocks), "{found:?}");
    assert_eq!(trial.by_command("verify"), Ok(3));
    // What is on it may be somebody's: a repair does not make it anew.
    let (outcome, _trial) = trial.in_mode(Mode::Repair).run_and_keep().await;
    assert_eq!((outcome.failure().code, written(&outcome)), (Code::Esp, vec![]));
}

#[tokio::test]
async fn a_lost_copy_of_the_table_is_named_and_comes_back() {
    let trial = installed().await;
    let size = trial.disk().metadata().unwrap().len();
    damage(&trial, size - 4096);
    let found = look(&trial).await;
    assert_eq!((found.whole, found.partition_table), (false, false));
    let (outcome, trial) = trial.in_mode(Mode::Repair).run_and_keep().await;
    outcome.result.as_ref().unwrap();
    assert!(look(&trial).await.whole);
}

#[tokio::test]
async fn a_repair_of_what_is_not_installed_is_refused() {
    let outcome = Trial::of(&good()).in_mode(Mode::Repair).run().await;
    outcome.before_the_plan(Code::NotInstalled, "planning the disk: disk PLACE/disk does not hold tiny 1, but nothing");
    let error = Trial::of(&good()).verify().await.unwrap_err();
    assert_eq!(crate::failure::code_of(&error), Code::NotInstalled);
}

#[tokio::test]
async fn without_reading_back_the_same_is_written() {
    let (outcome, trial) = Trial::of(&good()).without_reading_back().run_and_keep().await;
    outcome.installed();
    assert!(look(&trial).await.whole);
}
