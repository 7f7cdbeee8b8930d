//! Metadata that is signed by one after the other, somewhere else.

use super::*;

fn three(threshold: u64) -> RoleSigners {
    let keys = (0..3).map(|_| PrivateKey::generate().unwrap()).collect();
    RoleSigners { keys, threshold: NonZeroU64::new(threshold).unwrap() }
}

/// As a stage hands it on.
fn handed_on(staged: &Staged) -> Staged {
    Staged::parse(staged.role(), &staged.to_bytes().unwrap()).unwrap()
}

fn online(keyring: &Keyring) -> Vec<PrivateKey> {
    [keyring.snapshot.keys.clone(), keyring.timestamp.keys.clone()].concat()
}

#[tokio::test]
async fn targets_are_signed_elsewhere_and_finished_with_the_online_keys() {
    let mut keyring = keyring();
    keyring.targets = three(2);
    let lifetimes = Lifetimes::default();
    let (memory, root) = repository(&keyring, &lifetimes).await;
    let mut draft = open(&memory, &root).await;
    draft.add_release("os_2.json", 1, Digest::of(b"2")).unwrap();
    let mut staged = draft.stage(&lifetimes, NOW).unwrap();
    assert_eq!(staged.iter().map(|one| (one.role(), one.version())).collect::<Vec<_>>(), [(RoleName::Targets, 2)]);
    assert_eq!(staged[0].expires(), NOW + 365 * DAY);
    assert_eq!(staged[0].files().unwrap().keys().collect::<Vec<_>>(), ["os_1.json", "os_2.json"]);
    let quorums = draft.quorums(RoleName::Targets, &staged).unwrap();
    assert_eq!(quorums.iter().map(|quorum| (quorum.by(), quorum.needed())).collect::<Vec<_>>(), [("the root", 2)]);

    let refusal = "the staged targets metadata has 1 valid signatures by keys of the root, but needs 2";
    let keys = &keyring.targets.keys;
    assert_eq!(staged[0].sign(&quorums, &[keys[2].clone(), keyring.hosts.keys[0].clone()]).unwrap(), [keys[2].id()]);
    assert!(staged[0].sign(&quorums, &keys[2..]).unwrap().is_empty(), "a key signs once");
    let mut staged = vec![handed_on(&staged[0])];
    assert_eq!(staged[0].check(&quorums).unwrap_err().to_string(), refusal);
    let current = open(&memory, &root).await;
    let error = current.clone().finish(&staged, &online(&keyring), &lifetimes, NOW).await.unwrap_err().to_string();
    assert_eq!(error, refusal);

    assert_eq!(staged[0].sign(&quorums, &keys[..1]).unwrap(), [keys[0].id()]);
    staged[0].check(&quorums).unwrap();
    let mut both = [keys[0].id(), keys[2].id()];
    both.sort();
    assert_eq!(staged[0].signed_by(&quorums[0]), both);
    let error = current.clone().finish(&staged, &keyring.snapshot.keys, &lifetimes, NOW).await.unwrap_err().to_string();
    assert_eq!(error, "the role timestamp must be signed by 1 of its keys, and 0 of them are at hand");
    let files = current.finish(&staged, &online(&keyring), &lifetimes, NOW).await.unwrap();
    let paths: Vec<_> = files.iter().map(|file| file.path.trim_start_matches("metadata/")).collect();
    assert_eq!(paths, ["2.targets.json", "2.snapshot.json", "timestamp.json"]);
    memory.write(files);
    let metadata = load(&memory, &root, None, NOW).await.unwrap();
    assert_eq!(metadata.releases.keys().collect::<Vec<_>>(), ["os_1.json", "os_2.json"]);

    // It is behind a state that is over now.
    let next = open(&memory, &root).await;
    let error = next.check_base(&draft).unwrap_err().to_string();
    let text = "the repository's targets metadata has become version 2 since this was staged: stage it again";
    assert_eq!(error, text);
    let error = next.finish(&staged, &online(&keyring), &lifetimes, NOW).await.unwrap_err().to_string();
    assert_eq!(error, "the targets metadata has version 2 since this was staged: stage it again");
}

#[tokio::test]
async fn a_signature_of_other_bytes_counts_for_nothing() {
    let keyring = keyring();
    let lifetimes = Lifetimes::default();
    let (memory, root) = repository(&keyring, &lifetimes).await;
    let mut draft = open(&memory, &root).await;
    draft.set_host("host-default.json", 2, Digest::of(b"22")).unwrap();
    let mut staged = draft.stage(&lifetimes, NOW).unwrap();
    assert_eq!(staged.iter().map(Staged::role).collect::<Vec<_>>(), [RoleName::Hosts]);
    let quorums = draft.quorums(RoleName::Hosts, &staged).unwrap();
    assert_eq!(quorums[0].by(), "the delegation to hosts");
    staged[0].sign(&quorums, &keyring.hosts.keys).unwrap();
    // Somebody in between changes what was signed, and adds signatures of nobody.
    let mut value: Value = serde_json::from_slice(&staged[0].to_bytes().unwrap()).unwrap();
    value["signed"]["targets"]["host-default.json"]["length"] = json!(3);
    let stranger = json!({"keyid": "00", "sig": "00"});
    value["signatures"].as_array_mut().unwrap().push(stranger);
    let mut changed = Staged::parse(RoleName::Hosts, value.to_string().as_bytes()).unwrap();
    assert!(changed.signed_by(&quorums[0]).is_empty());
    let text = "the staged hosts metadata has 0 valid signatures by keys of the delegation to hosts, but needs 1";
    assert_eq!(changed.check(&quorums).unwrap_err().to_string(), text);
    let current = open(&memory, &root).await;
    let error = current.finish(std::slice::from_ref(&changed), &online(&keyring), &lifetimes, NOW).await.unwrap_err();
    assert_eq!(error.to_string(), text);
    // Signed again, there is nothing on it but that signature.
    changed.sign(&quorums, &keyring.hosts.keys).unwrap();
    let value: Value = serde_json::from_slice(&changed.to_bytes().unwrap()).unwrap();
    assert_eq!(value["signatures"].as_array().unwrap().len(), 1);
    changed.check(&quorums).unwrap();
    for role in [RoleName::Snapshot, RoleName::Timestamp] {
        let error = Staged::parse(role, b"{}").unwrap_err().to_string();
        assert_eq!(error, format!("{role} metadata is not staged"));
    }
}

#[tokio::test]
async fn the_next_root_needs_two_of_three_old_keys_and_as_many_new_ones() {
    let mut keyring = keyring();
    keyring.root = three(2);
    let lifetimes = Lifetimes::default();
    let old = trusted(&new_root(&keyring, &lifetimes, NOW).await.unwrap());
    let new = three(2);
    let mut staged = stage_root(&old, &[(RoleName::Root, new.public())], &lifetimes, NOW).unwrap();
    assert_eq!((staged.version(), staged.role()), (2, RoleName::Root));
    let ids = |signers: &RoleSigners| {
        let mut ids: Vec<_> = signers.keys.iter().map(PrivateKey::id).collect();
        ids.sort();
        ids
    };
    let (before, after) = (old.roles()[0].clone(), staged.root_roles()[0].clone());
    assert_eq!((before.role, before.key_ids, before.threshold), (RoleName::Root, ids(&keyring.root), 2));
    assert_eq!((after.key_ids, after.threshold), (ids(&new), 2));
    assert_eq!(old.roles()[1..], staged.root_roles()[1..]);

    let mut sign = |key: &PrivateKey| {
        let mut one = handed_on(&staged);
        let quorums = one.root_quorums(&old);
        assert_eq!(one.sign(&quorums, std::slice::from_ref(key)).unwrap().len(), 1);
        staged = one.clone();
        one.finish_root(&old).map_err(|error| error.to_string())
    };
    let text = |valid: u64, by: &str| {
        Err(format!("the staged root metadata has {valid} valid signatures by keys of the {by} root, but needs 2"))
    };
    assert_eq!(sign(&new.keys[0]), text(0, "old"));
    assert_eq!(sign(&new.keys[1]), text(0, "old"));
    assert_eq!(sign(&keyring.root.keys[2]), text(1, "old"));
    let next = sign(&keyring.root.keys[0]).unwrap();
    assert_eq!(next.path, "metadata/2.root.json");
    let followed = old.follow(&next.bytes).unwrap();
    assert_eq!(followed.version(), 2);
    let error = followed.follow(&next.bytes).unwrap_err().to_string();
    assert_eq!(error, "root version 2 does not come behind 2");
    let error = staged.finish_root(&followed).unwrap_err().to_string();
    assert_eq!(error, "the root has version 2 since this was staged: stage it again");
    // The old keys alone do not do.
    let mut staged = stage_root(&old, &[(RoleName::Root, three(2).public())], &lifetimes, NOW).unwrap();
    let quorums = staged.root_quorums(&old);
    staged.sign(&quorums, &keyring.root.keys).unwrap();
    assert_eq!(staged.finish_root(&old).map_err(|error| error.to_string()), text(0, "new"));
}

#[tokio::test]
async fn a_new_root_that_was_staged_comes_first_or_last_by_who_has_signed() {
    let old = keyring();
    let lifetimes = Lifetimes::default();
    let (memory, root) = repository(&old, &lifetimes).await;
    let new = one();
    let root_keys = old.root.keys.clone();
    let next = next_root(&root, &[(RoleName::Targets, new.clone())], &root_keys, &lifetimes, NOW).await.unwrap();
    let mut draft = open(&memory, &root).await;
    draft.adopt(vec![next.clone()], &trusted(&next));
    let error = draft.clone().finish(&[], &online(&old), &lifetimes, NOW).await.unwrap_err().to_string();
    assert_eq!(error, "the targets metadata must be signed by other keys since this was staged: stage it again");
    let mut staged = draft.stage(&lifetimes, NOW).unwrap();
    let quorums = draft.quorums(RoleName::Targets, &staged).unwrap();
    let names: Vec<_> = quorums.iter().map(|quorum| (quorum.by(), quorum.is_required())).collect();
    assert_eq!(names, [("the new root", true), ("the old root", false)]);
    staged[0].sign(&quorums, &new.keys).unwrap();
    let names = |files: &[Written]| {
        files.iter().map(|file| file.path.trim_start_matches("metadata/").to_owned()).collect::<Vec<_>>()
    };
    let files = draft.clone().finish(&staged, &online(&old), &lifetimes, NOW).await.unwrap();
    assert_eq!(names(&files), ["2.root.json", "2.targets.json", "2.snapshot.json", "timestamp.json"]);
    // Signed by the old key too, every client takes it at any moment.
    staged[0].sign(&quorums, &old.targets.keys).unwrap();
    let files = draft.finish(&staged, &online(&old), &lifetimes, NOW).await.unwrap();
    assert_eq!(names(&files), ["2.targets.json", "2.snapshot.json", "timestamp.json", "2.root.json"]);
    let without_root = Memory { files: Arc::new(Mutex::new(memory.files.lock().unwrap().clone())), broken: None };
    without_root.write(files[..3].to_vec());
    assert_eq!(load(&without_root, &root, None, NOW).await.unwrap().versions.targets, 2);
    memory.write(files);
    assert_eq!(load(&memory, &root, None, NOW).await.unwrap().versions.root, 2);
}

#[test]
fn a_public_key_is_read_as_openssl_writes_it() {
    let key = PrivateKey::generate().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key.pem");
    std::fs::write(&path, key.to_pem().unwrap()).unwrap();
    let openssl = |words: &[&str]| {
        let output = std::process::Command::new("openssl").args(words).arg("-in").arg(&path).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let public = PublicKey::from_pem(&openssl(&["pkey", "-pubout"])).unwrap();
    assert_eq!((public.id(), &public), (key.id(), &key.public_key()));
    let other = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VuAyEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n-----END PUBLIC KEY-----\n";
    for text in [key.to_pem().unwrap().as_str(), other, "", "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"] {
        let error = PublicKey::from_pem(text).unwrap_err().to_string();
        assert_eq!(error, "this is no public key of Ed25519 or P-256 in PEM, as `openssl pkey -pubout` writes it");
    }
}
