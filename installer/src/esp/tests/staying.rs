//! An ESP that stays: what is on it before, during and after, by mtools and fsck.fat.

use super::*;
use crate::disk::Disk as _;

const OLD_UKI: &str = "EFI/Linux/debian_1.efi";
const NEW_UKI: &str = "EFI/Linux/debian_2+3.efi";

/// The next release.
pub(super) fn next(repository: &Repository, loader: &[u8], uki: &[u8]) -> Manifest {
    Manifest { version: "2".to_owned(), ..manifest(repository, loader, uki) }
}

/// A disk to which these writes were made, and how much of its log they are.
pub(super) fn replayed(before: &[Recorded], sector: u32) -> (Arc<Recording>, usize) {
    let disk = Arc::new(Recording::memory(DISK_SIZE, sector));
    for what in before {
        if let Recorded::Write { offset, bytes } = what {
            disk.write_at(*offset, bytes).unwrap();
        }
    }
    let so_far = disk.log().len();
    (disk, so_far)
}

/// What is done to make an ESP that has `before` hold what `order` says, and its result.
pub(super) async fn changed(
    repository: &Repository,
    before: &[Recorded],
    order: Order<'_>,
    sector: u32,
) -> (Result<Esp>, Vec<Recorded>) {
    let (disk, so_far) = replayed(before, sector);
    let done = write(&repository.mirrors(), order, &region(&disk), &[], &Progress::default()).await;
    (done, disk.log().split_off(so_far))
}

/// With the old UKI blessed, as an OS that has started well leaves it.
pub(super) async fn installed(repository: &Repository, old: &Manifest, sector: u32) -> Vec<Recorded> {
    let (_, mut log) = recorded(repository, old, sector).await;
    let (disk, before) = replayed(&log, sector);
    let there = There::open(&region(&disk)).await.unwrap().unwrap();
    let rename = |volume: &mut crate::fat::Volume, read: crate::fat::ReadAt<'_>, region: &Region| {
        there::apply(region, volume.rename(UKI, "debian_1.efi", read)?)
    };
    there.with(rename).await.unwrap();
    log.extend(disk.log().split_off(before));
    log
}

pub(super) fn staying(manifest: &Manifest) -> Order<'_> {
    Order { stays: true, ..order(manifest) }
}

#[tokio::test]
async fn nothing_is_written_where_all_is_right() {
    let repository = Repository::new();
    // As every EFI program begins: what does not is not looked at.
    let program = |seed, length| [b"MZ".to_vec(), bytes(seed, length)].concat();
    let old = manifest(&repository, &program(1, 130_001), &program(2, 3_000_000));
    for sector in [512, 4096] {
        let before = installed(&repository, &old, sector).await;
        let (esp, log) = changed(&repository, &before, staying(&old), sector).await;
        assert!(log.iter().all(|what| *what == Recorded::Flush), "{log:?}");
        let esp = esp.unwrap();
        assert_eq!((esp.uki_path.as_str(), esp.tally.fetched_bytes, esp.tally.written()), (OLD_UKI, 0, 0));
    }
}

#[tokio::test]
async fn a_new_uki_is_copied_from_the_old_one_as_far_as_that_has_its_blocks() {
    let repository = Repository::new();
    let loader = [b"MZ".to_vec(), bytes(1, 20_000)].concat();
    let (first, one, two) = ([b"MZ".to_vec(), bytes(2, 4094)].concat(), bytes(3, 100 * 4096), bytes(4, 200 * 4096));
    let old = manifest(&repository, &loader, &[&first[..], &one, &two].concat());
    // Nothing is where it was, and a block is new.
    let uki = [&first[..], &two, &one, &bytes(5, 100)].concat();
    let new = next(&repository, &loader, &uki);
    let before = installed(&repository, &old, 512).await;
    let (esp, log) = changed(&repository, &before, staying(&new), 512).await;
    let esp = esp.unwrap();
    assert_eq!((esp.uki_path.as_str(), esp.tally.copied, esp.tally.fetched), (NEW_UKI, 301, 1));
    let image = Image::new();
    before.iter().chain(&log).for_each(|what| image.apply(what));
    assert!(image.read(NEW_UKI).unwrap() == uki);
}

#[tokio::test]
async fn what_is_started_is_not_chosen_by_loader_conf() {
    let repository = Repository::new();
    let old = manifest(&repository, &[b"MZ".to_vec(), bytes(1, 20_000)].concat(), &bytes(2, 400_000));
    for (text, rest) in [("timeout 3\ndefault other*\n", "timeout 3\n"), ("default other*\n", "")] {
        let mut before = installed(&repository, &old, 512).await;
        let (disk, so_far) = replayed(&before, 512);
        let there = There::open(&region(&disk)).await.unwrap().unwrap();
        let write = move |volume: &mut crate::fat::Volume, read: crate::fat::ReadAt<'_>, region: &Region| {
            update::small(volume, read, region, LOADER_CONF.0, text.as_bytes().to_vec())?;
            there::apply(region, vec![volume.fat_writes()])
        };
        there.with(write).await.unwrap();
        before.extend(disk.log().split_off(so_far));
        let (esp, log) = changed(&repository, &before, staying(&old), 512).await;
        assert_eq!(esp.unwrap().uki_path, OLD_UKI);
        let image = Image::new();
        before.iter().chain(&log).for_each(|what| image.apply(what));
        assert_eq!(image.read(LOADER_CONF.0).unwrap(), rest.as_bytes());
        assert_eq!(complaints(&image.path()), Vec::<String>::new());
        // And the next run has nothing to do.
        let after: Vec<_> = before.into_iter().chain(log).collect();
        let (_, log) = changed(&repository, &after, staying(&old), 512).await;
        assert!(log.iter().all(|what| *what == Recorded::Flush), "{log:?}");
    }
}

#[tokio::test]
async fn a_small_file_goes_into_what_gaps_there_are() {
    let repository = Repository::new();
    let old = manifest(&repository, &bytes(1, 20_000), &bytes(2, 400_000));
    let mut before = installed(&repository, &old, 512).await;
    let (disk, so_far) = replayed(&before, 512);
    let there = There::open(&region(&disk)).await.unwrap().unwrap();
    let text = bytes(3, 3 * 4096 - 5);
    let wanted = text.clone();
    let write = |volume: &mut crate::fat::Volume, read: crate::fat::ReadAt<'_>, region: &Region| {
        let single: Vec<u32> = (0..8).map(|_| volume.take(1).unwrap()).collect();
        let free = volume.free_bytes();
        volume.take(free).unwrap();
        single.iter().step_by(2).for_each(|cluster| volume.give_back(&[*cluster]));
        update::small(volume, read, region, LOADER_CONF.0, text)?;
        there::apply(region, vec![volume.fat_writes()])
    };
    there.with(write).await.unwrap();
    before.extend(disk.log().split_off(so_far));
    let image = Image::new();
    before.iter().for_each(|what| image.apply(what));
    assert!(image.read(LOADER_CONF.0).unwrap() == wanted);
}

#[tokio::test]
async fn a_power_cut_leaves_the_old_files_or_the_new_ones() {
    let repository = Repository::new();
    let (old_loader, old_uki) = (bytes(1, 20_000), bytes(2, 400_000));
    let old = manifest(&repository, &old_loader, &old_uki);
    let (loader, uki) = (bytes(5, 30_000), bytes(6, 300_000));
    let new = next(&repository, &loader, &uki);
    for sector in [512, 4096] {
        let before = installed(&repository, &old, sector).await;
        let (esp, log) = changed(&repository, &before, staying(&new), sector).await;
        assert_eq!(esp.unwrap().uki_path, NEW_UKI);
        let (mut absent, mut whole) = (0, 0);
        for cut in cuts(&log) {
            let image = Image::new();
            before.iter().for_each(|what| image.apply(what));
            cut.iter().for_each(|index| image.apply(&log[*index]));
            assert!(image.read(OLD_UKI).unwrap() == old_uki, "{cut:?}");
            for path in [FALLBACK_LOADER, LOADER] {
                let found = image.read(path).unwrap();
                assert!(found == old_loader || found == loader, "{path} {cut:?}");
            }
            match image.read(NEW_UKI) {
                None => absent += 1,
                Some(found) => {
                    assert!(found == uki, "{cut:?}");
                    // Its loader is there before it.
                    assert!(image.read(LOADER).unwrap() == loader && image.read(FALLBACK_LOADER).unwrap() == loader);
                    whole += 1;
                }
            }
        }
        assert!(absent > 10 && whole >= 1, "{absent} {whole}");
        let image = Image::new();
        before.iter().chain(&log).for_each(|what| image.apply(what));
        assert_eq!(complaints(&image.path()), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_boot_loader_that_went_comes_back_behind_the_uki() {
    let repository = Repository::new();
    let old = manifest(&repository, &bytes(1, 20_000), &bytes(2, 400_000));
    let (loader, uki) = (bytes(5, 30_000), bytes(6, 300_000));
    let new = next(&repository, &loader, &uki);
    let mut before = installed(&repository, &old, 512).await;
    let (disk, so_far) = replayed(&before, 512);
    unname(&region(&disk), &[FALLBACK_LOADER, LOADER, OLD_UKI].map(str::to_owned)).unwrap();
    before.extend(disk.log().split_off(so_far));
    let (esp, log) = changed(&repository, &before, staying(&new), 512).await;
    assert_eq!(esp.unwrap().uki_path, NEW_UKI);
    let (mut nothing, mut all) = (0, 0);
    for cut in cuts(&log) {
        let image = Image::new();
        before.iter().for_each(|what| image.apply(what));
        cut.iter().for_each(|index| image.apply(&log[*index]));
        let loaders = [FALLBACK_LOADER, LOADER].map(|path| image.read(path));
        nothing += u32::from(loaders.iter().all(Option::is_none));
        for found in loaders.into_iter().flatten() {
            assert!(found == loader && image.read(NEW_UKI).unwrap() == uki, "{cut:?}");
            all += 1;
        }
    }
    assert!(nothing > 10 && all > 1, "{nothing} {all}");
}

#[tokio::test]
async fn an_interrupted_run_is_ended_by_the_next_one() {
    let repository = Repository::new();
    let old = manifest(&repository, &bytes(1, 20_000), &bytes(2, 400_000));
    let (loader, uki) = (bytes(5, 30_000), bytes(6, 300_000));
    let new = next(&repository, &loader, &uki);
    let before = installed(&repository, &old, 512).await;
    let (_, log) = changed(&repository, &before, staying(&new), 512).await;
    for cut in (0..log.len()).step_by(3) {
        let so_far: Vec<Recorded> = before.iter().chain(&log[..cut]).cloned().collect();
        let (esp, rest) = changed(&repository, &so_far, staying(&new), 512).await;
        assert_eq!(esp.unwrap().uki_path, NEW_UKI);
        let image = Image::new();
        so_far.iter().chain(&rest).for_each(|what| image.apply(what));
        assert_eq!(complaints(&image.path()), Vec::<String>::new(), "{cut}");
        assert!(image.read(NEW_UKI).unwrap() == uki && image.read(LOADER).unwrap() == loader);
        let so_far: Vec<Recorded> = so_far.into_iter().chain(rest).collect();
        let (_, nothing) = changed(&repository, &so_far, staying(&new), 512).await;
        assert!(nothing.iter().all(|what| *what == Recorded::Flush), "{cut}: {nothing:?}");
    }
}

#[tokio::test]
async fn what_is_damaged_or_gone_is_there_again() {
    let repository = Repository::new();
    let (loader, uki) = (bytes(1, 20_000), bytes(2, 400_000));
    let old = manifest(&repository, &loader, &uki);
    let before = installed(&repository, &old, 512).await;
    let image = |log: &[Recorded]| {
        let image = Image::new();
        before.iter().chain(log).for_each(|what| image.apply(what));
        image
    };
    let (esp, _) = changed(&repository, &before, staying(&old), 512).await;
    // A block of the UKI; then all of the root directory, whose files are nobody's after that.
    let root = layout(Order::of(&old), SIZE, 512).unwrap().extents()[0].offset;
    for (at, length) in [(esp.unwrap().uki.start + 8192, 512), (START + root - 6 * 4096, 4096)] {
        let damage = Recorded::Write { offset: at, bytes: vec![0; length] };
        let damaged: Vec<Recorded> = before.iter().cloned().chain([damage.clone()]).collect();
        let (done, log) = changed(&repository, &damaged, staying(&old), 512).await;
        let log: Vec<Recorded> = [damage].into_iter().chain(log).collect();
        done.unwrap();
        let image = image(&log);
        assert_eq!(complaints(&image.path()), Vec::<String>::new(), "{at}");
        let path = if length == 512 { OLD_UKI } else { UKI };
        assert!(image.read(path).unwrap() == uki && image.read(FALLBACK_LOADER).unwrap() == loader, "{at}");
        assert_eq!(image.read("loader/loader.conf").unwrap(), b"timeout 0\n");
    }
}

#[tokio::test]
async fn a_uki_that_would_start_before_is_renamed_by_one_sector() {
    let repository = Repository::new();
    let old_uki = bytes(2, 400_000);
    let old = manifest(&repository, &bytes(1, 20_000), &old_uki);
    let new = next(&repository, &bytes(1, 20_000), &bytes(6, 300_000));
    let before = installed(&repository, &old, 512).await;
    let behind = [(OLD_UKI.to_owned(), "debian_1+0.efi".to_owned())];
    let order = Order { renamed: &behind, ..staying(&new) };
    let (esp, log) = changed(&repository, &before, order, 512).await;
    assert_eq!(esp.unwrap().uki_path, NEW_UKI);
    let image = Image::new();
    before.iter().chain(&log).for_each(|what| image.apply(what));
    assert!(image.read(OLD_UKI).is_none() && image.read("EFI/Linux/debian_1+0.efi").unwrap() == old_uki);
    for cut in cuts(&log) {
        let image = Image::new();
        before.iter().for_each(|what| image.apply(what));
        cut.iter().for_each(|index| image.apply(&log[*index]));
        let found = image.read(OLD_UKI).or_else(|| image.read("EFI/Linux/debian_1+0.efi"));
        assert!(found.unwrap() == old_uki, "{cut:?}");
    }
}

#[tokio::test]
async fn a_uki_whose_slot_is_overwritten_has_no_name() {
    let repository = Repository::new();
    let old = manifest(&repository, &bytes(1, 20_000), &bytes(2, 400_000));
    let before = installed(&repository, &old, 512).await;
    let disk = Arc::new(Recording::memory(DISK_SIZE, 512));
    unname(&region(&disk), &[]).unwrap();
    for what in &before {
        if let Recorded::Write { offset, bytes } = what {
            disk.write_at(*offset, bytes).unwrap();
        }
    }
    unname(&region(&disk), &[OLD_UKI.to_owned()]).unwrap();
    assert_eq!(disk.log().last(), Some(&Recorded::Flush));
    let image = Image::new();
    disk.log().iter().for_each(|what| image.apply(what));
    assert_eq!(image.read(OLD_UKI), None);
    assert_eq!(complaints(&image.path()), Vec::<String>::new());
}
