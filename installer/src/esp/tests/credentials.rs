//! Credentials on an ESP: those of one host config at every point, and what is not ours stays.

use std::collections::BTreeMap;
use std::process::Command;

use super::staying::{changed, installed, next, replayed, staying};
use super::*;
use crate::credentials::seal_all;
use crate::disk::Disk as _;
use metalstrap_release::host::Host;
use serde_json::{Value, json};

fn sealed(credentials: Value) -> Vec<Sealed> {
    let host = json!({"format": 1, "release": {"name": "a", "version": "1"}, "credentials": credentials});
    seal_all(&Host::parse(host.to_string().as_bytes()).unwrap()).unwrap()
}

fn old() -> Vec<Sealed> {
    let name = "x".repeat(250);
    sealed(json!({"system.hostname": {"text": "old"}, "long": {"text": "o".repeat(9000)}, "gone": {"text": "x"},
        (name): {"text": "of the longest name"}}))
}

fn new() -> Vec<Sealed> {
    sealed(json!({"system.hostname": {"text": "new"}, "long": {"text": "n".repeat(12_000)}, "added": {"text": "y"}}))
}

fn files(credentials: &[Sealed]) -> BTreeMap<String, Vec<u8>> {
    credentials.iter().map(|one| (one.file(), one.bytes.clone())).collect()
}

impl Image {
    /// The credentials as mtools finds them.
    fn credentials(&self) -> BTreeMap<String, Vec<u8>> {
        let list =
            Command::new("mdir").args(["-b", "-i"]).arg(self.path()).arg("::/loader/credentials").output().unwrap();
        let list = String::from_utf8(list.stdout).unwrap();
        let names = list.lines().filter_map(|line| line.strip_prefix("::/loader/credentials/"));
        let names = names.filter(|name| name.ends_with(".cred"));
        names.map(|name| (name.to_owned(), self.read(&format!("loader/credentials/{name}")).unwrap())).collect()
    }

    /// Does something to it with mtools.
    fn mtools(&self, words: &[&str]) {
        let (tool, words) = words.split_first().unwrap();
        let done = Command::new(tool).arg("-i").arg(self.path()).args(words).output().unwrap();
        assert!(done.status.success(), "{done:?}");
    }
}

fn image_of(log: &[Recorded]) -> Image {
    let image = Image::new();
    log.iter().for_each(|what| image.apply(what));
    image
}

#[tokio::test]
async fn a_fresh_esp_has_them() {
    let repository = Repository::new();
    let manifest = manifest(&repository, &bytes(1, 20_000), &bytes(2, 400_000));
    for sector in [512, 4096] {
        let credentials = old();
        let disk = Arc::new(Recording::memory(DISK_SIZE, sector));
        let order = Order { credentials: &credentials, ..order(&manifest) };
        assert!(!has_credentials(&region(&disk), &credentials).await);
        write(&repository.mirrors(), order, &region(&disk), &[], &Progress::default()).await.unwrap();
        let image = image_of(&disk.log());
        assert_eq!(image.credentials(), files(&credentials));
        assert_eq!(complaints(&image.path()), Vec::<String>::new());
        let list = format!("gone\nlong\nsystem.hostname\n{}\n", "x".repeat(250));
        assert_eq!(String::from_utf8(image.read("loader/credentials/metalstrap").unwrap()).unwrap(), list);
        assert!(has_credentials(&region(&disk), &credentials).await);
        assert!(!has_credentials(&region(&disk), &new()).await);
        assert!(!has_credentials(&region(&disk), &[]).await);
    }
}

#[tokio::test]
async fn a_power_cut_leaves_the_old_ones_or_the_new_ones_and_never_a_new_uki_with_the_old_ones() {
    let repository = Repository::new();
    let first = manifest(&repository, &bytes(1, 20_000), &bytes(2, 400_000));
    let second = next(&repository, &bytes(1, 20_000), &bytes(6, 300_000));
    let (old, new) = (old(), new());
    for sector in [512, 4096] {
        let mut before = installed(&repository, &first, sector).await;
        let order = |manifest, credentials| Order { credentials, ..staying(manifest) };
        let (_, log) = changed(&repository, &before, order(&first, &old), sector).await;
        before.extend(log);
        assert_eq!(image_of(&before).credentials(), files(&old));
        let (esp, log) = changed(&repository, &before, order(&second, &new), sector).await;
        esp.unwrap();
        let (mut with_old, mut with_new) = (0, 0);
        for cut in cuts(&log) {
            let image = image_of(&before);
            cut.iter().for_each(|index| image.apply(&log[*index]));
            let found = image.credentials();
            let is_new = found == files(&new);
            assert!(is_new || found == files(&old), "{cut:?}: {:?}", found.keys());
            let has_new_uki = image.read("EFI/Linux/debian_2+3.efi").is_some();
            assert!(is_new || !has_new_uki, "{cut:?}");
            with_new += usize::from(is_new);
            with_old += usize::from(!is_new);
            complaints(&image.path());
        }
        assert!(with_old > 10 && with_new > 10, "{with_old} {with_new}");
        before.extend(log);
        assert_eq!(complaints(&image_of(&before).path()), Vec::<String>::new());
        let (_, log) = changed(&repository, &before, order(&second, &new), sector).await;
        assert!(log.iter().all(|what| *what == Recorded::Flush), "{log:?}");
        // And none at all.
        let (_, log) = changed(&repository, &before, staying(&second), sector).await;
        before.extend(log);
        let image = image_of(&before);
        assert_eq!((image.credentials(), image.read("loader/credentials/metalstrap")), (BTreeMap::new(), None));
        assert_eq!(complaints(&image.path()), Vec::<String>::new());
    }
}

#[tokio::test]
async fn what_others_have_put_there_stays() {
    let repository = Repository::new();
    let manifest = manifest(&repository, &[b"MZ".to_vec(), bytes(1, 20_000)].concat(), &bytes(2, 400_000));
    let (old, new) = (old(), new());
    for sector in [512, 4096] {
        let order = |credentials| Order { credentials, ..staying(&manifest) };
        let mut before = installed(&repository, &manifest, sector).await;
        let (_, log) = changed(&repository, &before, order(&old), sector).await;
        before.extend(log);
        let image = image_of(&before);
        let source = image.path().with_file_name("source");
        fs::write(&source, b"sealed to a TPM").unwrap();
        let source = source.to_str().unwrap();
        image.mtools(&["mcopy", source, "::/loader/credentials/pcrlock.0.cred"]);
        image.mtools(&["mmd", "::/loader/credentials/more"]);
        image.mtools(&["mcopy", source, "::/loader/credentials/more/x.cred"]);
        // The same disk, as it is now.
        let bytes = fs::read(image.path()).unwrap();
        let (disk, _) = replayed(&[], sector);
        disk.write_at(START, &bytes).unwrap();
        let so_far = disk.log().len();
        write(&repository.mirrors(), order(&new), &region(&disk), &[], &Progress::default()).await.unwrap();
        disk.log().split_off(so_far).iter().for_each(|what| image.apply(what));
        let mut expected = files(&new);
        expected.insert("pcrlock.0.cred".to_owned(), b"sealed to a TPM".to_vec());
        assert_eq!(image.credentials(), expected);
        assert_eq!(image.read("loader/credentials/more/x.cred").unwrap(), b"sealed to a TPM");
        assert_eq!(complaints(&image.path()), Vec::<String>::new());
        assert!(has_credentials(&region(&disk), &new).await);
        // What was not ours is, from when the host config has it.
        let own = sealed(json!({"pcrlock.0": {"text": "mine"}}));
        let so_far = disk.log().len();
        write(&repository.mirrors(), order(&own), &region(&disk), &[], &Progress::default()).await.unwrap();
        disk.log().split_off(so_far).iter().for_each(|what| image.apply(what));
        assert_eq!(image.credentials(), files(&own));
        assert_eq!(complaints(&image.path()), Vec::<String>::new());
    }
}

#[test]
fn their_room_is_counted() {
    let repository = Repository::new();
    let manifest = manifest(&repository, &bytes(1, 10_000), &bytes(2, 100_000));
    let credentials = new();
    let order = Order { credentials: &credentials, ..staying(&manifest) };
    // Two small ones, one of 16 KiB as base64, the list, and the directory.
    assert_eq!(super::super::credentials::room(&credentials, 4096), (1 + 1 + 4 + 1 + 2) * 4096);
    let boot = [10_000_u64, 10_000, 100_000].map(|bytes| bytes.next_multiple_of(4096)).iter().sum::<u64>();
    let files = |free| BootFiles { cluster: 4096, free, ..BootFiles::default() };
    let needed = boot + 9 * 4096;
    check_room(order, &files(needed), &[], "d").unwrap();
    let error = check_room(order, &files(needed - 1), &[], "d").unwrap_err();
    let text = format!(
        "disk d: the EFI system partition has {} bytes free, but the boot files need {needed}; it has []",
        needed - 1
    );
    assert_eq!((code_of(&error), error.to_string()), (Code::Esp, text));
    let uki = |name: &str, size, taken| boot_files::Uki { name: name.to_owned(), size, root_hash: None, taken };
    let there = BootFiles { ukis: vec![uki("debian_1.efi", 100_000, 102_400)], ..files(9 * 4096) };
    check_room(order, &there, &[], "d").unwrap();
    // One that goes makes as much room as its clusters are, whatever its size says.
    let gone = |taken| BootFiles { ukis: vec![uki("debian_0.efi", 40_000, taken)], ..files(needed - 40_960) };
    let removed = ["EFI/Linux/debian_0.efi".to_owned()];
    check_room(order, &gone(40_960), &removed, "d").unwrap();
    check_room(order, &gone(0), &removed, "d").unwrap_err();
}

#[tokio::test]
async fn those_that_are_there_need_no_room() {
    let repository = Repository::new();
    let manifest = manifest(&repository, &bytes(1, 10_000), &bytes(2, 100_000));
    let (credentials, others) = (new(), old());
    let order = Order { credentials: &credentials, ..order(&manifest) };
    let disk = Arc::new(Recording::memory(DISK_SIZE, 512));
    write(&repository.mirrors(), order, &region(&disk), &[], &Progress::default()).await.unwrap();
    let read = |offset: u64, buffer: &mut [u8]| region(&disk).read_at(offset, buffer);
    let found = boot_files::EspContents::read(SIZE, 512, &read);
    let full = BootFiles { free: 0, ..found.files().unwrap().clone() };
    check_room(order, &full, &[], "d").unwrap();
    let error = check_room(Order { credentials: &others, ..order }, &full, &[], "d").unwrap_err();
    assert_eq!(code_of(&error), Code::Esp);
    // Nobody is told what they are by.
    assert!(!serde_json::to_string(&full).unwrap().contains("hostname"), "{full:?}");
}

#[tokio::test]
async fn what_a_verifier_has_given_is_beside_those_of_the_host_config_and_stays_when_these_change() {
    let repository = Repository::new();
    let manifest = manifest(&repository, &bytes(1, 20_000), &bytes(2, 400_000));
    let disk = Arc::new(Recording::memory(DISK_SIZE, 512));
    let (old, new) = (old(), new());
    let first = Order { credentials: &old, ..order(&manifest) };
    write(&repository.mirrors(), first, &region(&disk), &[], &Progress::default()).await.unwrap();
    assert_eq!(attested(&region(&disk)).await.unwrap(), Vec::<Sealed>::new());

    let mut given = sealed(json!({"added": {"text": "z"}, "token": {"text": "t"}}));
    given.iter_mut().for_each(|one| one.size = None);
    hold_attested(&region(&disk), given.clone()).await.unwrap();
    let both = |first: &[Sealed], second: &[Sealed]| -> BTreeMap<String, Vec<u8>> {
        files(first).into_iter().chain(files(second)).collect()
    };
    let image = image_of(&disk.log());
    assert_eq!(image.credentials(), both(&old, &given));
    assert_eq!(complaints(&image.path()), Vec::<String>::new());
    assert_eq!(attested(&region(&disk)).await.unwrap(), given);
    assert!(has_credentials(&region(&disk), &old).await);
    let writes = disk.log().len();
    hold_attested(&region(&disk), given.clone()).await.unwrap();
    assert_eq!(disk.log().len(), writes, "nothing is written where it is there");

    // The next host config has one of that name itself.
    let second = Order { credentials: &new, ..staying(&manifest) };
    write(&repository.mirrors(), second, &region(&disk), &[], &Progress::default()).await.unwrap();
    assert_eq!(image_of(&disk.log()).credentials(), both(&given, &new));
    assert_eq!(attested(&region(&disk)).await.unwrap(), given[1..]);
    hold_attested(&region(&disk), Vec::new()).await.unwrap();
    let image = image_of(&disk.log());
    assert_eq!(image.credentials(), files(&new));
    assert_eq!(complaints(&image.path()), Vec::<String>::new());
}
