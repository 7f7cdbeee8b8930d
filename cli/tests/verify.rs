//! `metalstrap verify`: what a machine would meet, found before one does.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy sees no test in the helpers of an integration test"
)]

use std::fs;

use metalstrap_release::digest::Digest;
use serde_json::{Value, json};

#[path = "support/operator.rs"]
mod command;
mod support;

use command::{Operator, PUBLISH};

const VERIFY: &str = "verify --site D/site.json --repository D/repository";

/// A repository with a release and a host config, and its site config.
fn operator() -> Operator {
    let operator = Operator::new();
    operator.ok("keygen --tls repo.test --keys D/tls");
    operator.ok("host add default --release os 1 --repository D/repository --keys D/keys");
    let site = operator.ok("site --repository-url https://repo.test/os --keys D/keys --ca D/tls/ca.pem");
    fs::write(operator.0.path("site.json"), site.to_string()).unwrap();
    operator
}

/// The problems that are found, and the exit code.
fn problems(operator: &Operator, line: &str) -> (Vec<String>, Option<i32>) {
    let output = operator.run(line);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let directory = operator.0.directory.path().to_str().unwrap();
    let problems = found["problems"].as_array().unwrap();
    (problems.iter().map(|text| text.as_str().unwrap().replace(directory, "D")).collect(), output.status.code())
}

/// Path of the largest payload: the root image.
fn root_payload(operator: &Operator) -> std::path::PathBuf {
    let payloads = fs::read_dir(operator.0.path("repository/payloads")).unwrap().map(|entry| entry.unwrap().path());
    payloads.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn a_good_repository_has_no_problems() {
    let operator = operator();
    for line in [VERIFY.to_owned(), format!("{VERIFY} --deep")] {
        let found = operator.ok(&line);
        assert_eq!(found["problems"], json!([]));
        assert_eq!((&found["releases"], &found["hosts"]), (&json!(["os_1.json"]), &json!(["host-default.json"])));
        assert_eq!((&found["payloads"], &found["warnings"]), (&json!(6), &json!([])));
        assert_eq!(found["versions"]["hosts"], 1);
    }
    let (found, said) = operator.told(&format!("{VERIFY} --warn-days 31"));
    assert_eq!(found["warnings"].as_array().unwrap().len(), 2);
    assert!(said.contains("warning: the snapshot metadata expires at "), "{said}");
}

#[test]
fn a_host_config_with_a_release_that_is_not_allowed_is_a_problem() {
    let operator = operator();
    operator.ok("host allow os_2 --repository D/repository --keys D/keys");
    let (found, code) = problems(&operator, VERIFY);
    let text = "host-default.json names the release os 1, but allowed-releases.json, which the role targets has signed, allows \
                only os_2";
    assert_eq!((found, code), (vec![text.to_owned()], Some(1)));
    operator.ok("host allow os_1 --repository D/repository --keys D/keys");
    assert_eq!(problems(&operator, VERIFY), (Vec::new(), Some(0)));
}

#[test]
fn a_flipped_bit_is_found_by_looking_at_every_block() {
    let operator = operator();
    let path = root_payload(&operator);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert_eq!(problems(&operator, VERIFY), (Vec::new(), Some(0)));
    let (found, code) = problems(&operator, &format!("{VERIFY} --deep"));
    assert_eq!((found.len(), code), (1, Some(1)));
    let name = path.file_name().unwrap().to_str().unwrap();
    assert!(found[0].starts_with(&format!("os_1.json: payloads/{name} from D/repository is corrupt")), "{}", found[0]);
}

#[test]
fn what_is_absent_or_cut_is_found_at_once() {
    let operator = operator();
    let path = root_payload(&operator);
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let length = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(&path).unwrap().set_len(length - 5).unwrap();
    let (found, code) = problems(&operator, VERIFY);
    assert_eq!(found, [format!("root of os_1.json: fetching D/repository/payloads/{name}: it ends 5 bytes too early")]);
    assert_eq!(code, Some(1));
    fs::remove_file(&path).unwrap();
    let (found, _) = problems(&operator, VERIFY);
    let absent = "No such file or directory (os error 2)";
    assert_eq!(found, [format!("root of os_1.json: fetching D/repository/payloads/{name}: opening it: {absent}")]);
}

#[test]
fn a_repository_of_other_keys_is_no_repository() {
    let operator = operator();
    operator.ok("keygen --keys D/other");
    let site = operator.ok("site --repository-url https://repo.test/os --keys D/other --ca D/tls/ca.pem");
    fs::write(operator.0.path("site.json"), site.to_string()).unwrap();
    let expected = "metalstrap: checking the metadata: D/repository: metadata/timestamp.json has 0 valid signatures by keys that are \
                    trusted with it, but needs 1";
    assert_eq!(operator.refusal(VERIFY), expected);
}

#[test]
fn other_signatures_of_pcr_11_are_a_problem() {
    let operator = operator();
    let key = operator.0.path("pcr.pem");
    let made = std::process::Command::new("openssl").args(["genrsa", "-out"]).arg(key).arg("2048").output();
    assert!(made.expect("openssl").status.success());
    operator.ok(&format!("{} --pcr-key D/pcr.pem", PUBLISH.replace("--version 1", "--version 2")));
    assert_eq!(problems(&operator, VERIFY), (Vec::new(), Some(0)));
    let payloads = fs::read_dir(operator.0.path("repository/payloads")).unwrap().map(|entry| entry.unwrap().path());
    let mut signatures = payloads.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let file = signatures.next().unwrap();
    fs::write(&file, "{}").unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    let (found, expected) = (Digest::of(b"{}"), name.strip_suffix(".json").unwrap());
    let text = format!("os_2.json: payloads/{name} has SHA-256 {found}, but the manifest says {expected}");
    assert_eq!(problems(&operator, VERIFY), (vec![text], Some(1)));
}
