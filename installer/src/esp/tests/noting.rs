//! What an ESP that stays says of what has happened to the disk.

use super::staying::{changed, installed, replayed, staying};
use super::*;

#[tokio::test]
async fn what_has_happened_to_the_disk_is_noted_where_it_is_not() {
    let repository = Repository::new();
    let old = manifest(&repository, &[b"MZ".to_vec(), bytes(1, 20_000)].concat(), &bytes(2, 30_000));
    let before = installed(&repository, &old, 512).await;
    let intents = ["one", "two"].map(str::to_owned);
    let noting = Order { intents: &intents, ..staying(&old) };
    let (esp, log) = changed(&repository, &before, noting, 512).await;
    assert_eq!(esp.unwrap().tally.written(), 0);
    let image = Image::new();
    before.iter().chain(&log).for_each(|what| image.apply(what));
    assert_eq!(image.read("EFI/metalstrap/intents").unwrap(), b"one\ntwo\n");
    let known: Vec<_> = before.iter().chain(&log).cloned().collect();
    let (_, log) = changed(&repository, &known, noting, 512).await;
    assert!(log.iter().all(|what| *what == Recorded::Flush), "{log:?}");
}

#[tokio::test]
async fn lines_of_the_note_that_are_no_intents_do_not_count_and_go_when_it_is_written() {
    let repository = Repository::new();
    let old = manifest(&repository, &[b"MZ".to_vec(), bytes(1, 20_000)].concat(), &bytes(2, 30_000));
    let mut before = installed(&repository, &old, 512).await;
    let (disk, so_far) = replayed(&before, 512);
    let there = There::open(&region(&disk)).await.unwrap().unwrap();
    // More than is read of it.
    let text = [&b"one\n\xff\xfe\n\0\0\0\ntwo\n"[..], "x\n".repeat(2100).as_bytes()].concat();
    let write = |volume: &mut crate::fat::Volume, read: crate::fat::ReadAt<'_>, region: &Region| {
        update::small(volume, read, region, INTENTS, text)?;
        there::apply(region, vec![volume.fat_writes()])
    };
    there.with(write).await.unwrap();
    before.extend(disk.log().split_off(so_far));
    let read = |offset: u64, buffer: &mut [u8]| region(&disk).read_at(offset, buffer);
    let found = boot_files::EspContents::read(SIZE, 512, &read);
    let files = found.files().unwrap();
    assert_eq!((files.intents.join(" ").as_str(), files.dropped_intents), ("one two x", 3));
    // A bad sector costs all of them, and not the file system.
    let bad = |offset: u64, buffer: &mut [u8]| {
        read(offset, buffer)?;
        if buffer.starts_with(b"one\n") { Err(io::Error::from_raw_os_error(5)) } else { Ok(()) }
    };
    let found = boot_files::EspContents::read(SIZE, 512, &bad);
    let files = found.files().unwrap();
    assert_eq!((files.intents.len(), files.dropped_intents), (0, 1));
    // The others are right: they are no reason to write it.
    let intents = ["one", "two", "x", "new"].map(str::to_owned);
    for (intents, written) in [(&intents[..3], false), (&intents[..], true)] {
        let (esp, log) = changed(&repository, &before, Order { intents, ..staying(&old) }, 512).await;
        assert!(esp.is_ok() && log.iter().any(|what| *what != Recorded::Flush) == written, "{log:?}");
        let image = Image::new();
        before.iter().chain(&log).for_each(|what| image.apply(what));
        assert!(!written || image.read(INTENTS).unwrap() == b"one\ntwo\nx\nnew\n");
        assert_eq!(complaints(&image.path()), Vec::<String>::new());
    }
}

/// Fills the file system of a disk but for some bytes.
async fn fill(before: &mut Vec<Recorded>, left: u64) {
    let (disk, so_far) = replayed(before, 512);
    let there = There::open(&region(&disk)).await.unwrap().unwrap();
    let write = move |volume: &mut crate::fat::Volume, read: crate::fat::ReadAt<'_>, region: &Region| {
        let size = volume.free_bytes() - left;
        let cluster = volume.take(size)?;
        there::apply(region, volume.add(&format!("full{left}"), cluster, u32::try_from(size)?, read)?)
    };
    there.with(write).await.unwrap();
    before.extend(disk.log().split_off(so_far));
}

#[tokio::test]
async fn a_full_esp_is_no_reason_to_refuse_a_disk_that_lacks_nothing_but_the_note() {
    let repository = Repository::new();
    let old = manifest(&repository, &[b"MZ".to_vec(), bytes(1, 20_000)].concat(), &bytes(2, 30_000));
    let intents = ["one", "two", "three"].map(str::to_owned);
    let noting = |count: usize| Order { intents: &intents[..count], ..staying(&old) };
    let mut before = installed(&repository, &old, 512).await;
    let files = BootFiles {
        cluster: 4096,
        ukis: vec![boot_files::Uki { name: "debian_1.efi".into(), size: 30_000, root_hash: None, taken: 32_768 }],
        ..BootFiles::default()
    };
    check_room(noting(1), &files, &[], "d").unwrap();

    // Its directory and one by which the one above may grow would have to be made as well.
    let mut full = before.clone();
    fill(&mut full, 2 * 4096).await;
    let (esp, log) = changed(&repository, &full, noting(2), 512).await;
    assert_eq!(esp.unwrap().unnoted, ["one", "two"]);
    assert!(log.iter().all(|what| *what == Recorded::Flush), "{log:?}");

    // One that is there needs a cluster, until the old one is given back.
    let (_, log) = changed(&repository, &before, noting(1), 512).await;
    before.extend(log);
    fill(&mut before, 4096).await;
    let (esp, log) = changed(&repository, &before, noting(2), 512).await;
    assert_eq!(esp.unwrap().unnoted, [""; 0]);
    before.extend(log);
    let image = Image::new();
    before.iter().for_each(|what| image.apply(what));
    assert_eq!(image.read(INTENTS).unwrap(), b"one\ntwo\n");
    assert_eq!(complaints(&image.path()), Vec::<String>::new());
    fill(&mut before, 0).await;
    let (esp, log) = changed(&repository, &before, noting(3), 512).await;
    assert_eq!(esp.unwrap().unnoted, ["three"]);
    assert!(log.iter().all(|what| *what == Recorded::Flush), "{log:?}");
}
