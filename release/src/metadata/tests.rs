use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;

mod elsewhere;
mod staging;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 24 * 3600;

/// A repository in memory; `broken` cannot be read.
#[derive(Debug, Clone, Default)]
struct Memory {
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    broken: Option<&'static str>,
}

impl MetadataSource for Memory {
    fn find<'a>(&'a self, path: &'a str, _limit: usize) -> Finding<'a> {
        let found = if self.broken == Some(path) {
            Err(BoxError::from("the network is down"))
        } else {
            Ok(self.files.lock().unwrap().get(path).cloned())
        };
        Box::pin(std::future::ready(found))
    }
}

impl Memory {
    fn write(&self, files: Vec<Written>) {
        self.files.lock().unwrap().extend(files.into_iter().map(|file| (file.path, file.bytes)));
    }

    fn flip(&self, path: &str) {
        let mut files = self.files.lock().unwrap();
        let bytes = files.get_mut(path).unwrap();
        // The last digit of the version: still JSON, with another digest.
        let at = bytes.windows(10).position(|window| window == b"\"version\":").unwrap();
        let digit = bytes[at..].iter_mut().find(|byte| byte.is_ascii_digit()).unwrap();
        *digit ^= 8;
    }

    fn absent(&self, path: &str) -> Self {
        let copy = Self { files: Arc::new(Mutex::new(self.files.lock().unwrap().clone())), broken: None };
        copy.files.lock().unwrap().remove(path).unwrap();
        copy
    }
}

fn one() -> RoleSigners {
    RoleSigners { keys: vec![PrivateKey::generate().unwrap()], threshold: NonZeroU64::MIN }
}

fn keyring() -> Keyring {
    Keyring { root: one(), targets: one(), snapshot: one(), timestamp: one(), hosts: one() }
}

fn all(keyring: &Keyring) -> Vec<PrivateKey> {
    let Keyring { root, targets, snapshot, timestamp, hosts } = keyring;
    [root, targets, snapshot, timestamp, hosts].iter().flat_map(|role| role.keys.clone()).collect()
}

fn trusted(root: &Written) -> TrustedRoot {
    TrustedRoot::parse(&serde_json::from_slice::<Value>(&root.bytes).unwrap()).unwrap()
}

/// A repository with a release and a host config.
async fn repository(keyring: &Keyring, lifetimes: &Lifetimes) -> (Memory, TrustedRoot) {
    let root = new_root(keyring, lifetimes, NOW).await.unwrap();
    let trusted = trusted(&root);
    let memory = Memory::default();
    memory.write(vec![root]);
    let mut draft = Draft::new(&trusted, &delegation(&keyring.hosts).unwrap()).unwrap();
    assert!(draft.add_release("os_1.json", 5, Digest::of(b"os 1\n")).unwrap());
    assert!(draft.set_host("host-default.json", 5, Digest::of(b"host\n")).unwrap());
    memory.write(draft.sign(&all(keyring), lifetimes, NOW).await.unwrap());
    (memory, trusted)
}

async fn load(
    memory: &Memory,
    root: &TrustedRoot,
    known: Option<&Versions>,
    now: i64,
) -> Result<Metadata, MetadataError> {
    load_after(memory, root, known.map(std::slice::from_ref).unwrap_or_default(), now).await
}

async fn load_after(
    memory: &Memory,
    root: &TrustedRoot,
    known: &[Versions],
    now: i64,
) -> Result<Metadata, MetadataError> {
    let scratch = tempfile::tempdir().unwrap();
    TrustedRoot::load(Arc::new(memory.clone()), scratch.path(), Anchor { root, known, now }).await
}

async fn refusal(memory: &Memory, root: &TrustedRoot, now: i64) -> String {
    load(memory, root, None, now).await.unwrap_err().to_string()
}

async fn open(memory: &Memory, root: &TrustedRoot) -> Draft {
    let scratch = tempfile::tempdir().unwrap();
    Draft::open(root, Arc::new(memory.clone()), scratch.path()).await.unwrap()
}

#[tokio::test]
async fn what_is_signed_is_read_back() {
    let (memory, root) = repository(&keyring(), &Lifetimes::default()).await;
    let metadata = load(&memory, &root, None, NOW).await.unwrap();
    let release = &metadata.releases["os_1.json"];
    assert_eq!((release.size, release.sha256), (5, Digest::of(b"os 1\n")));
    assert_eq!(release.path, format!("targets/{}.os_1.json", release.sha256));
    assert_eq!(metadata.hosts.keys().collect::<Vec<_>>(), ["host-default.json"]);
    let versions = &metadata.versions;
    let numbers = [versions.root, versions.timestamp, versions.snapshot, versions.targets, versions.hosts];
    assert_eq!(numbers, [1; 5]);
    assert_eq!(Versions::parse(&versions.to_bytes()).unwrap(), *versions);
}

#[tokio::test]
async fn keys_that_are_not_named_count_for_nothing() {
    let (memory, _) = repository(&keyring(), &Lifetimes::default()).await;
    let stranger = trusted(&new_root(&keyring(), &Lifetimes::default(), NOW).await.unwrap());
    let text = "metadata/timestamp.json has 0 valid signatures by keys that are trusted with it, but needs 1";
    assert_eq!(refusal(&memory, &stranger, NOW).await, text);

    let mut two = keyring();
    two.timestamp.keys.push(PrivateKey::generate().unwrap());
    two.timestamp.threshold = NonZeroU64::new(2).unwrap();
    let (memory, root) = repository(&two, &Lifetimes::default()).await;
    let mut timestamp: Value =
        serde_json::from_slice(&memory.files.lock().unwrap()["metadata/timestamp.json"]).unwrap();
    timestamp["signatures"].as_array_mut().unwrap().pop();
    let bytes = timestamp.to_string().into_bytes();
    memory.write(vec![Written { path: "metadata/timestamp.json".to_owned(), bytes }]);
    let text = "metadata/timestamp.json has 1 valid signatures by keys that are trusted with it, but needs 2";
    assert_eq!(refusal(&memory, &root, NOW).await, text);
}

#[tokio::test]
async fn too_few_keys_at_hand_sign_nothing() {
    let keyring = keyring();
    let (memory, root) = repository(&keyring, &Lifetimes::default()).await;
    let mut draft = open(&memory, &root).await;
    draft.add_release("os_2.json", 1, Digest::of(b"2")).unwrap();
    let keys = [keyring.snapshot.keys.clone(), keyring.timestamp.keys.clone()].concat();
    let error = draft.sign(&keys, &Lifetimes::default(), NOW).await.unwrap_err();
    let text = "the role targets must be signed by 1 of its keys, and 0 of them are at hand";
    assert_eq!(error.to_string(), text);
    let mut draft = open(&memory, &root).await;
    let error = draft.add_release("os_1.json", 5, Digest::of(b"other")).unwrap_err().to_string();
    assert_eq!(error, "os_1.json is published already, with other content: a published version never changes");
}

#[tokio::test]
async fn every_role_expires() {
    let at = |days: i64| jiff::Timestamp::from_second(NOW + days * DAY).unwrap();
    let long = Lifetimes { root: 9, targets: 9, hosts: 9, snapshot: 9, timestamp: 9 };
    for (role, lifetimes) in [
        ("root", Lifetimes { root: 1, ..long }),
        ("targets", Lifetimes { targets: 1, ..long }),
        ("hosts", Lifetimes { hosts: 1, ..long }),
        ("snapshot", Lifetimes { snapshot: 1, ..long }),
        ("timestamp", Lifetimes { timestamp: 1, ..long }),
    ] {
        let (memory, root) = repository(&keyring(), &lifetimes).await;
        assert!(load(&memory, &root, None, NOW + DAY - 1).await.is_ok());
        let expected = format!("the repository's {role} metadata expired at {}, and the clock shows {}", at(1), at(1));
        assert_eq!(refusal(&memory, &root, NOW + DAY).await, expected);
    }
}

#[tokio::test]
async fn a_timestamp_is_renewed_by_its_key_alone_while_the_snapshot_holds() {
    let keyring = keyring();
    let short = Lifetimes { timestamp: 3, ..Lifetimes::default() };
    let (memory, root) = repository(&keyring, &short).await;
    let before = memory.files.lock().unwrap().clone();
    let later = NOW + 2 * DAY;
    let draft = open(&memory, &root).await;
    let error = draft.sign_timestamp(&keyring.snapshot.keys, &short, later).await.unwrap_err().to_string();
    assert_eq!(error, "the role timestamp must be signed by 1 of its keys, and 0 of them are at hand");
    let file = draft.sign_timestamp(&keyring.timestamp.keys, &short, later).await.unwrap();
    assert_eq!(file.path, "metadata/timestamp.json");
    memory.write(vec![file]);
    let versions = load(&memory, &root, None, later + 3 * DAY - 1).await.unwrap().versions;
    assert_eq!((versions.timestamp, versions.snapshot, versions.targets, versions.hosts), (2, 1, 1, 1));
    let changed = memory.files.lock().unwrap().iter().filter(|(path, bytes)| before.get(*path) != Some(bytes)).count();
    assert_eq!((changed, before.len()), (1, memory.files.lock().unwrap().len()));

    // To the second until the snapshot ends, and not beyond.
    let draft = open(&memory, &root).await;
    let last = NOW + 27 * DAY;
    draft.sign_timestamp(&keyring.timestamp.keys, &short, last).await.unwrap();
    let error = draft.sign_timestamp(&keyring.timestamp.keys, &short, last + 1).await.unwrap_err().to_string();
    let at = |second: i64| jiff::Timestamp::from_second(second).unwrap();
    let expected = format!(
        "the repository's snapshot metadata expires at {}, before the new timestamp would, at {}: sign the snapshot anew \
         (`metalstrap refresh`), or let the timestamp hold for fewer days",
        at(NOW + 30 * DAY),
        at(NOW + 30 * DAY + 1)
    );
    assert_eq!(error, expected);
    let new = Draft::new(&root, &delegation(&keyring.hosts).unwrap()).unwrap();
    let error = new.sign_timestamp(&keyring.timestamp.keys, &short, NOW).await.unwrap_err().to_string();
    assert_eq!(error, "the repository has no snapshot metadata yet: publish a release first");
}

#[tokio::test]
async fn no_role_goes_back_unless_its_keys_have_changed() {
    let (memory, root) = repository(&keyring(), &Lifetimes::default()).await;
    let found = load(&memory, &root, None, NOW).await.unwrap().versions;
    let known = |role: &str| {
        let mut known = serde_json::to_value(&found).unwrap();
        known[role] = json!(7);
        Versions::parse(known.to_string().as_bytes()).unwrap()
    };
    for role in ["root", "timestamp", "snapshot", "targets", "hosts"] {
        let error = load(&memory, &root, Some(&known(role)), NOW).await.unwrap_err().to_string();
        let expected = format!("the repository's {role} metadata has version 1, but version 7 was seen here before");
        assert_eq!(error, expected);
        let other = Versions { online_keys: Digest::of(b"other keys"), ..known(role) };
        assert_eq!(load(&memory, &root, Some(&other), NOW).await.is_ok(), role != "root");
        let other = Versions { anchor: Digest::of(b"another repository"), ..known(role) };
        assert!(load(&memory, &root, Some(&other), NOW).await.is_ok());
    }
}

#[tokio::test]
async fn what_any_memory_of_a_machine_has_seen_counts() {
    let (memory, root) = repository(&keyring(), &Lifetimes::default()).await;
    let found = load(&memory, &root, None, NOW).await.unwrap().versions;
    let newer = |timestamp| Versions { timestamp, ..found.clone() };
    let elsewhere = Versions { anchor: Digest::of(b"another repository"), ..newer(9) };
    let expected = "the repository's timestamp metadata has version 1, but version 7 was seen here before";
    for known in [[newer(1), newer(7)], [newer(7), newer(1)], [elsewhere.clone(), newer(7)]] {
        assert_eq!(load_after(&memory, &root, &known, NOW).await.unwrap_err().to_string(), expected);
    }
    assert_eq!(load_after(&memory, &root, &[newer(1), elsewhere], NOW).await.unwrap().versions, found);
}

#[tokio::test]
async fn a_damaged_or_absent_file_is_named() {
    let keyring = keyring();
    for file in ["1.targets.json", "1.hosts.json", "1.snapshot.json", "timestamp.json"] {
        let (memory, root) = repository(&keyring, &Lifetimes::default()).await;
        let path = format!("metadata/{file}");
        let absent = refusal(&memory.absent(&path), &root, NOW).await;
        assert_eq!(absent, format!("the repository has no {path}, or does not give it out"));
        let digest = Digest::of(&memory.files.lock().unwrap()[&path]);
        memory.flip(&path);
        let now = Digest::of(&memory.files.lock().unwrap()[&path]);
        let expected = match file {
            "timestamp.json" => {
                format!("{path} has 0 valid signatures by keys that are trusted with it, but needs 1")
            }
            _ => format!("{path} has SHA-256 {now}, but the metadata says {digest}"),
        };
        assert_eq!(refusal(&memory, &root, NOW).await, expected);
    }
}

#[tokio::test]
async fn hosts_sign_host_configs_and_nothing_else() {
    let keyring = keyring();
    let (memory, root) = repository(&keyring, &Lifetimes::default()).await;
    let mut draft = open(&memory, &root).await;
    for name in ["os_2.json", "debian_1.json", "host-default"] {
        let error = draft.set_host(name, 1, Digest::of(b"1")).unwrap_err().to_string();
        assert_eq!(error, format!("{name} is no name of a host config"));
    }
    // What whoever holds the key of `hosts` would sign instead.
    let mut delegation = delegation(&keyring.hosts).unwrap();
    delegation["roles"][0]["paths"] = json!(["*"]);
    let mut wide = Draft::new(&root, &delegation).unwrap();
    wide.set_host("host-../x.json", 1, Digest::of(b"1")).unwrap();
    let keys = all(&keyring);
    memory.write(wide.sign(&keys, &Lifetimes::default(), NOW).await.unwrap());
    let text = refusal(&memory, &root, NOW).await;
    assert_eq!(text, "the repository's hosts metadata is not valid: \"host-../x.json\" is no name of a file");
    let mut draft = Draft::new(&root, &delegation).unwrap();
    draft.add_release("../x", 1, Digest::of(b"1")).unwrap();
    memory.write(draft.sign(&keys, &Lifetimes::default(), NOW).await.unwrap());
    let text = refusal(&memory, &root, NOW).await;
    assert_eq!(text, "the repository's targets metadata is not valid: \"../x\" is no name of a file");
}

#[tokio::test]
async fn the_list_of_allowed_releases_is_no_release_and_only_targets_sign_it() {
    let keyring = keyring();
    let (memory, root) = repository(&keyring, &Lifetimes::default()).await;
    assert_eq!(load(&memory, &root, None, NOW).await.unwrap().allowed, None);
    let mut draft = open(&memory, &root).await;
    let error = draft.set_host("allowed-releases.json", 1, Digest::of(b"1")).unwrap_err().to_string();
    assert_eq!(error, "allowed-releases.json is no name of a host config");
    assert_eq!(draft.allowed().unwrap(), None);
    assert!(draft.set_allowed(1, Digest::of(b"1")).unwrap());
    assert!(!draft.set_allowed(1, Digest::of(b"1")).unwrap());
    assert!(draft.set_allowed(2, Digest::of(b"22")).unwrap(), "a list is replaced by the next");
    assert_eq!(draft.releases().unwrap().keys().collect::<Vec<_>>(), ["os_1.json"]);
    let keys = [keyring.targets.keys.clone(), keyring.snapshot.keys.clone(), keyring.timestamp.keys.clone()].concat();
    memory.write(draft.sign(&keys, &Lifetimes::default(), NOW).await.unwrap());
    let metadata = load(&memory, &root, None, NOW).await.unwrap();
    assert_eq!(metadata.releases.keys().collect::<Vec<_>>(), ["os_1.json"]);
    assert_eq!(metadata.allowed.unwrap().path, format!("targets/{}.allowed-releases.json", Digest::of(b"22")));
}

#[tokio::test]
async fn an_old_root_leads_to_the_new_one_by_signatures_only() {
    let old = keyring();
    let lifetimes = Lifetimes::default();
    let (memory, root) = repository(&old, &lifetimes).await;
    let new = [(RoleName::Timestamp, one()), (RoleName::Root, one())];
    let stranger = [new[1].1.keys.clone(), one().keys].concat();
    let error = next_root(&root, &new, &stranger, &lifetimes, NOW).await.unwrap_err().to_string();
    assert_eq!(error, "the role root must be signed by 1 of its keys, and 0 of them are at hand");
    let root_keys = [old.root.keys.clone(), new[1].1.keys.clone()].concat();
    let next = next_root(&root, &new, &root_keys, &lifetimes, NOW).await.unwrap();
    assert_eq!(next.path, "metadata/2.root.json");

    let mut draft = open(&memory, &root).await;
    draft.adopt(vec![next.clone()], &trusted(&next));
    let keys = [all(&old), new[0].1.keys.clone()].concat();
    let files = draft.clone().sign(&keys, &lifetimes, NOW).await.unwrap();
    let paths: Vec<_> = files.iter().map(|file| file.path.trim_start_matches("metadata/")).collect();
    assert_eq!(paths, ["2.targets.json", "2.snapshot.json", "timestamp.json", "2.root.json"]);
    memory.write(files);
    for root in [&root, &trusted(&next)] {
        let versions = load(&memory, root, None, NOW).await.unwrap().versions;
        assert_eq!((versions.root, versions.timestamp), (2, 2));
    }
    // Without the old key of `timestamp`, the root comes first.
    let keys: Vec<_> = keys.into_iter().filter(|key| key.id() != old.timestamp.keys[0].id()).collect();
    let files = draft.sign(&keys, &lifetimes, NOW).await.unwrap();
    assert_eq!(files[0].path, "metadata/2.root.json");

    let other = keyring();
    let forged = trusted(&new_root(&other, &lifetimes, NOW).await.unwrap());
    let mut forged = next_root(&forged, &[], &other.root.keys, &lifetimes, NOW).await.unwrap();
    forged.path = "metadata/2.root.json".to_owned();
    memory.write(vec![forged]);
    let text = "metadata/2.root.json has 0 valid signatures by keys that are trusted with it, but needs 1";
    assert_eq!(refusal(&memory, &root, NOW).await, text);
}

#[tokio::test]
async fn a_network_that_fails_is_not_the_absence_of_a_newer_root() {
    let (memory, root) = repository(&keyring(), &Lifetimes::default()).await;
    for path in ["metadata/2.root.json", "metadata/timestamp.json"] {
        let broken = Memory { broken: Some(path), ..memory.clone() };
        assert_eq!(refusal(&broken, &root, NOW).await, "the network is down");
    }
}
