//! Names that would lead elsewhere, and releases that are not what their name says.

use metalstrap_release::digest::Digest;
use serde_json::json;

use super::published::{RELEASE, good, host, target_path};
use super::trial::refused;
use crate::failure::Code;

#[tokio::test]
async fn a_host_config_cannot_name_a_path() {
    for (name, version, problem) in [
        (
            "../../etc",
            "1",
            "checking the host config: reading host-default.json: the host config's release.name \
             \"../../etc\" is not 1 to 16 of a-z, 0-9 and '-'",
        ),
        (
            "tiny/..",
            "1",
            "checking the host config: reading host-default.json: the host config's release.name \
             \"tiny/..\" is not 1 to 16 of a-z, 0-9 and '-'",
        ),
        (
            "..",
            "1",
            "checking the host config: reading host-default.json: the host config's release.name \
             \"..\" is not 1 to 16 of a-z, 0-9 and '-'",
        ),
        (
            "",
            "1",
            "checking the host config: reading host-default.json: the host config's release.name \
             \"\" is not 1 to 16 of a-z, 0-9 and '-'",
        ),
        (
            "tiny\u{0}",
            "1",
            "checking the host config: reading host-default.json: the host config's release.name \
             \"tiny\\0\" is not 1 to 16 of a-z, 0-9 and '-'",
        ),
        (
            "tiny",
            "../../../etc/passwd",
            "checking the host config: reading host-default.json: the host config's release.version \
             \"../../../etc/passwd\" is not 1 to 12 of a-z, A-Z, 0-9 and '.~^-'",
        ),
        (
            "tiny",
            "1/..",
            "checking the host config: reading host-default.json: the host config's release.version \
             \"1/..\" is not 1 to 12 of a-z, A-Z, 0-9 and '.~^-'",
        ),
        (
            "tiny",
            "%2e%2e%2f",
            "checking the host config: reading host-default.json: the host config's release.version \
             \"%2e%2e%2f\" is not 1 to 12 of a-z, A-Z, 0-9 and '.~^-'",
        ),
        (
            "tiny",
            "",
            "checking the host config: reading host-default.json: the host config's release.version \
             \"\" is not 1 to 12 of a-z, A-Z, 0-9 and '.~^-'",
        ),
    ] {
        let mut config = host();
        config["release"] = json!({"name": name, "version": version});
        let outcome = refused(|published| published.with_host(serde_json::to_vec(&config).unwrap())).await;
        outcome.before_the_plan(Code::HostConfig, problem);
    }
}

#[tokio::test]
async fn a_manifest_cannot_name_a_path() {
    for (field, value, problem) in [
        (
            "name",
            "../../etc",
            "checking the manifest: reading tiny_1.json: the manifest's name \"../../etc\" is not 1 \
             to 16 of a-z, 0-9 and '-'",
        ),
        (
            "name",
            "a/b",
            "checking the manifest: reading tiny_1.json: the manifest's name \"a/b\" is not 1 to 16 \
             of a-z, 0-9 and '-'",
        ),
        (
            "name",
            "-rf",
            "checking the manifest: reading tiny_1.json: the manifest's name \"-rf\" is not 1 to 16 \
             of a-z, 0-9 and '-'",
        ),
        (
            "name",
            "a\nb",
            "checking the manifest: reading tiny_1.json: the manifest's name \"a\\nb\" is not 1 to \
             16 of a-z, 0-9 and '-'",
        ),
        (
            "version",
            "../1",
            "checking the manifest: reading tiny_1.json: the manifest's version \"../1\" is not 1 to \
             12 of a-z, A-Z, 0-9 and '.~^-'",
        ),
        (
            "version",
            "1\u{202e}",
            "checking the manifest: reading tiny_1.json: the manifest's version \"1\\u{202e}\" is \
             not 1 to 12 of a-z, A-Z, 0-9 and '.~^-'",
        ),
        (
            "version",
            "1234567890123",
            "checking the manifest: reading tiny_1.json: the manifest's version \"1234567890123\" is \
             not 1 to 12 of a-z, A-Z, 0-9 and '.~^-'",
        ),
    ] {
        let outcome = refused(|published| {
            let mut manifest = serde_json::to_value(&published.manifest).unwrap();
            manifest[field] = value.into();
            published.with_manifest(serde_json::to_vec(&manifest).unwrap())
        });
        outcome.await.before_the_plan(Code::Manifest, problem);
    }
}

#[tokio::test]
async fn a_payload_cannot_be_a_path() {
    let outcome = refused(|published| {
        let mut manifest = serde_json::to_value(&published.manifest).unwrap();
        manifest["filesystems"][0]["data"]["sha256"] = "../../../../etc/passwd".into();
        published.with_manifest(serde_json::to_vec(&manifest).unwrap())
    });
    outcome.await.before_the_plan(
        Code::Manifest,
        "checking the manifest: reading tiny_1.json: the manifest is not valid: not a SHA-256 \
             digest (64 lower-case hexadecimal characters): \"../../../../etc/passwd\" at line 1 \
             column 1753",
    );
}

#[tokio::test]
async fn a_target_whose_name_leads_out_is_refused() {
    let checking = "checking the repository's metadata: REPOSITORY: metadata/1";
    let no_file = "checking the repository's metadata: REPOSITORY: the repository's";
    for (role, name, text) in [
        (
            "targets",
            "..",
            format!(
                "{checking}.targets.json is not valid: The target name '..' is unsafe. Interpreting it as a path could \
                 escape from the intended directory at line 1 column 711"
            ),
        ),
        (
            "targets",
            "",
            format!(
                "{checking}.targets.json is not valid: The target name '' is unsafe. Interpreting it as a path would \
                 lead to an empty filename at line 1 column 709"
            ),
        ),
        (
            "targets",
            "../tiny_1.json",
            format!("{no_file} targets metadata is not valid: \"../tiny_1.json\" is no name of a file"),
        ),
        (
            "hosts",
            "host-../../default.json",
            format!(
                "{checking}.hosts.json is not valid: it holds \"host-../../default.json\", which this role may not sign"
            ),
        ),
        (
            "hosts",
            "../host-default.json",
            format!("{no_file} hosts metadata is not valid: \"../host-default.json\" is no name of a file"),
        ),
        (
            "hosts",
            "host-/../../default.json",
            format!(
                "{checking}.hosts.json is not valid: it holds \"host-/../../default.json\", which this \
             role may not sign"
            ),
        ),
    ] {
        let outcome = refused(|mut published| {
            // Instead of the right one.
            published.edit(role, |signed| signed["targets"] = json!({}));
            published.set_target(role, name, b"{}");
            published
        });
        outcome.await.before_the_plan(Code::Metadata, &text);
    }
}

#[tokio::test]
async fn a_release_that_is_not_published_is_refused() {
    let outcome = refused(|published| {
        let mut config = host();
        config["release"]["version"] = "2".into();
        published.with_host(serde_json::to_vec(&config).unwrap())
    });
    outcome.await.before_the_plan(
        Code::Manifest,
        "fetching the manifest: REPOSITORY has no release tiny 2, which the host config names",
    );
}

#[tokio::test]
async fn who_signs_hosts_cannot_publish_a_release() {
    let outcome = refused(|mut published| {
        let bytes = published.files[&target_path(RELEASE, &serde_json::to_vec(&published.manifest).unwrap())].clone();
        published.edit("targets", |signed| signed["targets"] = json!({}));
        published.set_target("hosts", RELEASE, &bytes);
        published
    });
    let text = "checking the repository's metadata: REPOSITORY: metadata/1.hosts.json is not valid: \
                it holds \"tiny_1.json\", \
                which this role may not sign";
    outcome.await.before_the_plan(Code::Metadata, text);
}

#[tokio::test]
async fn the_manifest_of_another_release_under_the_name_is_refused() {
    for (name, version) in [("other", "1"), ("tiny", "2")] {
        let outcome = refused(|published| {
            published.with_changed_manifest(|manifest| {
                manifest.name = name.to_owned();
                manifest.version = version.to_owned();
            })
        });
        let text = format!("checking the manifest: {RELEASE} is the manifest of {name} {version}");
        outcome.await.before_the_plan(Code::Manifest, &text);
    }
}

#[tokio::test]
async fn a_manifest_with_other_bytes_than_signed_is_refused() {
    let bytes = serde_json::to_vec(&good().manifest).unwrap();
    let (path, said) = (target_path(RELEASE, &bytes), Digest::of(&bytes));
    let mut other = bytes;
    other[2] ^= 1;
    let found = Digest::of(&other);
    let outcome = refused(|mut published| {
        published.files.insert(path.clone(), other);
        published
    });
    let text = format!("fetching the manifest: {path} of REPOSITORY has SHA-256 {found}, but the metadata says {said}");
    outcome.await.before_the_plan(Code::Manifest, &text);
}
