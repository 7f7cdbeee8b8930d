//! A repository as it was before the last release, on a machine that has installed by the last one: all of it, what who has the keys
//! that lie on servers can make of it, and a part of it.

use metalstrap_release::digest::Digest;

use super::published::{Published, good};
use super::trial::Trial;
use crate::failure::Code;

const CHECKING: &str = "checking the repository's metadata: REPOSITORY: ";

/// As it was. Signed here, so that its files have the form of those that are signed later.
fn before() -> Published {
    let mut published = good();
    published.edit("targets", |_| {});
    published
}

/// As it is since.
fn since() -> Published {
    let mut published = before();
    for role in ["targets", "snapshot", "timestamp"] {
        raise(&mut published, role, 2);
    }
    published
}

/// Gives the metadata of `role` another version, and has what is above it say so.
fn raise(published: &mut Published, role: &str, version: u64) {
    let path = published.role_path(role);
    published.edit(role, |signed| signed["version"] = version.into());
    let above = match role {
        "targets" => "snapshot",
        "snapshot" => "timestamp",
        _ => return,
    };
    let bytes = published.files.remove(&path).unwrap();
    published.files.insert(format!("metadata/{version}.{role}.json"), bytes);
    published.edit(above, |signed| signed["meta"][format!("{role}.json")]["version"] = version.into());
}

#[tokio::test]
async fn a_repository_as_it_was_before_the_last_release_is_refused() {
    let outcome = Trial::of(&since()).run().await;
    outcome.installed();
    let known = outcome.remembered().unwrap();
    assert_eq!([known.timestamp, known.snapshot, known.targets, known.hosts], [2, 2, 2, 1]);

    // Then with a timestamp that is new, and with a snapshot that is new too.
    let (mut by_timestamp, mut by_both) = (before(), before());
    raise(&mut by_timestamp, "timestamp", 3);
    raise(&mut by_both, "snapshot", 3);
    raise(&mut by_both, "timestamp", 3);
    for (published, role) in [(before(), "timestamp"), (by_timestamp, "snapshot"), (by_both, "targets")] {
        let outcome = Trial::of(&published).remembering(&known).run().await;
        let text =
            format!("{CHECKING}the repository's {role} metadata has version 1, but version 2 was seen here before");
        outcome.before_the_plan(Code::MetadataRollback, &text);
        assert_eq!(outcome.remembered(), Some(known.clone()), "what is remembered stays");
    }
}

#[tokio::test]
async fn the_list_of_releases_from_before_under_the_name_of_the_last_one_is_refused() {
    let mut mixed = since();
    let old = before().files["metadata/1.targets.json"].clone();
    let new = mixed.files.insert("metadata/2.targets.json".to_owned(), old.clone()).unwrap();
    let [found, said] = [old, new].map(|bytes| Digest::of(&bytes));
    let text = format!("{CHECKING}metadata/2.targets.json has SHA-256 {found}, but the metadata says {said}");
    Trial::of(&mixed).run().await.before_the_plan(Code::Metadata, &text);
}
