//! Metadata by the wrong keys, too old, or older than what the machine has seen.

use metalstrap_release::digest::Digest;
use metalstrap_release::metadata::{PrivateKey, Versions};
use serde_json::Value;

use super::published::{Published, good};
use super::trial::{Trial, refused};
use crate::clock;
use crate::failure::Code;

const CHECKING: &str = "checking the repository's metadata: REPOSITORY: ";
/// Every role but root, which the site config holds.
const ROLES: [&str; 4] = ["timestamp", "snapshot", "targets", "hosts"];

#[tokio::test]
async fn metadata_signed_by_an_unknown_key_is_refused() {
    let stranger = PrivateKey::generate().unwrap();
    for role in ROLES {
        let mut published = good();
        published.edit_signed_by(role, &stranger, |_| {});
        let path = published.role_path(role);
        let text = format!("{CHECKING}{path} has 0 valid signatures by keys that are trusted with it, but needs 1");
        Trial::of(&published).run().await.before_the_plan(Code::Metadata, &text);
    }
}

#[tokio::test]
async fn the_key_of_one_role_does_not_sign_for_another() {
    let keys = good().keys;
    for (role, other) in [
        ("targets", &keys.hosts),
        ("hosts", &keys.targets),
        ("snapshot", &keys.timestamp),
        ("timestamp", &keys.snapshot),
    ] {
        let mut published = good();
        published.edit_signed_by(role, &other.keys[0], |_| {});
        let path = published.role_path(role);
        let text = format!("{CHECKING}{path} has 0 valid signatures by keys that are trusted with it, but needs 1");
        Trial::of(&published).run().await.before_the_plan(Code::Metadata, &text);
    }
}

#[tokio::test]
async fn a_newer_root_that_the_trusted_one_has_not_signed_is_refused() {
    let stranger = PrivateKey::generate().unwrap();
    let outcome = refused(|mut published| {
        let trusted = published.files["metadata/1.root.json"].clone();
        published.edit_signed_by("root", &stranger, |signed| signed["version"] = 2.into());
        let forged = published.files.insert("metadata/1.root.json".to_owned(), trusted).unwrap();
        published.files.insert("metadata/2.root.json".to_owned(), forged);
        published
    });
    outcome.await.before_the_plan(
        Code::Metadata,
        "checking the repository's metadata: REPOSITORY: metadata/2.root.json has 0 valid \
             signatures by keys that are trusted with it, but needs 1",
    );
}

#[tokio::test]
async fn metadata_that_was_changed_after_it_was_signed_is_refused() {
    let changed = |role: &'static str| {
        refused(move |mut published| {
            let path = published.role_path(role);
            let text = String::from_utf8(published.files[&path].clone()).unwrap();
            published.files.insert(path, text.replace("1.0.0", "1.0.1").into_bytes());
            published
        })
    };
    // The timestamp has no metadata above it that says its digest.
    changed("timestamp").await.before_the_plan(
        Code::Metadata,
        "checking the repository's metadata: REPOSITORY: metadata/timestamp.json has 0 valid \
             signatures by keys that are trusted with it, but needs 1",
    );
    for role in ["snapshot", "targets", "hosts"] {
        let mut published = good();
        let path = published.role_path(role);
        let bytes = published.files[&path].clone();
        let text = String::from_utf8(bytes.clone()).unwrap().replace("1.0.0", "1.0.1");
        published.files.insert(path.clone(), text.clone().into_bytes());
        let [found, said] = [text.as_bytes(), &bytes].map(Digest::of);
        let text = format!("{CHECKING}{path} has SHA-256 {found}, but the metadata says {said}");
        Trial::of(&published).run().await.before_the_plan(Code::Metadata, &text);
    }
}

#[tokio::test]
async fn metadata_that_is_not_there_or_no_metadata_is_refused() {
    for role in ROLES {
        let mut published = good();
        let path = published.role_path(role);
        published.files.remove(&path);
        let text = format!("{CHECKING}the repository has no {path}, or does not give it out");
        Trial::of(&published).run().await.before_the_plan(Code::Metadata, &text);
    }
    let empty = refused(|mut published| {
        published.replace_metadata("timestamp", Vec::new());
        published
    });
    empty.await.before_the_plan(
        Code::Metadata,
        "checking the repository's metadata: REPOSITORY: metadata/timestamp.json is not valid: \
             EOF while parsing a value at line 1 column 0",
    );
    let unknown = refused(|mut published| {
        published.edit("timestamp", |signed| signed["_type"] = "snapshot".into());
        published
    });
    unknown.await.before_the_plan(
        Code::Metadata,
        "checking the repository's metadata: REPOSITORY: metadata/timestamp.json has 0 valid \
             signatures by keys that are trusted with it, but needs 1",
    );
    let bytes = "{\"signed\":".repeat(200_000).into_bytes();
    let nested = refused(|mut published| {
        published.replace_metadata("targets", bytes);
        published
    });
    nested.await.before_the_plan(
        Code::Metadata,
        "checking the repository's metadata: REPOSITORY: metadata/1.targets.json is not valid: \
             recursion limit exceeded at line 1 column 1271",
    );
}

#[tokio::test]
async fn metadata_without_end_is_refused() {
    let large = refused(|mut published| {
        published.replace_metadata("targets", vec![b' '; metalstrap_release::metadata::MAX_BYTES + 1]);
        published
    });
    large.await.before_the_plan(
        Code::Repository,
        "checking the repository's metadata: fetching REPOSITORY/metadata/1.targets.json: it has \
             more than 33554432 bytes",
    );
    // A mirror that sends more than the metadata above says.
    let size = good().files["metadata/1.snapshot.json"].len();
    let longer = refused(|mut published| {
        let path = published.role_path("snapshot");
        published.files.get_mut(&path).unwrap().extend([b' '; 4096]);
        published
    });
    longer.await.before_the_plan(
        Code::Metadata,
        &format!("{CHECKING}metadata/1.snapshot.json is not valid: it has more than {size} bytes"),
    );
}

#[tokio::test]
async fn expired_metadata_of_each_role_is_refused() {
    for role in ["root", "timestamp", "snapshot", "targets", "hosts"] {
        let mut published = good();
        published.edit(role, |signed| signed["expires"] = "2020-02-29T01:02:03Z".into());
        let before = clock::now();
        let outcome = Trial::of(&published).run().await;
        let text = |now| {
            let now = clock::utc(now).replace(" UTC", "Z").replace(' ', "T");
            format!(
                "{CHECKING}the repository's {role} metadata expired at 2020-02-29T01:02:03Z, and the clock shows {now}"
            )
        };
        let happened = outcome.failure().happened;
        let expected = (before..=clock::now()).map(text).find(|text| *text == happened).unwrap_or_else(|| text(before));
        outcome.before_the_plan(Code::MetadataExpired, &expected);
    }
}

fn versions(published: &Published) -> Versions {
    let trial = Trial::of(published);
    super::published::apart(async || trial.run().await).remembered().unwrap()
}

#[tokio::test]
async fn an_older_state_than_the_one_accepted_before_is_refused() {
    let known = versions(&good());
    type Raise = fn(&mut Versions) -> &mut u64;
    let raises: [(&str, Raise); 5] = [
        ("root", |versions| &mut versions.root),
        ("timestamp", |versions| &mut versions.timestamp),
        ("snapshot", |versions| &mut versions.snapshot),
        ("targets", |versions| &mut versions.targets),
        ("hosts", |versions| &mut versions.hosts),
    ];
    for (role, raise) in raises {
        let mut newer = known.clone();
        *raise(&mut newer) = 7;
        let outcome = Trial::of(&good()).remembering(&newer).run().await;
        let text =
            format!("{CHECKING}the repository's {role} metadata has version 1, but version 7 was seen here before");
        outcome.before_the_plan(Code::MetadataRollback, &text);
        assert_eq!(outcome.remembered(), Some(newer), "what is remembered stays");
    }
    Trial::of(&good()).remembering(&known).run().await.installed();
}

#[tokio::test]
async fn files_of_an_older_state_below_a_newer_timestamp_are_refused() {
    // The snapshot vouches for the right bytes, but calls them version 2.
    for role in ["targets", "hosts"] {
        let mut published = good();
        published.edit("snapshot", |signed| signed["meta"][format!("{role}.json")]["version"] = 2.into());
        let text = format!("{CHECKING}the repository has no metadata/2.{role}.json, or does not give it out");
        Trial::of(&published).run().await.before_the_plan(Code::Metadata, &text);
        let path = published.role_path(role);
        let bytes = published.files.remove(&path).unwrap();
        published.files.insert(format!("metadata/2.{role}.json"), bytes);
        Trial::of(&published).run().await.before_the_plan(
            Code::Metadata,
            &format!(
                "{CHECKING}metadata/2.{role}.json is not valid: targets metadata version mismatch: \
             fetched 1, expected 2"
            ),
        );
    }
}

#[tokio::test]
async fn a_site_config_without_a_root_that_signs_itself_is_refused() {
    for (change, text) in [
        (
            (|root| root["signatures"] = serde_json::json!([])) as fn(&mut Value),
            "checking the site config: parsing PLACE/site.json: the site config's root is no root \
             metadata: the trusted root is not valid: Signature threshold of 1 not met for role root \
             (0 valid signatures)",
        ),
        (
            |root| root["signed"]["version"] = 9.into(),
            "checking the site config: parsing PLACE/site.json: the site config's root is no root \
             metadata: the trusted root is not valid: Signature threshold of 1 not met for role root \
             (0 valid signatures)",
        ),
        (
            |root| *root = Value::Null,
            "checking the site config: parsing PLACE/site.json: the site config's root is no root \
             metadata: the trusted root is not valid: invalid type: null, expected struct Signed",
        ),
    ] {
        let mut trial = Trial::of(&good());
        change(&mut trial.site["root"]);
        trial.run().await.before_the_plan(Code::SiteConfig, text);
    }
}
