//! What the scenarios have shown of measuring, Secure Boot and the jump: `out/measured/result.json`.
//!
//! Each scenario [`note`]s its own members as soon as it knows them; they run in several threads and processes at once. Whether all
//! of them are there, and as they should be, [`complaints`] says in the end.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};

use crate::artifacts;

/// Below `out/`.
const DIRECTORY: &str = "measured";
const RESULT: &str = "result.json";

/// The two ways in which the installer is started.
const STARTS: [&str; 2] = ["netboot_uki", "kernel_initrd"];
/// The boots of the OS after each, and what PCR 11 is compared with.
const BOOTS: [(&str, &str); 2] = [("kexec", "pcr11_predicted"), ("cold", "pcr11_systemd_measure")];
/// What has to be so.
const TRUE: [&str; 5] = [
    "/secure_boot/signed_installs",
    "/secure_boot/unsigned_refused",
    "/secure_boot/lockdown_kexec",
    "/watchdog_recovers",
    "/healthy_survives_watchdog",
];
/// What was timed.
const SECONDS: [&str; 7] = [
    "firmware_and_loader",
    "tpm_work",
    "tpm_work_attested",
    "handoff_to_kernel_kexec",
    "handoff_to_kernel_reboot",
    "handoff_to_multi_user_kexec",
    "handoff_to_multi_user_reboot",
];
/// Seconds that the TPM may take of an installation: measuring, keys and quotes; what is done as systemd-stub does it is not in it.
pub const TPM_WORK: f64 = 3.0;

/// Merges `members` (an object) into the result: an object into the object that is there, anything else in place of what is there.
/// The file is replaced as a whole, and whoever else notes something waits.
///
/// ```no_run
/// # fn main() -> anyhow::Result<()> {
/// use metalstrap_tests::measured::note;
/// use serde_json::json;
///
/// note(&json!({"watchdog_recovers": true, "seconds": {"tpm_work": 1.25}}))?;
/// note(&json!({"seconds": {"firmware_and_loader": 20.5}}))?; // tpm_work stays
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// The file cannot be read or written.
pub fn note(members: &Value) -> Result<()> {
    note_in(&artifacts::out().join(DIRECTORY), members)
}

/// The same in a directory.
fn note_in(directory: &Path, members: &Value) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let lock = directory.join("lock");
    let locking = || format!("locking {}", lock.display());
    // Held until it is closed.
    let held = File::options().create(true).append(true).open(&lock).with_context(locking)?;
    held.lock().with_context(locking)?;
    let path = directory.join(RESULT);
    let mut result = if path.exists() { read(&path)? } else { Value::Object(Map::new()) };
    merge(&mut result, members);
    let part = directory.join("result.json.part");
    let text = serde_json::to_string_pretty(&result).context("writing the result")? + "\n";
    fs::write(&part, text).with_context(|| format!("writing {}", part.display()))?;
    fs::rename(&part, &path).with_context(|| format!("replacing {}", path.display()))
}

/// The result as it is.
///
/// # Errors
/// Nothing was noted yet, or the file cannot be read.
pub fn result() -> Result<Value> {
    read(&artifacts::out().join(DIRECTORY).join(RESULT))
}

fn read(path: &Path) -> Result<Value> {
    let bytes = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&bytes).with_context(|| format!("reading {}", path.display()))
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// What else the processors did while boots were timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// Nothing.
    Quiet,
    /// Other machines: two starts of an OS, minutes each, differ by more than what kexec saves.
    Busy,
}

/// What is missing in the result, or not as it should be: empty if all is well.
#[must_use]
pub fn complaints(result: &Value, host: Host) -> Vec<String> {
    let mut all = Vec::new();
    let mut expect = |pointer: &str, wanted: &str, good: bool| {
        let found = result.pointer(pointer).map_or_else(|| "missing".to_owned(), Value::to_string);
        if !good {
            all.push(format!("{} is {found}, not {wanted}", pointer.trim_start_matches('/').replace('/', ".")));
        }
    };
    let at = |pointer: &str| result.pointer(pointer);
    for (start, (boot, oracle)) in STARTS.iter().flat_map(|start| BOOTS.map(|boot| (*start, boot))) {
        let [measured, oracle] = ["pcr11_measured", oracle].map(|name| format!("/{start}/{boot}/{name}"));
        expect(&oracle, "the value of a PCR", at(&oracle).is_some_and(is_pcr));
        let wanted = at(&oracle).map_or_else(|| "the value of a PCR".to_owned(), Value::to_string);
        expect(&measured, &wanted, at(&measured).is_some_and(is_pcr) && at(&measured) == at(&oracle));
        let unlocked = format!("/{start}/{boot}/luks_unlocked");
        expect(&unlocked, "true", at(&unlocked) == Some(&Value::Bool(true)));
    }
    expect("/unaccounted_extends", "0", at("/unaccounted_extends").and_then(Value::as_u64) == Some(0));
    expect("/tpm2_checkquote", "\"ok\"", at("/tpm2_checkquote").and_then(Value::as_str) == Some("ok"));
    for pointer in TRUE {
        expect(pointer, "true", at(pointer) == Some(&Value::Bool(true)));
    }
    let seconds = |name: &str| at(&format!("/seconds/{name}")).and_then(Value::as_f64);
    for name in SECONDS {
        expect(&format!("/seconds/{name}"), "more than 0", seconds(name).is_some_and(|seconds| seconds > 0.0));
    }
    let taken = |name: &str| seconds(name).unwrap_or_default();
    for name in ["tpm_work", "tpm_work_attested"] {
        expect(&format!("/seconds/{name}"), "3 at most", taken(name) <= TPM_WORK);
    }
    let ends = ["kernel", "multi_user"];
    for end in if host == Host::Quiet { &ends[..] } else { &ends[..1] } {
        let [kexec, reboot] = ["kexec", "reboot"].map(|way| format!("handoff_to_{end}_{way}"));
        let most = taken(&reboot) - taken("firmware_and_loader") / 2.0;
        expect(&format!("/seconds/{kexec}"), &format!("{most:.1} at most"), taken(&kexec) <= most);
    }
    all
}

/// 64 digits of hexadecimal, not all of them 0.
fn is_pcr(value: &Value) -> bool {
    let lower = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    value.as_str().is_some_and(|text| text.len() == 64 && lower(text) && text.bytes().any(|byte| byte != b'0'))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn good() -> Value {
        let start = |digit: &str| {
            let [kexec, cold] = [digit, "c"].map(|digit| digit.repeat(64));
            json!({
                "kexec": {"pcr11_measured": kexec, "pcr11_predicted": kexec, "luks_unlocked": true},
                "cold": {"pcr11_measured": cold, "pcr11_systemd_measure": cold, "luks_unlocked": true},
            })
        };
        json!({
            "netboot_uki": start("a"),
            "kernel_initrd": start("c"),
            "unaccounted_extends": 0,
            "tpm2_checkquote": "ok",
            "secure_boot": {"signed_installs": true, "unsigned_refused": true, "lockdown_kexec": true},
            "watchdog_recovers": true,
            "healthy_survives_watchdog": true,
            "seconds": {
                "handoff_to_kernel_kexec": 4.0,
                "handoff_to_kernel_reboot": 22.0,
                "handoff_to_multi_user_kexec": 30.0,
                "handoff_to_multi_user_reboot": 50.0,
                "firmware_and_loader": 20.0,
                "tpm_work": 1.5,
                "tpm_work_attested": 2.5,
            },
        })
    }

    #[test]
    fn a_result_is_whole_and_right_or_said_not_to_be() {
        assert_eq!(complaints(&good(), Host::Quiet), Vec::<String>::new());
        let change = |pointer: &str, value: Value| {
            let mut result = good();
            *result.pointer_mut(pointer).unwrap() = value;
            complaints(&result, Host::Quiet)
        };
        let (other, expected) = ("b".repeat(64), "a".repeat(64));
        assert_eq!(
            change("/netboot_uki/kexec/pcr11_measured", json!(other)),
            [format!("netboot_uki.kexec.pcr11_measured is \"{other}\", not \"{expected}\"")]
        );
        assert_eq!(change("/unaccounted_extends", json!(1)), ["unaccounted_extends is 1, not 0"]);
        assert_eq!(change("/tpm2_checkquote", json!("no")), ["tpm2_checkquote is \"no\", not \"ok\""]);
        assert_eq!(change("/watchdog_recovers", json!(false)), ["watchdog_recovers is false, not true"]);
        assert_eq!(change("/seconds/tpm_work", json!(3.5)), ["seconds.tpm_work is 3.5, not 3 at most"]);
        let slow = change("/seconds/tpm_work_attested", json!(3.5));
        assert_eq!(slow, ["seconds.tpm_work_attested is 3.5, not 3 at most"]);
        let slow = change("/seconds/handoff_to_kernel_kexec", json!(13.0));
        assert_eq!(slow, ["seconds.handoff_to_kernel_kexec is 13.0, not 12.0 at most"]);
        let slow = change("/seconds/handoff_to_multi_user_kexec", json!(41.0));
        assert_eq!(slow, ["seconds.handoff_to_multi_user_kexec is 41.0, not 40.0 at most"]);
        let mut disturbed = good();
        disturbed["seconds"]["handoff_to_multi_user_kexec"] = json!(41.0);
        assert_eq!(complaints(&disturbed, Host::Busy), Vec::<String>::new());
        disturbed["seconds"]["handoff_to_kernel_kexec"] = json!(13.0);
        assert_eq!(complaints(&disturbed, Host::Busy).len(), 1);
        let zeroes = json!("0".repeat(64));
        assert_eq!(
            change("/kernel_initrd/cold", json!({"pcr11_measured": zeroes, "pcr11_systemd_measure": zeroes})).len(),
            3
        );
        // Every member counts: 4 boots of 3, 2, 5 of true and 7 of seconds.
        let nothing = complaints(&json!({}), Host::Quiet);
        assert_eq!(nothing.len(), 26, "{nothing:#?}");
        assert_eq!(nothing[0], "netboot_uki.kexec.pcr11_predicted is missing, not the value of a PCR");
    }

    #[test]
    fn what_is_noted_at_once_is_all_there() {
        let directory = std::env::temp_dir().join(format!("metalstrap-measured-{}", std::process::id()));
        std::thread::scope(|scope| {
            for number in 0..8 {
                let directory = &directory;
                scope.spawn(move || {
                    let name = format!("n{number}");
                    note_in(directory, &json!({"seconds": {name: number}, "last": "x"})).unwrap();
                });
            }
        });
        let found = read(&directory.join(RESULT)).unwrap();
        fs::remove_dir_all(&directory).unwrap();
        assert_eq!(found["seconds"].as_object().unwrap().len(), 8, "{found}");
        assert_eq!((&found["last"], &found["seconds"]["n3"]), (&json!("x"), &json!(3)));
    }
}
