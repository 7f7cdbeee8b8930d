//! A netboot image signed by the operator's key, and one that is not, before a firmware with Secure Boot; and what
//! `metalstrap vm` says of it. The image is made from the real kernel package (`scripts/fetch-kernels`); its "installer"
//! ends at once, at which the kernel panics and resets the machine: it had been started.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "clippy sees no test in helpers of tests"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use metalstrap_initrd::{BootTools, Kernel, NetbootOptions, Signer, netboot};
use serde_json::Value;

fn out() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../out")
}

/// Makes NAME.efi in `dir`, with a site config of which `vm` needs no more than where the repository is.
fn image(dir: &Path, name: &str, signer: Option<&Signer>) {
    let options = NetbootOptions {
        kernel: Kernel::find(&out().join("kernels/cloud")).unwrap(),
        installer: "/bin/true".into(),
        site: br#"{"repository": "https://images.example.com"}"#.to_vec(),
        build_time: 1_760_000_000,
        tools: BootTools::find(&out().join("boot-tools")).unwrap(),
        cmdline_extra: "panic=-1".to_owned(),
        extra_files: Vec::new(),
        cache: None,
        output: dir.join(format!("{name}.efi")),
    };
    netboot(&options).unwrap();
    if let Some(signer) = signer {
        signer.sign_file(&options.output).unwrap();
    }
}

/// Runs `vm` with Secure Boot; its result, and the machine's console.
fn start(dir: &Path, name: &str) -> (Output, Value, String) {
    let logs = format!("{name}.logs");
    let output = Command::new(env!("CARGO_BIN_EXE_metalstrap"))
        .current_dir(dir)
        .args(["vm", "--netboot", &format!("{name}.efi"), "--secure-boot", "db.pem", "--logs", &logs, "--no-tpm"])
        .args(["--memory", "512", "--timeout", "400"])
        .output()
        .unwrap();
    let result = serde_json::from_slice(&output.stdout).unwrap();
    let console = fs::read(dir.join(logs).join("machine/serial.log")).unwrap();
    (output, result, String::from_utf8_lossy(&console).into_owned())
}

#[test]
fn firmware_starts_what_the_operator_signed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=operator"]);
    openssl.args(["-keyout", "db.key", "-out", "db.pem"]).current_dir(dir.path());
    assert!(openssl.output().unwrap().status.success());
    let signer = Signer::read(&dir.path().join("db.key"), &dir.path().join("db.pem")).unwrap();
    image(dir.path(), "signed", Some(&signer));
    image(dir.path(), "unsigned", None);

    let (output, result, console) = start(dir.path(), "signed");
    assert!(console.contains("Kernel panic - not syncing"), "{console}");
    assert_eq!(
        (output.status.code(), &result["outcome"], &result["phase"]),
        (Some(1), &"machine-reset".into(), &"installation".into())
    );
    assert_eq!(result["happened"], "the machine was reset before it ended its installation");
    assert_eq!(result["resets_before_installer"], 2);

    let (output, result, console) = start(dir.path(), "unsigned");
    assert!(!console.contains("EFI stub"), "{console}");
    assert_eq!((output.status.code(), &result["outcome"]), (Some(1), &"not-started".into()));
    let happened = result["happened"].as_str().unwrap();
    let expected =
        "the firmware started nothing (Secure Boot: it is not signed by the key of the enrolled certificate): ";
    assert!(happened.starts_with(expected), "{happened}");
    let stick = happened.split("; ").find(|tried| tried.contains("USB HARDDRIVE")).unwrap();
    assert!(stick.contains("BdsDxe: failed to load") && stick.ends_with(": Access Denied"), "{happened}");
}
