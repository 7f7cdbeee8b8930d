//! Keys that are too few, that are no longer trusted, or that come again.

use std::num::NonZeroU64;

use metalstrap_release::metadata::{PrivateKey, RoleSigners, delegation};
use serde_json::Value;

use super::published::{Published, good};
use super::signing::{by, document};
use super::trial::{Trial, refused};
use crate::failure::Code;

/// The repository's metadata has a file with too few signatures.
fn too_few(path: &str, valid: usize, needed: usize) -> String {
    let has = format!("has {valid} valid signatures by keys that are trusted with it, but needs {needed}");
    format!("checking the repository's metadata: REPOSITORY: {path} {has}")
}

/// Has the root want signatures of two keys for `role`: of its own, and of the one that `other` has.
fn wants_two(published: &mut Published, role: &str, other: &str) {
    published.edit("root", |root| {
        let second = root["roles"][other]["keyids"][0].clone();
        let role = &mut root["roles"][role];
        role["keyids"].as_array_mut().unwrap().push(second);
        role["threshold"] = 2.into();
    });
}

#[tokio::test]
async fn a_role_that_needs_two_signatures_and_has_one_is_refused() {
    for (role, other) in [("timestamp", "snapshot"), ("snapshot", "timestamp"), ("targets", "snapshot")] {
        let outcome = refused(|mut published| {
            wants_two(&mut published, role, other);
            published
        });
        let path = good().role_path(role);
        outcome.await.before_the_plan(Code::Metadata, &too_few(&path, 1, 2));
    }
}

#[tokio::test]
async fn hosts_that_need_two_signatures_and_have_one_are_refused() {
    let mut published = good();
    let keys = vec![published.keys.hosts.keys[0].clone(), PrivateKey::generate().unwrap()];
    let both = RoleSigners { keys, threshold: NonZeroU64::new(2).unwrap() };
    published.edit("targets", |signed| signed["delegations"] = delegation(&both).unwrap());
    let path = published.role_path("hosts");
    Trial::of(&published).run().await.before_the_plan(Code::Metadata, &too_few(&path, 1, 2));
}

#[tokio::test]
async fn one_key_that_signs_twice_counts_once() {
    let outcome = refused(|mut published| {
        wants_two(&mut published, "timestamp", "snapshot");
        let path = published.role_path("timestamp");
        let mut twice: Value = serde_json::from_slice(&published.files[&path]).unwrap();
        let first = twice["signatures"][0].clone();
        twice["signatures"].as_array_mut().unwrap().push(first);
        published.replace_metadata("timestamp", serde_json::to_vec(&twice).unwrap());
        published
    });
    outcome.await.before_the_plan(Code::Metadata, &twice("metadata/timestamp.json"));
}

fn twice(path: &str) -> String {
    format!("checking the repository's metadata: REPOSITORY: {path} is not valid: it has two signatures by one key")
}

/// A repository whose root, of version 1, is signed by two of three keys, and these.
fn two_of_three() -> (Published, [PrivateKey; 3]) {
    let mut published = good();
    let [second, third] = [(); 2].map(|()| PrivateKey::generate().unwrap());
    let keys = [published.keys.root.keys[0].clone(), second, third];
    let mut root = published.signed("root");
    for key in &keys[1..] {
        let (id, public) = by(key);
        root["keys"][&id] = public;
        root["roles"]["root"]["keyids"].as_array_mut().unwrap().push(id.into());
    }
    root["roles"]["root"]["threshold"] = 2.into();
    published.replace_metadata("root", document(&root, &keys[..2]));
    (published, keys)
}

/// The same with a next root that these keys have signed.
fn followed(published: &Published, signers: &[PrivateKey]) -> Published {
    let mut next = published.clone();
    let mut root = published.signed("root");
    root["version"] = 2.into();
    next.files.insert("metadata/2.root.json".to_owned(), document(&root, signers));
    next
}

#[tokio::test]
async fn a_next_root_needs_two_of_the_three_who_sign_roots() {
    let (published, [first, second, third]) = two_of_three();
    Trial::of(&published).run().await.installed();
    for both in [[&first, &second], [&first, &third], [&second, &third]] {
        Trial::of(&followed(&published, &both.map(Clone::clone))).run().await.installed();
    }
    let stranger = PrivateKey::generate().unwrap();
    let outcome = Trial::of(&followed(&published, &[third.clone(), third])).run().await;
    outcome.before_the_plan(Code::Metadata, &twice("metadata/2.root.json"));
    for signers in [vec![first], vec![second, stranger]] {
        let outcome = Trial::of(&followed(&published, &signers)).run().await;
        outcome.before_the_plan(Code::Metadata, &too_few("metadata/2.root.json", 1, 2));
    }
}

#[tokio::test]
async fn a_key_that_a_later_root_has_removed_signs_no_more() {
    for role in ["timestamp", "snapshot", "targets"] {
        let mut published = good();
        let (id, public) = by(&PrivateKey::generate().unwrap());
        let mut root = published.signed("root");
        root["version"] = 2.into();
        root["keys"][&id] = public;
        root["roles"][role]["keyids"] = vec![id].into();
        let signers = [published.keys.root.keys[0].clone()];
        published.files.insert("metadata/2.root.json".to_owned(), document(&root, &signers));
        let path = good().role_path(role);
        Trial::of(&published).run().await.before_the_plan(Code::Metadata, &too_few(&path, 0, 1));
    }
}

#[tokio::test]
async fn a_key_of_hosts_that_a_later_delegation_has_removed_signs_no_more() {
    let mut published = good();
    let next = RoleSigners { keys: vec![PrivateKey::generate().unwrap()], threshold: NonZeroU64::MIN };
    published.edit("targets", |signed| signed["delegations"] = delegation(&next).unwrap());
    let path = published.role_path("hosts");
    Trial::of(&published).run().await.before_the_plan(Code::Metadata, &too_few(&path, 0, 1));
}

#[tokio::test]
async fn a_root_key_that_a_later_root_has_removed_signs_no_root_any_more() {
    let published = good();
    let (old, new) = (published.keys.root.keys[0].clone(), PrivateKey::generate().unwrap());
    let (id, public) = by(&new);
    let mut root = published.signed("root");
    root["version"] = 2.into();
    root["keys"][&id] = public;
    root["roles"]["root"]["keyids"] = vec![id].into();
    let mut rotated = published;
    rotated.files.insert("metadata/2.root.json".to_owned(), document(&root, &[old.clone(), new.clone()]));
    Trial::of(&rotated).run().await.installed();
    root["version"] = 3.into();
    let followed_by = |signer: PrivateKey| {
        let mut next = rotated.clone();
        next.files.insert("metadata/3.root.json".to_owned(), document(&root, &[signer]));
        next
    };
    Trial::of(&followed_by(new)).run().await.installed();
    let outcome = Trial::of(&followed_by(old)).run().await;
    outcome.before_the_plan(Code::Metadata, &too_few("metadata/3.root.json", 0, 1));
}

#[tokio::test]
async fn a_root_that_skips_a_version_or_comes_again_is_refused() {
    for version in [3, 1] {
        let mut published = good();
        let mut root = published.signed("root");
        root["version"] = version.into();
        let signers = [published.keys.root.keys[0].clone()];
        published.files.insert("metadata/2.root.json".to_owned(), document(&root, &signers));
        let text = format!(
            "checking the repository's metadata: REPOSITORY: metadata/2.root.json is not valid: Found version {version} of root \
             metadata when we had previously fetched version 1"
        );
        Trial::of(&published).run().await.before_the_plan(Code::Metadata, &text);
    }
}

#[tokio::test]
async fn metadata_that_is_nested_without_end_is_refused() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for role in ["timestamp", "snapshot", "targets"] {
        let mut published = good();
        let path = published.role_path(role);
        let text = String::from_utf8(published.files[&path].clone()).unwrap();
        let text = text.replacen("\"_type\"", &format!("\"x\":{deep},\"_type\""), 1);
        published.replace_metadata(role, text.into_bytes());
        let text =
            format!("checking the repository's metadata: REPOSITORY: {path} is not valid: recursion limit exceeded");
        let outcome = Trial::of(&published).run().await;
        let found = outcome.failure().happened;
        let found = found.split(" at line").next().unwrap();
        assert_eq!(found, text);
        outcome.before_the_plan(Code::Metadata, &outcome.failure().happened);
    }
}
