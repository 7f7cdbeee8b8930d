//! A kexec and its mark, with firmware that takes variables and with such that does not; and what comes right before the jump.

mod deciding;

use std::fs;
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use metalstrap_release::host::{BootOrder, Existing, FileForm};
use nix::errno::Errno;
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::bootvars::variables::tests::Refusing;
use crate::bootvars::{self, Efivarfs, Variables as _};
use crate::config::Place;
use crate::eventlog::Measurer;
use crate::inventory::Contents;
use crate::machine::{Firmware, Seams};
use crate::plan::tests::{GIB, host, manifest, plan};
use crate::refusals::published::good;
use crate::remembered::VENDOR;
use crate::report::Reporter;
use crate::report::tests::Lines;
use crate::secure_boot::SECURE_BOOT;
use crate::tpm::direct::Direct;
use crate::tpm::swtpm::Swtpm;

/// Makes the seams of a machine.
type Making = Box<dyn Fn() -> Seams>;

/// What a mark is written to.
fn own(place: &TempDir) -> Efivarfs {
    Efivarfs::at(place.path()).of_vendor(VENDOR)
}

/// A machine in the netboot image with the network links and the variables of `seams`.
fn machine(tell: &Reporter, seams: Seams) -> Machine<'_> {
    let seams = Seams { tpm: Box::new(|| Ok(None)), ..seams };
    Machine::new(&Place::Netboot, tell, Measurer::off(), None, seams)
}

fn telling() -> (Lines, Reporter) {
    let lines = Lines::default();
    (lines.clone(), Reporter::new("5b9c".into(), Box::new(lines), None))
}

/// The warnings that a person reads.
fn warnings(lines: &Lines) -> Vec<String> {
    let lines = lines.0.lock().unwrap();
    lines.iter().filter_map(|line| Some(line.strip_prefix("warning: ")?.to_owned())).collect()
}

/// A sysfs with these files.
fn sysfs(files: &[(&str, &str)]) -> TempDir {
    let sys = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = sys.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    sys
}

/// The sysfs of a machine with Secure Boot on and a TPM.
fn with_secure_boot() -> TempDir {
    sysfs(&[(SECURE_BOOT, "\x06\0\0\0\x01"), ("class/tpm/tpm0/tpm_version_major", "2\n")])
}

/// A site config that denies these machines a kexec.
fn site(kexec_deny: &Value) -> Site {
    let site = json!({
        "format": 1,
        "repository": "https://mirror.example/os",
        "root": good().trusted_root(),
        "ca": "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
        "report_url": "https://report.example/events",
        "kexec_deny": kexec_deny,
    });
    Site::parse(site.to_string().as_bytes()).unwrap()
}

/// The ways that firmware has to take no variable, and what is said of each.
fn refusals(place: &TempDir) -> [(Making, &'static str); 3] {
    let at = place.path().to_owned();
    let refusing = move |errno| {
        let at = at.clone();
        move || {
            let own = Efivarfs::at(&at).of_vendor(VENDOR);
            Seams { own: Box::new(Refusing(own, errno)), ..Seams::default() }
        }
    };
    let missing = place.path().join("not-mounted");
    let missing = move || Seams { own: Box::new(Efivarfs::at(&missing).of_vendor(VENDOR)), ..Seams::default() };
    [
        (
            Box::new(refusing(Errno::ENOSPC)),
            "the firmware's variable store is full: No space left on device (os error 28)",
        ),
        (
            Box::new(refusing(Errno::EROFS)),
            "the firmware's variables are read-only: Read-only file system (os error 30)",
        ),
        (Box::new(missing), "not started by UEFI, or efivarfs is not mounted: No such file or directory (os error 2)"),
    ]
}

/// The warning about a mark that cannot be set.
fn unmarked(why: &str, disk_is_next: bool) -> String {
    not_remembered(&format!("writing the EFI variable MetalstrapKexec: {why}"), disk_is_next)
}

/// The warning about a kexec without a mark.
fn not_remembered(why: &str, disk_is_next: bool) -> String {
    let end = if disk_is_next {
        "rebooting instead of kexec"
    } else {
        "kexec all the same: the firmware does not start the installed disk next, so a reboot may lead back to the installer"
    };
    format!("a kexec that fails would not be remembered: {why}; {end}")
}

#[test]
fn a_kexec_that_cannot_be_marked_is_a_reboot_where_that_starts_the_disk() {
    let place = tempfile::tempdir().unwrap();
    for (seams, why) in refusals(&place) {
        for (disk_is_next, left) in [(true, HandoffMode::Reboot), (false, HandoffMode::Kexec)] {
            let (lines, tell) = telling();
            let mut machine = machine(&tell, seams());
            machine.leaving.disk_is_next = disk_is_next;
            let (handed, host) = machine.to_hand_over(Vec::new(), &manifest(), host(Existing::Keep));
            assert_eq!((host.handoff, handed.len()), (left, 4), "{why}");
            assert_eq!(warnings(&lines), [unmarked(why, disk_is_next)]);
            // Nothing is written where the ending is another one, or the OS cannot confirm.
            lines.0.lock().unwrap().clear();
            let mut manifest = manifest();
            let wanted = Host { handoff: HandoffMode::Poweroff, ..host };
            let (handed, host) = machine.to_hand_over(Vec::new(), &manifest, wanted);
            assert_eq!((host.handoff, handed.len()), (HandoffMode::Poweroff, 0));
            manifest.boot.unconfirmed = true;
            let wanted = Host { handoff: HandoffMode::Kexec, ..host };
            let (handed, host) = machine.to_hand_over(Vec::new(), &manifest, wanted);
            assert_eq!((host.handoff, handed.len(), warnings(&lines)), (HandoffMode::Kexec, 0, vec![]));
        }
    }
}

/// Whatever the firmware takes not: it starts the disk next, by its boot order.
#[test]
fn a_full_store_of_a_machine_that_starts_its_disk_makes_a_reboot_of_kexec() {
    let (place, manifest) = (tempfile::tempdir().unwrap(), manifest());
    let at = || Efivarfs::at(place.path());
    let esp = bootvars::Partition { number: 1, start_lba: 2048, size_lba: 1_048_576, guid: Uuid::from_u128(7) };
    at().write("BootOrder", &[]).unwrap();
    // An earlier installation's entry, which the firmware has started since.
    let earlier = bootvars::install(&at(), &esp, &format!("Linux ({})", manifest.name), BootOrder::DiskFirst);
    assert_eq!((at().read("BootOrder").unwrap(), earlier.warnings), (Some(vec![0, 0]), vec![]));
    at().remove("BootNext").unwrap();

    let full = || Box::new(Refusing(at(), Errno::ENOSPC));
    let firmware = Firmware { boot: full(), loader: full(), keys: full(), database: full() };
    let ours = Box::new(Refusing(own(&place), Errno::ENOSPC));
    let (lines, tell) = telling();
    let mut machine = machine(&tell, Seams { firmware: Some(firmware), own: ours, ..Seams::default() });
    let host = Host { boot_order: BootOrder::DiskFirst, ..host(Existing::Keep) };
    let why = "the firmware's variable store is full: No space left on device (os error 28)";
    let next = format!("the next boot is not from the installed disk: writing the EFI variable BootNext: {why}");
    let seed = format!(
        "systemd-boot's random seed is not tied to this machine: writing the EFI variable LoaderSystemToken: {why}"
    );
    // Twice, as a person tries again: what the first run has left says nothing else.
    for _ in 0..2 {
        lines.0.lock().unwrap().clear();
        let entry = machine.boot_entry(&esp, &manifest, &host);
        assert_eq!((entry.name, entry.warnings), (Some("Boot0000".to_owned()), vec![next.clone()]));
        let (_, left) = machine.to_hand_over(Vec::new(), &manifest, host.clone());
        assert_eq!(left.handoff, HandoffMode::Reboot);
        assert_eq!(warnings(&lines), [next.clone(), seed.clone(), unmarked(why, true)]);
        let file = place.path().join(format!("{}-{VENDOR}", marker::NAME));
        assert_eq!(fs::read(file).unwrap(), b"", "as efivarfs leaves it");
        assert_eq!(marker::failed_before(&own(&place)), None);
    }
}

#[test]
fn a_kexec_that_the_os_could_not_confirm_is_a_reboot_where_that_starts_the_disk() {
    let (place, plain, secure) = (tempfile::tempdir().unwrap(), sysfs(&[]), with_secure_boot());
    let failing: fn() -> Result<Option<Direct>> =
        || anyhow::bail!("opening /dev/tpmrm0: Input/output error (os error 5)");
    let unit = "systemd.extra-unit.metalstrap-confirm.service".to_owned();
    let taken = vec![Sealed { name: unit, size: Some(0), bytes: Vec::new() }];
    let missing: fn() -> Result<Option<Direct>> = || Ok(None);
    let cases = [
        (&plain, missing, taken, "the host config's credentials have taken the names for that"),
        (&secure, failing, Vec::new(), "opening /dev/tpmrm0: Input/output error (os error 5)"),
        (&secure, missing, Vec::new(), "the kernel has no device for the TPM"),
    ];
    for (sys, tpm, credentials, why) in cases {
        for (disk_is_next, left) in [(true, HandoffMode::Reboot), (false, HandoffMode::Kexec)] {
            let (lines, tell) = telling();
            let mut machine = machine(&tell, Seams { own: Box::new(own(&place)), ..Seams::default() });
            machine.seams.tpm = Box::new(tpm);
            machine.seams.sys = sys.path().to_owned();
            machine.leaving.disk_is_next = disk_is_next;
            let (handed, host) = machine.to_hand_over(credentials.clone(), &manifest(), host(Existing::Keep));
            assert_eq!((host.handoff, &handed), (left, &credentials), "{why}");
            assert_eq!(warnings(&lines), [not_remembered(&format!("the OS cannot confirm it: {why}"), disk_is_next)]);
            assert_eq!(own(&place).read(marker::NAME).unwrap(), None);
        }
    }
}

#[test]
fn what_confirms_a_kexec_under_secure_boot_is_sealed_to_the_machines_tpm() {
    let (place, secure) = (tempfile::tempdir().unwrap(), with_secure_boot());
    let (ours, other) = (Arc::new(Swtpm::start()), Swtpm::start());
    let (lines, tell) = telling();
    let asked = Arc::clone(&ours);
    let seams = Seams { own: Box::new(own(&place)), sys: secure.path().to_owned(), ..Seams::default() };
    let mut machine = machine(&tell, seams);
    machine.seams.tpm = Box::new(move || Ok(Some(asked.direct())));
    let (site, manifest) = (site(&json!([])), manifest());
    machine.leaving.heed(&site);
    let (handed, host) = machine.to_hand_over(Vec::new(), &manifest, host(Existing::Keep));
    assert_eq!((host.handoff, warnings(&lines)), (HandoffMode::Kexec, vec![]));

    let mut units = confirm::units(&[], ReportTo::of(&site).as_ref(), &tell.confirmation(&manifest.root_label()));
    units.sort_by_key(|unit| Sealed::file_of(&unit.name));
    assert_eq!((units.len(), handed.len()), (4, 4));
    let url = STANDARD.encode("https://report.example/events");
    assert_eq!(units.iter().filter(|unit| unit.content.contains(&url)).count(), 2);
    for (one, unit) in handed.iter().zip(&units) {
        let name = &unit.name;
        assert_eq!((&one.name, one.size), (name, Some(unit.content.len() as u64)));
        let sealed = match unit.form {
            FileForm::Binary => one.bytes.clone(),
            _ => STANDARD.decode(one.bytes.trim_ascii_end()).unwrap(),
        };
        // The id of a key that is sealed to a TPM; systemd takes one that everybody has here too.
        assert!(sealed.starts_with(&[0x0c, 0x7c, 0xc0, 0x7b]), "{name}");
        let file = place.path().join(one.file());
        fs::write(&file, STANDARD.encode(&sealed)).unwrap();
        let output = ours.decrypt(name, &file);
        assert!(output.status.success(), "{name}: {output:?}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), unit.content, "{name}");
        assert!(!other.decrypt(name, &file).status.success(), "{name}");
    }
}

#[test]
fn the_mark_comes_when_the_links_are_down() {
    let place = tempfile::tempdir().unwrap();
    let (lines, tell) = telling();
    let before = Arc::new(Mutex::new(Vec::new()));
    let (seen, variables) = (Arc::clone(&before), own(&place));
    let links = move || {
        seen.lock().unwrap().push(marker::failed_before(&variables));
        vec!["taking eth1 down: Operation not permitted (os error 1)".to_owned()]
    };
    let seams = Seams { own: Box::new(own(&place)), links: Box::new(links), ..Seams::default() };
    let mut machine = machine(&tell, seams);
    let manifest = manifest();
    let (handed, host) = machine.to_hand_over(Vec::new(), &manifest, host(Existing::Keep));
    assert_eq!((host.handoff, handed.len(), warnings(&lines)), (HandoffMode::Kexec, 4, vec![]));
    assert_eq!(marker::failed_before(&own(&place)), None);

    assert_eq!(machine.quiesce(&manifest), Ending::Kexec);

    assert_eq!(*before.lock().unwrap(), [None::<String>]);
    assert_eq!(warnings(&lines), ["taking eth1 down: Operation not permitted (os error 1)"]);
    // The next run's plan.
    let (plan, boot) = (plan(GIB, 512, Contents::Blank), &manifest.boot);
    let (host, plan) = machine.decide_handoff(host, plan, boot, &Signatures::default());
    let text = format!(
        "this machine's last kexec, into {} by run 5b9c, was not confirmed by the OS and counts as failed (EFI variable \
         MetalstrapKexec-{VENDOR})",
        manifest.root_label()
    );
    assert_eq!((host.handoff, plan.handoff.unwrap().reasons), (HandoffMode::Reboot, vec![text]));
}

#[test]
fn a_jump_that_cannot_be_said_to_come_is_a_reboot_where_that_starts_the_disk() {
    for (disk_is_next, ending) in [(true, Ending::Reboot), (false, Ending::Kexec)] {
        let place = tempfile::tempdir().unwrap();
        let (lines, tell) = telling();
        let seams = Seams { own: Box::new(own(&place)), links: Box::new(Vec::<String>::new), ..Seams::default() };
        let mut machine = machine(&tell, seams);
        machine.leaving.disk_is_next = disk_is_next;
        let (_, host) = machine.to_hand_over(Vec::new(), &manifest(), host(Existing::Keep));
        assert_eq!((host.handoff, warnings(&lines)), (HandoffMode::Kexec, vec![]));
        // The room for it is gone.
        machine.seams.own = Box::new(Refusing(own(&place), Errno::ENOSPC));
        assert_eq!(machine.quiesce(&manifest()), ending);
        let why = "the firmware's variable store is full: No space left on device (os error 28)";
        assert_eq!(warnings(&lines), [unmarked(why, disk_is_next)]);
        assert_eq!(marker::failed_before(&own(&place)), None);
    }
}

#[test]
fn a_kexec_without_a_mark_needs_none_at_the_jump() {
    let place = tempfile::tempdir().unwrap();
    let (lines, tell) = telling();
    let own = Box::new(Refusing(own(&place), Errno::EROFS));
    let mut machine = machine(&tell, Seams { own, links: Box::new(Vec::<String>::new), ..Seams::default() });
    assert_eq!(machine.quiesce(&manifest()), Ending::Kexec);
    assert_eq!(warnings(&lines), Vec::<String>::new());
}
