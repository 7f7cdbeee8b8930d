use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use clap::Parser as _;
use metalstrap_release::manifest::Manifest;
use metalstrap_release::metadata::TrustedRoot;

use super::*;
use crate::{Cli, Verb};

#[path = "../../tests/support/mod.rs"]
mod support;

use support::Inputs;

fn run(arguments: &[&str]) {
    Cli::try_parse_from([&["metalstrap"], arguments].concat()).unwrap().verb.run().unwrap();
}

/// `publish` of `version` into `repository`, up to so many writes.
fn publish(inputs: &Inputs, version: &str, repository: &Path, writes: usize) -> Result<Value> {
    publish_with(inputs, version, repository, writes, &[])
}

/// The same, with further words.
fn publish_with(inputs: &Inputs, version: &str, repository: &Path, writes: usize, more: &[&str]) -> Result<Value> {
    let mut arguments: Vec<String> =
        ["metalstrap", "publish", "--name", "os", "--version", version, "--level", "1"].map(String::from).into();
    for name in ["root", "verity", "uki", "loader", "keys"] {
        arguments.extend([format!("--{name}"), inputs.path(name).to_str().unwrap().to_owned()]);
    }
    arguments.extend(["--repository".to_owned(), repository.to_str().unwrap().to_owned()]);
    arguments.extend(more.iter().map(|word| (*word).to_owned()));
    let Verb::Publish(args) = Cli::try_parse_from(arguments).unwrap().verb else { panic!("another verb") };
    let facts = args.check().unwrap();
    let signing = args.signing.open(&[RoleName::Targets]).unwrap();
    let repository = Repository::create(&args.repository).unwrap();
    repository.writes_left.set(writes);
    args.publish(&repository, &signing, facts)
}

/// What a machine with this root gets from the repository: the releases, each whole; nothing where there is nothing yet.
fn seen(repository: &Path, root: &TrustedRoot) -> BTreeSet<String> {
    if !repository.join("metadata/timestamp.json").exists() {
        return BTreeSet::new();
    }
    let metadata = crate::signing::load(root, repository, crate::clock::now().unwrap()).unwrap();
    for target in metadata.releases.values() {
        let bytes = fs::read(repository.join(&target.path)).unwrap();
        assert_eq!(Digest::of(&bytes), target.sha256);
        let manifest = Manifest::parse(&bytes).unwrap();
        let boot = &manifest.boot;
        let files = [&boot.uki.data, &boot.uki.hash_tree, &boot.loader.data, &boot.loader.hash_tree];
        for payload in files.into_iter().chain([&manifest.filesystems[0].data, &manifest.filesystems[0].hash_tree]) {
            let bytes = fs::read(repository.join(crate::payloads::path(payload))).unwrap();
            assert_eq!(Digest::of(&bytes), payload.sha256);
        }
    }
    for target in metadata.hosts.values() {
        assert_eq!(Digest::of(&fs::read(repository.join(&target.path)).unwrap()), target.sha256);
    }
    metadata.releases.into_keys().chain(metadata.hosts.into_keys()).collect()
}

/// Publishes into copies of `base`, stopped after every number of writes: a machine sees `old` or `new`, and a second
/// run leads to `new`. Returns the number of writes of a whole run.
fn stop_everywhere(
    inputs: &Inputs,
    version: &str,
    base: &Path,
    root: &TrustedRoot,
    old: &[&str],
    new: &[&str],
) -> usize {
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    let (old, new) = (set(old), set(new));
    for writes in 0.. {
        // A directory of its own each time: of a known one, the keys would remember a newer state.
        let place = tempfile::tempdir_in(inputs.directory.path()).unwrap();
        let copy = place.path().join("copy");
        assert!(Command::new("cp").arg("-a").args([base, &copy]).status().unwrap().success());
        let whole = publish(inputs, version, &copy, writes);
        let found = seen(&copy, root);
        match &whole {
            Ok(_) => assert_eq!(found, new),
            Err(error) => {
                assert!(format!("{error:#}").ends_with("no write is left to this test"), "{error:#}");
                assert!(found == old || found == new, "after {writes} writes: {found:?}");
                publish(inputs, version, &copy, usize::MAX).unwrap();
                assert_eq!(seen(&copy, root), new);
            }
        }
        let again = publish(inputs, version, &copy, 0).unwrap();
        assert_eq!(again["published"], false, "the third run writes nothing");
        if whole.is_ok() {
            return writes;
        }
    }
    unreachable!("it ends some time")
}

#[test]
fn a_machine_sees_the_old_state_or_the_new_one_wherever_publishing_stops() {
    let inputs = Inputs::new();
    let path = |name: &str| inputs.path(name).to_str().unwrap().to_owned();
    run(&["keygen", "--keys", &path("keys")]);
    let root = crate::keys::read_root(&inputs.path("keys/root.json")).unwrap();
    let base = inputs.path("base");
    fs::create_dir(&base).unwrap();
    // Six payloads, the manifest, root, targets, snapshot and timestamp.
    assert_eq!(stop_everywhere(&inputs, "1", &base, &root, &[], &["os_1.json"]), 11);

    publish(&inputs, "1", &base, usize::MAX).unwrap();
    let first = ["host-default.json", "os_1.json"];
    let both = ["host-default.json", "os_1.json", "os_2.json"];
    run(&["host", "add", "default", "--release", "os", "1", "--repository", &path("base"), "--keys", &path("keys")]);
    // The payloads have the same content, but are written again; no root.
    assert_eq!(stop_everywhere(&inputs, "2", &base, &root, &first, &both), 10);

    // Every key another one, and two roots to climb: a machine has the first one still.
    let rotate = ["keygen", "--keys", &path("keys"), "--rotate"];
    run(&[&rotate[..], &["timestamp", "--rotate", "snapshot", "--rotate", "targets", "--rotate", "hosts"]].concat());
    run(&[&rotate[..], &["root"]].concat());
    assert_eq!(stop_everywhere(&inputs, "2", &base, &root, &first, &both), 13);
}

/// The releases of which the list for systemd-sysupdate has files, each of which must be there as the list says.
fn listed(place: &Path) -> BTreeSet<String> {
    let list = fs::read_to_string(place.join("SHA256SUMS")).unwrap();
    let release = |line: &str| {
        let (digest, name) = line.split_once("  ").unwrap();
        assert_eq!(Digest::of(&fs::read(place.join(name)).unwrap()).to_string(), digest, "{name}");
        format!("{}.json", name.split('.').next().unwrap())
    };
    list.lines().map(release).collect()
}

#[test]
fn systemd_sysupdate_finds_whole_files_of_published_releases_wherever_publishing_stops() {
    let inputs = Inputs::new();
    run(&["keygen", "--keys", inputs.path("keys").to_str().unwrap()]);
    let root = crate::keys::read_root(&inputs.path("keys/root.json")).unwrap();
    let (base, more) = (inputs.path("base"), ["--sysupdate", "https://os.example"]);
    publish_with(&inputs, "1", &base, usize::MAX, &more).unwrap();
    for writes in 0.. {
        let place = tempfile::tempdir_in(inputs.directory.path()).unwrap();
        let copy = place.path().join("copy");
        assert!(Command::new("cp").arg("-a").args([&base, &copy]).status().unwrap().success());
        let whole = publish_with(&inputs, "2", &copy, writes, &more);
        let laid_out = copy.join("sysupdate/os");
        assert!(listed(&laid_out).is_subset(&seen(&copy, &root)), "after {writes} writes");
        publish_with(&inputs, "2", &copy, if whole.is_ok() { 0 } else { usize::MAX }, &more).unwrap();
        assert_eq!(listed(&laid_out), seen(&copy, &root));
        assert_eq!(support::files(&laid_out).len(), 6 + 2, "nothing is left over");
        if whole.is_ok() {
            // As without: ten. Then three files and the list.
            assert_eq!(writes, 14);
            break;
        }
    }
}
