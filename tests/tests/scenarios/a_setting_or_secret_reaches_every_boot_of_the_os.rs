//! What the host config has for the OS reaches it by kexec and again from its own disk: settings that PID 1, a generator and
//! services read, and a secret that is encrypted to the TPM of this machine, and nowhere in plain text.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use metalstrap_qemu::{Machine, Swtpm, find_tool, minutes};
use metalstrap_release::digest::Digest;
use metalstrap_release::host::{Host, TpmPolicy};
use metalstrap_tests::observe::{SETTLED, Settings, with_settings};
use metalstrap_tests::operator::assigned;
use metalstrap_tests::release::Target;
use metalstrap_tests::scene::{DISK, LONG, Scene, plan};
use serde_json::json;

/// What nobody but the operator, this machine's installer and its OS may have.
const SECRET: &str = "hush-hush-7b1e94d2-c0a8f";
/// The same in other forms: base64 and hexadecimal.
const FORMS: [&str; 2] = ["aHVzaC1odXNoLTdiMWU5NGQyLWMwYThm", "687573682d687573682d37623165393464322d6330613866"];
const MACHINE_ID: &str = "6d6574616c7374726170000000000042";

#[test]
fn a_setting_or_secret_reaches_every_boot_of_the_os() {
    let mut scene = Scene::new("secrets", Target::Debian).unwrap();
    let tpm = Swtpm::manufacture(&scene.run.path().join("tpm"), true).unwrap();
    let credentials = json!({
        "system.hostname": {"text": "web-${serial}"},
        "system.machine_id": {"text": MACHINE_ID},
        "tmpfiles.extra": {"text": "f /run/lab.tmpfiles 0644 root root - by-tmpfiles\n"},
        "fstab.extra": {"text": "lab /run/labmount tmpfs size=1m 0 0\n"},
        "lab.plain": {"text": "for ${serial}"},
    });
    let credentials = serde_json::from_value(credentials).unwrap();
    let host = Host { tpm: TpmPolicy::Required, credentials, ..scene.host.clone() };
    let file = scene.published.keys.join("secret");
    std::fs::write(&file, SECRET).unwrap();
    let (word, certificate) = (assigned("lab.secret", &file), tpm.endorsement_certificate());
    let words: [&OsStr; 4] = ["--secret".as_ref(), word.as_os_str(), "--ek".as_ref(), certificate.as_os_str()];
    scene.published.add_host_with("serial-7XK2J13", &host, &words).unwrap();
    // What other machines get fits no disk.
    scene.host.disk.serial = Some("NONE".to_owned());

    let machine =
        scene.start(DISK, |builder| with_settings(builder.memory(1024).tpm(&tpm).identity(None, Some("7XK2J13"))));
    let mut machine = machine.unwrap();
    let is_end = |event: &serde_json::Value| event["state"] == "finished";
    machine.serial().wait_for_event("the end of the run", LONG, is_end).unwrap();
    let plan = plan(&machine).unwrap();
    assert!(plan["credentials"].as_array().unwrap().contains(&json!({"name": "lab.secret"})), "{plan}");
    let expected = Settings {
        hostname: "web-7XK2J13".to_owned(),
        machine_id: MACHINE_ID.to_owned(),
        tmpfiles: "by-tmpfiles".to_owned(),
        mount: "tmpfs".to_owned(),
        plain: "for 7XK2J13".to_owned(),
        secret: Digest::of(SECRET.as_bytes()).to_string(),
    };
    assert_eq!(seen(&machine), expected, "after kexec");

    // From its own disk, by firmware and systemd-boot.
    machine = machine.power_cycle(|builder| builder.firmware_boot()).unwrap();
    assert_eq!(seen(&machine), expected, "from its own disk");
    drop(machine);

    // Repository, reports, consoles, the disk with all that the OS wrote, the TPM's state: only the operator's file has it.
    assert_eq!(holding(&[SECRET], scene.run.path()), [file]);
    assert_eq!(holding(&FORMS, scene.run.path()), Vec::<PathBuf>::new());
    scene.passed().unwrap();
}

/// What the OS has of its settings once it is up.
fn seen(machine: &Machine<'_>) -> Settings {
    machine.serial().wait_for(SETTLED, minutes(15)).unwrap();
    Settings::parse(&machine.serial().wait_for("\n", minutes(1)).unwrap()).unwrap()
}

/// The files below `place` that hold one of the texts, as grep finds them.
fn holding(texts: &[&str], place: &Path) -> Vec<PathBuf> {
    let mut grep = Command::new(find_tool("grep").unwrap());
    // Only in this locale is every byte a character.
    grep.env("LC_ALL", "C").args(["--recursive", "--devices=skip", "--files-with-matches", "--fixed-strings"]);
    for text in texts {
        grep.args(["--regexp", *text]);
    }
    let output = grep.arg(place).output().unwrap();
    // 1: no file has any.
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)) && complaints.is_empty(), "grep: {complaints}");
    String::from_utf8(output.stdout).unwrap().lines().map(PathBuf::from).collect()
}
