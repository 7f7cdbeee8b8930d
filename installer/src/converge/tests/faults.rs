//! Any schedule of faults ends with the image in its place, or with an error and nothing in it that was not checked.

use super::cases::{
    Case, Failing, Published, any_case, disk_with, failing, mirrors_of, only_liars_are_dropped, run, together,
};
use super::*;
use crate::disk::{Disk, FileDisk, Writer};
use crate::not_run::not_run;

/// A file as a disk, beside the test itself: a file system in memory may have no direct I/O.
fn file_disk() -> (tempfile::TempDir, Arc<dyn Disk>) {
    let directory = tempfile::tempdir_in(std::env::current_exe().unwrap().parent().unwrap()).unwrap();
    let path = directory.path().join("disk");
    fs::write(&path, vec![0; 3 << 20]).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(&path, 512).unwrap());
    assert!(disk.direct_file(START, 4096).is_some(), "this file system has no direct I/O");
    (directory, disk)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_slot_is_the_image_or_nothing_unchecked_was_written(case in any_case()) {
        let published = Published::new(&case);
        let content = &published.content;
        let (disk, region) = disk_with(&case, content, 2 << 20);
        let list = mirrors_of(&case, &published.repository);
        let mirrors = together(&list);
        let done = published.bring(&case, &mirrors, &region);
        assert_only_verified(&disk.log(), content);
        prop_assert!(only_liars_are_dropped(&mirrors, &list), "{:?}", mirrors.dropped());
        match done {
            Ok(tally) => {
                let region = region_on(disk, 2 << 20);
                prop_assert!(on_disk(&region, content.len()) == *content);
                prop_assert_eq!(tally.blocks(), case.blocks as u64);
            }
            Err(error) => {
                prop_assert!(!case.must_end_well(), "{:#}", error);
                // Whatever it was, the next run finds what is there and ends well.
                let region = region_on(disk, 2 << 20);
                let tally = published.bring(&case, &published.repository.mirrors(), &region).unwrap();
                prop_assert!(on_disk(&region, content.len()) == *content);
                prop_assert_eq!(tally.blocks(), case.blocks as u64);
            }
        }
    }

    #[test]
    fn the_hash_tree_is_the_right_one_or_nothing_unchecked_was_written(case in any_case()) {
        let content = bytes(case.seed, case.blocks * 4096);
        let (root_hash, file) = tree_over(&content);
        let repository = Arc::new(Repository::new());
        let payload = repository.publish_in(&file, 4096);
        let (disk, region) = disk_with(&case, &file, 1 << 20);
        let list = mirrors_of(&case, &repository);
        let mirrors = together(&list);
        let data_blocks = case.blocks as u64;
        let of = TreeOf { payload: &payload, root_hash, salt: &SALT, data_blocks, uuid: Some(UUID) };
        let done = run(hash_tree(&mirrors, of.clone(), &region, &[], &Progress::default()));
        assert_only_verified(&disk.log(), &file);
        prop_assert!(only_liars_are_dropped(&mirrors, &list), "{:?}", mirrors.dropped());
        match done {
            Ok((tree, tally)) => {
                prop_assert!(on_disk(&region_on(disk, 1 << 20), file.len()) == file);
                prop_assert_eq!(tally.blocks(), file.len() as u64 / 4096);
                let last = content.len() - 4096;
                prop_assert_eq!(tree.leaf_digest(case.blocks as u64 - 1).unwrap(), Digest::salted(&SALT, &content[last..]));
            }
            Err(error) => {
                prop_assert!(!case.must_end_well(), "{:#}", error);
                let region = region_on(disk, 1 << 20);
                run(hash_tree(&repository.mirrors(), of, &region, &[], &Progress::default())).unwrap();
                prop_assert!(on_disk(&region, file.len()) == file);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// As installations are: written by io_uring, past the page cache and whatever records writes.
    #[test]
    fn each_block_of_a_real_disk_is_the_images_or_as_it_was(case in any_case()) {
        // Nothing here makes the kernel's own writes fail.
        let bad = case.bad.filter(|(failing, _)| matches!(failing, Failing::Read | Failing::Flush));
        let case = Case { bad, ..case };
        let published = Published::new(&case);
        let content = &published.content;
        let (_directory, disk) = file_disk();
        let sound = region_on(disk, 2 << 20);
        case.fill_slot(content, &sound);
        let before = on_disk(&sound, content.len());
        let disk = Arc::clone(&sound.disk);
        let region = match case.bad {
            Some(bad) => region_on(Arc::new(failing(disk, bad).passed_by()), 2 << 20),
            None => sound.clone(),
        };
        let list = mirrors_of(&case, &published.repository);
        let mirrors = together(&list);
        let done = published.bring(&case, &mirrors, &region);
        prop_assert!(only_liars_are_dropped(&mirrors, &list), "{:?}", mirrors.dropped());
        let found = on_disk(&sound, content.len());
        for (block, found) in found.chunks(4096).enumerate() {
            let at = block * 4096..block * 4096 + 4096;
            prop_assert!(*found == content[at.clone()] || *found == before[at], "block {}", block);
        }
        if let Err(error) = &done {
            prop_assert!(!case.must_end_well(), "{:#}", error);
        }
        let tally = done.or_else(|_| published.bring(&case, &published.repository.mirrors(), &sound)).unwrap();
        prop_assert!(on_disk(&sound, content.len()) == *content);
        prop_assert_eq!(tally.blocks(), case.blocks as u64);
    }
}

#[test]
fn a_real_disk_is_written_by_io_uring() {
    let (_directory, disk) = file_disk();
    if Writer::start(region_on(disk, 2 << 20), 1).unwrap().engine() != "io_uring" {
        not_run("this kernel does not have io_uring: what is written past the page cache is written by threads");
    }
}
