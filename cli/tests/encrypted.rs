//! Keys that are encrypted by a passphrase, as an operator uses them.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "clippy sees no test in the helpers of an integration test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output};

use serde_json::json;

#[path = "support/operator.rs"]
mod command;
mod support;

use command::{ON, Operator, PUBLISH};
use support::{Inputs, contents, tool};

const PASS: &str = "--passphrase-file D/pass";

/// With a passphrase in a file and encrypted keys.
fn operator() -> Operator {
    let operator = Operator(Inputs::new());
    write_secret(&operator, "pass", "correct horse\nnot this line\n");
    operator.ok(&format!("keygen --keys D/keys --encrypt {PASS}"));
    operator
}

fn write_secret(operator: &Operator, name: &str, text: &str) {
    fs::write(operator.0.path(name), text).unwrap();
    fs::set_permissions(operator.0.path(name), fs::Permissions::from_mode(0o600)).unwrap();
}

/// Runs the command without a terminal, with this environment.
fn without_terminal(operator: &Operator, variable: Option<&str>, line: &str) -> Output {
    let directory = operator.0.directory.path().to_str().unwrap();
    let mut command = Command::new("setsid");
    command.args(["--wait", env!("CARGO_BIN_EXE_metalstrap")]).env_remove("METALSTRAP_PASSPHRASE");
    command.args(line.split(' ').map(|word| word.replace("D/", &format!("{directory}/"))));
    if let Some(text) = variable {
        command.env("METALSTRAP_PASSPHRASE", text);
    }
    command.output().unwrap()
}

fn said(operator: &Operator, output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    text.replace(operator.0.directory.path().to_str().unwrap(), "D").lines().last().unwrap_or_default().to_owned()
}

fn openssl(operator: &Operator, line: &str) -> String {
    tool(operator.0.directory.path(), "openssl", line)
}

#[test]
fn encrypted_keys_sign_with_their_passphrase_only() {
    let operator = operator();
    for role in ["root", "targets", "snapshot", "timestamp", "hosts"] {
        let path = operator.0.path(&format!("keys/{role}.pem"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"), "{text}");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let plain = openssl(&operator, &format!("pkey -in keys/{role}.pem -passin file:pass"));
        assert!(plain.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{plain}");
    }
    let output = without_terminal(&operator, None, PUBLISH);
    let text = "metalstrap: the key D/keys/targets.pem is encrypted: say --passphrase-file, set METALSTRAP_PASSPHRASE, or run this \
                at a terminal: ";
    assert!(said(&operator, &output).starts_with(text), "{}", said(&operator, &output));
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b""[..]));
    assert!(!operator.0.path("repository/metadata/timestamp.json").exists());
    operator.ok(&format!("{PUBLISH} {PASS}"));

    let before = contents(&operator.0.path("repository"));
    let refresh = format!("refresh {ON}");
    let output = without_terminal(&operator, Some("correct hors"), &refresh);
    let text = "metalstrap: the passphrase in METALSTRAP_PASSPHRASE is not that of the key D/keys/snapshot.pem";
    assert_eq!(said(&operator, &output), text);
    write_secret(&operator, "other", "correct horse \n");
    let text = "metalstrap: the passphrase in D/other is not that of the key D/keys/snapshot.pem";
    assert_eq!(operator.refusal(&format!("{refresh} --passphrase-file D/other")), text);
    assert!(contents(&operator.0.path("repository")) == before, "nothing was written");
    let output = without_terminal(&operator, Some("correct horse"), &refresh);
    assert!(output.status.success(), "{}", said(&operator, &output));
    // The file is for this run, the variable for any.
    let output = without_terminal(&operator, Some("another"), &format!("{refresh} {PASS}"));
    assert!(output.status.success(), "{}", said(&operator, &output));
    operator.ok(&format!("timestamp {ON} {PASS}"));
}

#[test]
fn only_the_keys_that_sign_are_asked_for() {
    let operator = operator();
    operator.ok(&format!("{PUBLISH} {PASS}"));
    // Root and targets are not needed to refresh: damage goes unnoticed.
    write_secret(
        &operator,
        "keys/targets.pem",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
    );
    operator.ok(&format!("refresh {ON} {PASS}"));
    let text = operator.refusal(&format!("host allow os_1 {ON} {PASS}"));
    let start = "metalstrap: reading the key D/keys/targets.pem: it is not encrypted by PBES2 with AES";
    assert!(text.starts_with(start), "{text}");
}

#[test]
fn a_key_that_openssl_has_encrypted_signs() {
    let operator = Operator::new();
    write_secret(&operator, "pass", "correct horse\n");
    for (role, how) in [("timestamp", "-v2 aes-256-cbc"), ("snapshot", "-scrypt")] {
        let path = format!("keys/{role}.pem");
        openssl(&operator, &format!("pkcs8 -topk8 {how} -in {path} -out new.pem -passout file:pass"));
        fs::rename(operator.0.path("new.pem"), operator.0.path(&path)).unwrap();
    }
    operator.ok(&format!("refresh {ON} {PASS}"));
    let mode = |mode| fs::set_permissions(operator.0.path("pass"), fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let text = "metalstrap: the passphrase D/pass is open to others (mode 644): chmod 600 it";
    assert_eq!(operator.refusal(&format!("refresh {ON} {PASS}")), text);
}

#[test]
fn a_rotation_reads_encrypted_root_keys_and_makes_encrypted_keys() {
    let operator = operator();
    let output = without_terminal(&operator, None, "keygen --keys D/keys --rotate timestamp");
    let start = "metalstrap: the key D/keys/root.pem is encrypted: ";
    assert!(said(&operator, &output).starts_with(start), "{}", said(&operator, &output));
    let result = operator.ok(&format!("keygen --keys D/keys --rotate timestamp --encrypt {PASS}"));
    assert_eq!(result["files"], json!(["timestamp.pem", "2.root.json", "root.json"]));
    openssl(&operator, "pkey -in keys/timestamp.pem -passin file:pass -noout");
    let output = without_terminal(&operator, None, "keygen --keys D/new --encrypt");
    let start = "metalstrap: new keys are to be encrypted: say --passphrase-file, set METALSTRAP_PASSPHRASE, or run this at a \
                 terminal: ";
    assert!(said(&operator, &output).starts_with(start), "{}", said(&operator, &output));
    assert_eq!(fs::read_dir(operator.0.path("new")).unwrap().count(), 0);
    operator.ok(&format!("{PUBLISH} {PASS}"));
}
