//! The archives as cpio reads them, and the units as systemd does.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use metalstrap_release::digest::Digest;
use metalstrap_release::pcr::Signature;
use tempfile::TempDir;

use super::*;
use crate::handoff::split::split;
use crate::handoff::tests::{on_disk, ordinary, uki};

/// An ordinary UKI with these sections too.
fn parts(more: &[(&'static str, &[u8])]) -> Parts {
    let mut sections = ordinary();
    sections.extend(more.iter().map(|(name, content)| (*name, content.to_vec(), 0)));
    let (region, tree, boot) = on_disk(&uki(&sections));
    split(&region, &tree, &boot, &[]).unwrap()
}

fn unpacked(archives: &[Vec<u8>]) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    for archive in archives {
        let mut cpio = Command::new("cpio");
        let cpio = cpio.args(["-i", "-d", "-u", "--quiet"]).current_dir(place.path()).stdin(Stdio::piped());
        let mut cpio = cpio.spawn().expect("cpio can be run");
        cpio.stdin.take().unwrap().write_all(archive).unwrap();
        assert!(cpio.wait().unwrap().success());
    }
    place
}

fn signature(of: &str) -> Signature {
    Signature { pcrs: vec![11], pkfp: Digest::of(b"key"), pol: Digest::of(of.as_bytes()), sig: "AA==".to_owned() }
}

fn signatures(of: &[&str]) -> Signatures {
    Signatures { sha256: of.iter().copied().map(signature).collect(), ..Signatures::default() }
}

fn handed(own: Option<&[u8]>, published: &Signatures) -> (Option<String>, Option<String>) {
    let more: Vec<_> = own.map(|own| (".pcrsig", own)).into_iter().collect();
    let (archives, problem) = of_sections(&parts(&more), published);
    // Each by itself: only root writes to a directory with mode 0555 that is there.
    let name = b"tpm2-pcr-signature.json";
    let archive = archives.into_iter().find(|archive| archive.windows(name.len()).any(|bytes| bytes == name));
    let place = unpacked(archive.as_slice());
    let text = fs::read_to_string(place.path().join(".extra/tpm2-pcr-signature.json")).ok();
    (text, problem.map(|problem| problem.to_string()))
}

#[test]
fn what_the_stub_hands_over_is_handed_over_as_it_does() {
    let parts = parts(&[(".profile", b"ID=main\n"), (".pcrpkey", b"KEY"), (".pcrsig", b"{}\n")]);
    let (archives, problem) = of_sections(&parts, &Signatures::default());
    assert!(problem.is_none());
    // One archive for each file, in the stub's order.
    let expected = [
        ("tpm2-pcr-signature.json", &b"{}\n"[..]),
        ("tpm2-pcr-public-key.pem", b"KEY"),
        ("os-release", b"ID=test\n"),
        ("profile", b"ID=main\n"),
    ];
    assert_eq!(archives.len(), expected.len());
    for (archive, (name, content)) in archives.iter().zip(expected) {
        let place = unpacked(std::slice::from_ref(archive));
        let directory: Vec<_> = fs::read_dir(place.path().join(".extra")).unwrap().collect();
        assert_eq!(directory.len(), 1, "{name}");
        assert_eq!(fs::read(place.path().join(".extra").join(name)).unwrap(), content);
        // Inode 1 is the directory with mode 0555.
        assert!(archive.starts_with(b"070701000000010000416d0000000000000000000000010000000000000000"));
        assert_eq!(archive.len() % 4, 0);
    }
}

#[test]
fn signatures_of_uki_and_release_become_one_file() {
    let json = |signatures: &Signatures| serde_json::to_string(signatures).unwrap();
    let (both, one, none) = (signatures(&["a", "b"]), signatures(&["a"]), Signatures::default());
    assert_eq!(handed(None, &none), (None, None));
    assert_eq!(handed(None, &one), (Some(json(&one)), None));
    let own = format!("{}\n\0\0", json(&one));
    assert_eq!(handed(Some(own.as_bytes()), &none), (Some(own.clone()), None), "as it is");
    assert_eq!(handed(Some(own.as_bytes()), &both), (Some(json(&both)), None), "each once");
    let left_out = LeftOut(serde_json::from_str::<Signatures>("[").unwrap_err()).to_string();
    assert_eq!(handed(Some(b"{\"sha256\": 1}"), &one), (Some(json(&one)), Some(left_out)));
}

#[test]
fn logs_lie_where_the_unit_takes_them_from() {
    let firmware = tempfile::NamedTempFile::new().unwrap();
    fs::write(firmware.path(), b"Spec ID Event03").unwrap();
    let place = unpacked(&[importer(), logs("\u{1e}{}\n", false, firmware.path()).0]);
    let read = |path: &str| fs::read_to_string(place.path().join(path)).unwrap();
    assert_eq!(read(".extra/metalstrap/tpm2-measure.log"), "\u{1e}{}\n");
    assert_eq!(read(".extra/metalstrap/binary_bios_measurements"), "Spec ID Event03");
    // Where `attest answer` finds it.
    let (copies, to) = (read("etc/metalstrap-event-log.conf"), eventlog::firmware::HANDED_OVER);
    let copy = format!("\nC- {to} 0400 root root - /.extra/metalstrap/binary_bios_measurements\n");
    assert!(copies.contains(&copy), "{copies}");
    let unit = read("etc/systemd/system/metalstrap-event-log.service");
    assert!(unit.contains("\nConditionPathExists=/.extra/metalstrap/tpm2-measure.log\n"), "{unit}");
    for conf in ["event-log", "event-log-copy"] {
        assert!(
            unit.contains(&format!("\nExecStart=-systemd-tmpfiles --create /etc/metalstrap-{conf}.conf\n")),
            "{unit}"
        );
        assert!(place.path().join(format!("etc/metalstrap-{conf}.conf")).exists());
    }
    assert!(place.path().join("etc/metalstrap-event-log-copy.service").exists());
    let wants = read("etc/systemd/system/sysinit.target.d/metalstrap-event-log.conf");
    assert_eq!(wants, "[Unit]\nWants=metalstrap-event-log.service\n");
    assert!(read("etc/metalstrap-event-log.conf").contains(" - /.extra/metalstrap/tpm2-measure.log\n"));
    assert_eq!(importer(), importer());
}

#[test]
fn a_log_that_may_lack_a_record_is_marked_as_systemd_marks_its_own() {
    // Inode 3 is the log, behind its directories. The copy has the mode of what is copied, as it has none of its own.
    for (incomplete, mode) in [(false, 0o100_600), (true, 0o101_600)] {
        let (archive, _) = logs("own", incomplete, Path::new("/nowhere"));
        let archive = String::from_utf8(archive).unwrap();
        assert!(archive.contains(&format!("07070100000003{mode:08x}")), "{archive}");
    }
    let copied = "C- /run/log/systemd/tpm2-measure.log - root root - /.extra/metalstrap/tpm2-measure.log\n";
    assert!(String::from_utf8_lossy(COPIES).contains(copied));
}

#[test]
fn a_log_of_the_firmware_that_cannot_be_had_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let has = |path: &Path| {
        let (archive, left_out) = logs("own", false, path);
        let place = unpacked(&[archive]);
        assert_eq!(fs::read(place.path().join(".extra/metalstrap/tpm2-measure.log")).unwrap(), b"own");
        let is_there = place.path().join(".extra/metalstrap/binary_bios_measurements").exists();
        (is_there, left_out.map(|problem| format!("{problem:#}")))
    };
    assert_eq!(has(&path), (false, None), "it is not there");
    fs::write(&path, b"").unwrap();
    assert_eq!(has(&path), (false, None), "it is empty");
    fs::write(&path, vec![1; 1 << 20]).unwrap();
    assert_eq!(has(&path), (true, None));
    fs::write(&path, vec![1; (1 << 20) + 1]).unwrap();
    let text = format!("{} has 1048577 bytes, more than 1048576", path.display());
    assert_eq!(has(&path), (false, Some(text)));
}
