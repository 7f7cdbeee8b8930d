//! What is told of an ESP that is looked at or mended: at its end a step has done what it had to.

use super::staying::{installed, replayed, staying};
use super::*;

/// As every EFI program begins: what does not is not looked at.
fn program(seed: u64, length: usize) -> Vec<u8> {
    [b"MZ".to_vec(), bytes(seed, length)].concat()
}

fn release(repository: &Repository) -> Manifest {
    manifest(repository, &program(1, 130_001), &program(2, 3_000_000))
}

/// Bytes of boot loader and UKI on the disk, and of their hash trees.
fn sizes(manifest: &Manifest) -> [(u64, u64); 2] {
    [&manifest.boot.loader, &manifest.boot.uki].map(|file| (file.data.content_size, file.hash_tree.content_size))
}

/// What `damaged` finds, and what it tells at its end: bytes done, and to do.
async fn looked(repository: &Repository, manifest: &Manifest, log: &[Recorded]) -> (bool, Vec<u64>, u64, u64) {
    let (disk, so_far) = replayed(log, 512);
    let progress = Progress::default();
    let (sound, files) = damaged(&repository.mirrors(), manifest, &region(&disk), &progress).await.unwrap();
    assert_eq!(disk.log().len(), so_far, "nothing is written");
    let blocks = |runs: &[Range<u64>]| runs.iter().map(|run| run.end - run.start).sum::<u64>();
    let (done, total, _) = progress.snapshot();
    (sound, files.iter().map(|(_, _, runs)| blocks(runs)).collect(), done, total)
}

#[tokio::test]
async fn a_look_expects_all_files_and_no_more() {
    let repository = Repository::new();
    let old = release(&repository);
    let mut log = installed(&repository, &old, 512).await;
    let [(loader, loader_tree), (uki, uki_tree)] = sizes(&old);
    let all = 2 * (loader + loader_tree) + uki + uki_tree;
    assert_eq!(looked(&repository, &old, &log).await, (true, vec![0, 0, 0], all, all));
    // What is damaged is looked at too; what is not there is not.
    let (disk, _) = replayed(&log, 512);
    let there = There::open(&region(&disk)).await.unwrap().unwrap();
    let (_, place) = there.find(UKI, old.boot.uki.size).await.unwrap().unwrap();
    log.push(Recorded::Write { offset: place.start + 40_960, bytes: vec![0; 4096] });
    assert_eq!(looked(&repository, &old, &log).await, (true, vec![0, 0, 1], all, all));
    let (disk, so_far) = replayed(&log, 512);
    unname(&region(&disk), &[LOADER.to_owned()]).unwrap();
    log.extend(disk.log().split_off(so_far));
    let rest = all - loader - loader_tree;
    assert_eq!(looked(&repository, &old, &log).await, (false, vec![0, loader / 4096, 1], rest, rest));
    assert_eq!(looked(&repository, &old, &[]).await, (false, vec![loader / 4096, loader / 4096, uki / 4096], 0, 0));
}

#[tokio::test]
async fn files_that_stay_are_told_as_kept_and_read_back() {
    let repository = Repository::new();
    let old = release(&repository);
    let mut log = installed(&repository, &old, 512).await;
    let [(loader, loader_tree), (uki, uki_tree)] = sizes(&old);
    let trees = loader_tree + uki_tree;
    let all = 2 * (2 * loader + uki) + trees;
    let mended = async |log: &[Recorded]| {
        let (disk, _) = replayed(log, 512);
        let progress = Progress::default();
        let esp = write(&repository.mirrors(), staying(&old), &region(&disk), &[], &progress).await.unwrap();
        let (done, total, _) = progress.snapshot();
        let [kept, zero, copied, brought] = progress.parts();
        assert_eq!((done, total), (all, all));
        (esp, kept, zero + copied + brought)
    };
    let (esp, kept, written) = mended(&log).await;
    assert_eq!((kept, written), (2 * loader + uki + trees, 0));
    // A UKI with a wrong block gets another place, to which all of it goes.
    log.push(Recorded::Write { offset: esp.uki.start + 40_960, bytes: vec![0; 4096] });
    let (_, kept, written) = mended(&log).await;
    // Of its tree the leaf's block is wrong, and those above it.
    assert!((2 * loader..2 * loader + trees).contains(&kept), "{kept}");
    assert_eq!(kept + written, 2 * loader + uki + trees);
}
