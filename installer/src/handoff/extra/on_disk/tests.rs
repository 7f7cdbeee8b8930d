//! The places as systemd-tmpfiles makes them, and the copies as a shell does.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::*;

/// Puts a file below a directory, with a mode.
fn put(place: &Path, path: &str, content: &str, mode: u32) {
    let path = place.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
}

/// Its content and its mode, if it is there.
fn got(place: &Path, path: &str) -> Option<(String, u32)> {
    let path = place.join(path);
    let mode = fs::metadata(&path).ok()?.permissions().mode() & 0o7777;
    Some((fs::read_to_string(path).unwrap(), mode))
}

fn with_mode(content: &str, mode: u32) -> Option<(String, u32)> {
    Some((content.to_owned(), mode))
}

/// Runs what the unit runs, from one directory to another, and says whether it went well.
fn copies(place: &TempDir) -> bool {
    let [from, to] = ["run", "var/log/metalstrap"].map(|path| place.path().join(path));
    let script = format!("umask 022; {}", copy(from.to_str().unwrap(), to.to_str().unwrap()));
    Command::new("/bin/sh").args(["-c", &script]).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn what_the_os_needs_of_it_outlives_the_initrd() {
    let place = tempfile::tempdir().unwrap();
    put(place.path(), ".extra/metalstrap/tpm2-measure.log", "own", 0o1400);
    for (path, content) in files() {
        put(place.path(), path, &content, 0o444);
    }
    let mut tmpfiles = Command::new("systemd-tmpfiles");
    tmpfiles.arg("--create").arg(format!("--root={}", place.path().display())).arg("-");
    let places = File::open(place.path().join("etc/metalstrap-event-log-copy.conf")).unwrap();
    assert!(tmpfiles.stdin(places).status().unwrap().success());

    assert_eq!(got(place.path(), "run/metalstrap/tpm2-measure.log"), with_mode("own", 0o1400), "with its mark");
    let unit = unit(&copy("/run/metalstrap", "/var/log/metalstrap"));
    let wanted = "run/systemd/system/multi-user.target.wants/metalstrap-event-log-copy.service";
    assert_eq!(got(place.path(), wanted), with_mode(&unit, 0o644));
}

#[test]
fn the_shell_gets_the_whole_script() {
    let unit = unit(&copy(HANDED, COPIED));
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=-:/bin/sh -c ")).unwrap();
    // What would mean something to systemd in such a line.
    assert_eq!(command.matches('\'').count(), 2, "{command}");
    assert!(command.starts_with('\'') && command.ends_with('\'') && !command.contains(['%', '\\']), "{command}");
}

#[test]
fn copies_are_those_of_the_last_installation() {
    let place = tempfile::tempdir().unwrap();
    let copied = |name: &str| got(&place.path().join("var/log/metalstrap"), name);
    put(place.path(), "run/tpm2-measure.log", "first", 0o400);
    put(place.path(), "run/binary_bios_measurements", "firmware", 0o400);
    assert!(copies(&place));
    assert_eq!(copied("tpm2-measure.log"), with_mode("first", 0o400));
    assert_eq!(copied("binary_bios_measurements"), with_mode("firmware", 0o400));
    let mode = |path: &str| fs::metadata(place.path().join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode("var/log/metalstrap"), 0o700);
    assert_eq!(mode("var/log") & 0o055, 0o055, "the directory above is everybody's");

    // The next one has no log of the firmware, and its own is incomplete; a copy before was cut.
    fs::remove_file(place.path().join("run/binary_bios_measurements")).unwrap();
    fs::remove_file(place.path().join("run/tpm2-measure.log")).unwrap();
    put(place.path(), "run/tpm2-measure.log", "second", 0o1400);
    put(place.path(), "var/log/metalstrap/new/binary_bios_measurements", "firm", 0o400);
    assert!(copies(&place));
    assert_eq!(copied("tpm2-measure.log"), with_mode("second", 0o1400));
    let left = fs::read_dir(place.path().join("var/log/metalstrap")).unwrap();
    assert_eq!(left.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["tpm2-measure.log"]);
}

#[test]
fn copies_that_cannot_be_replaced_stay() {
    let place = tempfile::tempdir().unwrap();
    put(place.path(), "var/log/metalstrap/tpm2-measure.log", "old", 0o400);
    put(place.path(), "var/log/metalstrap/binary_bios_measurements", "old firmware", 0o400);
    put(place.path(), "run/binary_bios_measurements", "firmware", 0o400);
    assert!(!copies(&place), "there is no log to be copied");
    assert_eq!(got(place.path(), "var/log/metalstrap/tpm2-measure.log"), with_mode("old", 0o400));
    assert_eq!(got(place.path(), "var/log/metalstrap/binary_bios_measurements"), with_mode("old firmware", 0o400));
}
