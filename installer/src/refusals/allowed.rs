//! Host configs that name a release which the role `targets` does not let them name.

use metalstrap_release::allowed::TARGET;
use metalstrap_release::digest::Digest;
use serde_json::json;

use super::published::{Published, good, target_path};
use super::trial::{Trial, refused};
use crate::failure::Code;

/// What the steps begin with.
const CHECKING: &str = "checking that the release is allowed: ";

impl Published {
    /// With this list of allowed releases, properly signed.
    fn with_allowed(mut self, bytes: &[u8]) -> Self {
        self.set_target("targets", TARGET, bytes);
        self.files.insert(target_path(TARGET, bytes), bytes.to_vec());
        self
    }

    fn allowing(self, releases: &[&str]) -> Self {
        self.with_allowed(&serde_json::to_vec(&json!({"format": 1, "releases": releases})).unwrap())
    }
}

#[tokio::test]
async fn a_release_that_is_not_on_the_list_is_refused() {
    let start = "the host config default names the release tiny 1, but allowed-releases.json, which the role targets has \
                 signed, allows";
    for (list, end) in [
        (vec!["tiny_2", "debian_*"], "only tiny_2, debian_*"),
        (vec!["tiny_1.?", "Tiny_1", "tiny_11", "iny_1"], "only tiny_1.?, Tiny_1, tiny_11, iny_1"),
        (Vec::new(), "none"),
    ] {
        let outcome = refused(|published| published.allowing(&list)).await;
        outcome.before_the_plan(Code::ReleaseNotAllowed, &format!("{CHECKING}{start} {end}"));
        assert_eq!(outcome.remembered(), None);
    }
}

#[test]
fn the_release_of_a_group_is_held_against_the_list_too() {
    let list = br#"{"format": 1, "releases": ["tiny_2"]}"#;
    let release = serde_json::from_value(json!({"name": "tiny", "version": "1"})).unwrap();
    let error = crate::repository::check_allowed(list, "group web", &release).unwrap_err();
    let text = "the host config group web names the release tiny 1, but allowed-releases.json, which the role targets has \
                signed, allows only tiny_2";
    assert_eq!((format!("{error:#}").as_str(), crate::failure::code_of(&error)), (text, Code::ReleaseNotAllowed));
}

#[tokio::test]
async fn a_release_on_the_list_is_installed() {
    for list in [["tiny_1"], ["tiny_*"], ["*"]] {
        Trial::of(&good().allowing(&list)).run().await.installed();
    }
}

#[tokio::test]
async fn a_list_that_only_hosts_have_signed_counts_for_nothing() {
    // What a thief of their key would do to let everything through: `targets` allows none.
    let open = serde_json::to_vec(&json!({"format": 1, "releases": ["*"]})).unwrap();
    let mut published = good().allowing(&["tiny_2"]);
    published.set_target("hosts", TARGET, &open);
    published.files.insert(target_path(TARGET, &open), open);
    let text = format!(
        "{CHECKING}the host config default names the release tiny 1, but allowed-releases.json, which the role targets has \
         signed, allows only tiny_2"
    );
    Trial::of(&published).run().await.before_the_plan(Code::ReleaseNotAllowed, &text);
    // And where `targets` says nothing of it.
    let outcome = refused(|mut published| {
        let open = serde_json::to_vec(&json!({"format": 1, "releases": ["tiny_2"]})).unwrap();
        published.set_target("hosts", TARGET, &open);
        published
    });
    let path = good().role_path("hosts");
    let text = format!(
        "checking the repository's metadata: REPOSITORY: {path} is not valid: it holds \"allowed-releases.json\", which this \
         role may not sign"
    );
    outcome.await.before_the_plan(Code::Metadata, &text);
}

#[tokio::test]
async fn a_list_that_is_not_there_or_not_as_signed_is_refused() {
    let bytes = br#"{"format":1,"releases":["tiny_1"]}"#;
    let path = target_path(TARGET, bytes);
    let lost = refused(|published| {
        let mut published = published.with_allowed(bytes);
        published.files.remove(&path).unwrap();
        published
    });
    let text = format!(
        "fetching the list of allowed releases: fetching REPOSITORY/{path}: opening it: No such file or directory (os error 2)"
    );
    lost.await.before_the_plan(Code::Repository, &text);

    let other = br#"{"format":1,"releases":["tiny_2"]}"#;
    let changed = refused(|published| {
        let mut published = published.with_allowed(bytes);
        published.files.insert(path.clone(), other.to_vec());
        published
    });
    let (found, said) = (Digest::of(other), Digest::of(bytes));
    let text = format!(
        "fetching the list of allowed releases: {path} of REPOSITORY has SHA-256 {found}, but the metadata says {said}"
    );
    changed.await.before_the_plan(Code::ReleaseNotAllowed, &text);

    let huge = refused(|published| {
        let mut published = published.with_allowed(bytes);
        published.edit("targets", |signed| signed["targets"][TARGET]["length"] = u64::MAX.into());
        published
    });
    let text = format!(
        "fetching the list of allowed releases: {path} of REPOSITORY has 18446744073709551615 bytes, more than the 1048576 \
         allowed"
    );
    huge.await.before_the_plan(Code::ReleaseNotAllowed, &text);
}

#[tokio::test]
async fn a_signed_list_that_cannot_hold_is_refused() {
    let reading = format!("{CHECKING}reading allowed-releases.json: ");
    for (text, problem) in [
        (r#"{"format":2,"releases":[]}"#, "the list of allowed releases's format is 2, but this installer reads 1"),
        (
            r#"{"format":1,"releases":["tiny 1"]}"#,
            "the list of allowed releases's releases has \"tiny 1\", which is no NAME_VERSION of a-z, A-Z, 0-9 and '.~^-', \
             nor a pattern of them",
        ),
        (
            r#"{"format":1,"releases":["*"],"hosts":[]}"#,
            "the list of allowed releases is not valid: unknown field `hosts`, expected `format` or `releases` at line 1 \
             column 36",
        ),
        (r#"[1,["*"]]"#, "the list of allowed releases is not valid: it is a list, not an object"),
        ("", "the list of allowed releases is not valid: EOF while parsing a value at line 1 column 0"),
    ] {
        let outcome = refused(|published| published.with_allowed(text.as_bytes())).await;
        outcome.before_the_plan(Code::ReleaseNotAllowed, &format!("{reading}{problem}"));
    }
}
