//! A kexec and its mark, with firmware that takes variables and with such that does not; and what comes right before the jump.

use std::sync::{Arc, Mutex};

use metalstrap_release::host::Existing;
use nix::errno::Errno;
use tempfile::TempDir;

use super::*;
use crate::bootvars::Efivarfs;
use crate::bootvars::variables::tests::Refusing;
use crate::config::Place;
use crate::eventlog::Measurer;
use crate::inventory::Contents;
use crate::machine::Seams;
use crate::plan::tests::{GIB, host, manifest, plan};
use crate::remembered::VENDOR;
use crate::report::Reporter;
use crate::report::tests::Lines;

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
    let end = if disk_is_next {
        "rebooting instead of kexec"
    } else {
        "kexec all the same: the firmware does not start the installed disk next, so a reboot may lead back to the installer"
    };
    format!("a kexec that fails would not be remembered: writing the EFI variable MetalstrapKexec: {why}; {end}")
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
            assert_eq!((host.handoff, handed.len()), (left, 2), "{why}");
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
    assert_eq!((host.handoff, handed.len(), warnings(&lines)), (HandoffMode::Kexec, 2, vec![]));
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
