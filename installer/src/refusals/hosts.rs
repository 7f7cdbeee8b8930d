//! Host configs that are not there, not as signed, or not to be taken.

use metalstrap_release::digest::Digest;

use super::published::{HOST, host, target_path};
use super::trial::refused;
use crate::failure::Code;

fn bytes() -> Vec<u8> {
    serde_json::to_vec(&host()).unwrap()
}

#[tokio::test]
async fn a_machine_without_host_config_is_refused() {
    let none = refused(|mut published| {
        published.edit("hosts", |signed| signed["targets"] = serde_json::json!({}));
        published
    });
    none.await.before_the_plan(Code::HostConfig, "fetching the host config: REPOSITORY has no host config for default");
    let lost = refused(|mut published| {
        published.files.remove(&target_path(HOST, &bytes())).unwrap();
        published
    });
    let path = target_path(HOST, &bytes());
    let text = format!(
        "fetching the host config: fetching REPOSITORY/{path}: opening it: No such file or directory (os error 2)"
    );
    lost.await.before_the_plan(Code::Repository, &text);
}

#[tokio::test]
async fn a_host_config_with_other_bytes_than_signed_is_refused() {
    let path = target_path(HOST, &bytes());
    let mut other = bytes();
    other[9] ^= 1;
    let found = Digest::of(&other);
    let flipped = refused(|mut published| {
        published.files.insert(path.clone(), other);
        published
    });
    let said = Digest::of(&bytes());
    let text =
        format!("fetching the host config: {path} of REPOSITORY has SHA-256 {found}, but the metadata says {said}");
    flipped.await.before_the_plan(Code::HostConfig, &text);
    let longer = refused(|mut published| {
        published.files.get_mut(&path).unwrap().push(b' ');
        published
    });
    let found = Digest::of(&[bytes(), b" ".to_vec()].concat());
    let text =
        format!("fetching the host config: {path} of REPOSITORY has SHA-256 {found}, but the metadata says {said}");
    longer.await.before_the_plan(Code::HostConfig, &text);
}

#[tokio::test]
async fn the_host_config_of_another_machine_in_this_ones_place_is_refused() {
    const OTHER: &str = "host-serial-other.json";
    let mut wipes = host();
    (wipes["existing"], wipes["intent"]) = ("wipe".into(), "now".into());
    let (wipes, path) = (serde_json::to_vec(&wipes).unwrap(), target_path(HOST, &bytes()));
    let (found, said) = (Digest::of(&wipes), Digest::of(&bytes()));
    let swapped = refused(|mut published| {
        published.set_target("hosts", OTHER, &wipes);
        published.files.insert(target_path(OTHER, &wipes), wipes.clone());
        published.files.insert(path.clone(), wipes);
        published
    });
    let text =
        format!("fetching the host config: {path} of REPOSITORY has SHA-256 {found}, but the metadata says {said}");
    swapped.await.before_the_plan(Code::HostConfig, &text);
}

#[tokio::test]
async fn a_host_config_of_absurd_size_is_not_even_fetched() {
    let huge = refused(|mut published| {
        published.edit("hosts", |signed| signed["targets"][HOST]["length"] = u64::MAX.into());
        published
    });
    let text = format!(
        "fetching the host config: {} of REPOSITORY has 18446744073709551615 bytes, more than the 1048576 allowed",
        target_path(HOST, &bytes())
    );
    huge.await.before_the_plan(Code::HostConfig, &text);
}

#[tokio::test]
async fn a_signed_host_config_that_cannot_hold_is_refused() {
    let release = r#""release":{"name":"tiny","version":"1"}"#;
    for (text, problem) in [
        (
            format!(r#"{{"format":1,{release},"wipe":true}}"#),
            "the host config is not valid: unknown field `wipe`, expected one of `format`, \
             `release`, `mode`, `disk`, `existing`, `intent`, `erase`, `tpm`, `attestation`, `handoff`, \
             `pcr11`, `cmdline_extra`, `boot_order`, `credentials`, `secrets`, `secure_boot_keys` at line 1 column 58",
        ),
        (
            format!(r#"{{"format":1,{release},"format":1}}"#),
            "the host config is not valid: duplicate field `format` at line 1 column 60",
        ),
        (
            format!(r#"{{"format":"1",{release}}}"#),
            "the host config is not valid: invalid type: string \"1\", expected u32 at line 1 column 13",
        ),
        (format!(r#"{{"format":2,{release}}}"#), "the host config's format is 2, but this installer reads 1"),
        (
            format!(r#"{{"format":1,{release},"existing":"erase"}}"#),
            "the host config is not valid: unknown variant `erase`, expected one of `keep`, `refuse`, `wipe` at line 1 column 70",
        ),
        (
            format!(r#"{{"format":1,{release},"disk":{{"sector_size":-1}}}}"#),
            "the host config is not valid: invalid value: integer `-1`, expected u32 at line 1 column 76",
        ),
        (
            format!(r#"{{"format":1,{release},"disk":{{"size":">= 2, <= 1"}}}}"#),
            "the host config's disk.size is \">= 2, <= 1\", which no size fulfils",
        ),
        (
            format!(r#"{{"format":1,{release},"cmdline_extra":"init=/bin/sh"}}"#),
            "the host config's cmdline_extra holds \"init=/bin/sh\", which a host config may not add: what is started is for the release to say",
        ),
        (
            format!(r#"{{"format":1,{release}"#),
            "the host config is not valid: EOF while parsing an object at line 1 column 51",
        ),
        (String::new(), "the host config is not valid: EOF while parsing a value at line 1 column 0"),
        ("\u{feff}{}".to_owned(), "the host config is not valid: expected value at line 1 column 1"),
    ] {
        let outcome = refused(|published| published.with_host(text.clone().into_bytes())).await;
        outcome.before_the_plan(Code::HostConfig, &format!("checking the host config: reading {HOST}: {problem}"));
    }
}
