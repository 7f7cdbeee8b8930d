//! What speaks against kexec on a made-up machine: the site config's list, and a watchdog that cannot be stopped.

use metalstrap_release::discovery::Discovery;

use super::*;

/// A watchdog that can be stopped, and one that cannot.
const STOPS: &str = "0\n";
const RUNS_ON: &str = "1\n";

/// The reason of a machine with the latter, which nobody would feed.
const UNFED: &str = "the watchdog cannot be stopped (nowayout), and the release does not say that its OS feeds it \
                     (`metalstrap publish --watchdog`)";

/// The sysfs of a server with one PCI device, and this word about its watchdog.
fn server(nowayout: &str) -> TempDir {
    sysfs(&[
        ("class/dmi/id/sys_vendor", "HPE\n"),
        ("class/dmi/id/product_name", "ProLiant DL380 Gen10\n"),
        ("bus/pci/devices/0000:12:00.0/vendor", "0x15b3\n"),
        ("bus/pci/devices/0000:12:00.0/device", "0x1017\n"),
        ("bus/pci/devices/0000:12:00.0/class", "0x020000\n"),
        ("class/watchdog/watchdog0/nowayout", nowayout),
    ])
}

/// What is decided of a kexec on that server, and why, once it has learnt its settings. The OS feeds the watchdog if it gets
/// so many seconds, or does not.
fn decided(nowayout: &str, feeds: Option<u32>, learn: impl FnOnce(&mut Machine<'_>)) -> (HandoffMode, Vec<String>) {
    let (place, server) = (tempfile::tempdir().unwrap(), server(nowayout));
    let (lines, tell) = telling();
    let seams = Seams { own: Box::new(own(&place)), sys: server.path().to_owned(), ..Seams::default() };
    let mut machine = machine(&tell, seams);
    learn(&mut machine);
    let boot = Boot { watchdog: feeds, ..manifest().boot };
    let (host, plan) = (host(Existing::Keep), plan(GIB, 512, Contents::Blank));
    let (host, plan) = machine.decide_handoff(host, plan, &boot, &Signatures::default());
    let Decision { ending, reasons } = plan.handoff.unwrap();
    assert_eq!(host.handoff, ending);
    let complaint = (!reasons.is_empty()).then(|| format!("reboot instead of kexec: {}", reasons.join("; ")));
    assert_eq!(warnings(&lines), Vec::from_iter(complaint));
    (ending, reasons)
}

/// The reason of a server that is denied a kexec by this.
fn denied_by(what: &str) -> String {
    format!("kexec_deny of the site config names this machine: {what}")
}

#[test]
fn a_model_or_a_pci_device_that_is_denied_a_kexec_is_rebooted() {
    let cases = [
        (json!({"vendor": "HPE", "product": "ProLiant DL3*"}), "vendor \"HPE\", product \"ProLiant DL3*\""),
        (json!({"product": "ProLiant DL380 Gen10"}), "product \"ProLiant DL380 Gen10\""),
        (json!({"pci": "15b3:1017"}), "PCI device \"15b3:1017\""),
        (json!({"pci": "15b3:*"}), "PCI device \"15b3:*\""),
    ];
    for (entry, what) in cases {
        let site = site(&json!([entry]));
        let found = decided(STOPS, None, |machine| machine.leaving.heed(&site));
        assert_eq!(found, (HandoffMode::Reboot, vec![denied_by(what)]));
    }
}

#[test]
fn a_watchdog_that_runs_on_and_that_the_os_does_not_take_over_makes_it_a_reboot() {
    assert_eq!(decided(RUNS_ON, None, |_| {}), (HandoffMode::Reboot, vec![UNFED.to_owned()]));
    let site = site(&json!([{"pci": "15b3:*"}]));
    let found = decided(RUNS_ON, None, |machine| machine.leaving.heed(&site));
    assert_eq!(found, (HandoffMode::Reboot, vec![denied_by("PCI device \"15b3:*\""), UNFED.to_owned()]));
}

#[test]
fn nothing_of_that_is_a_kexec() {
    let site = site(&json!([{"vendor": "Dell Inc."}, {"vendor": "HPE", "pci": "8086:*"}]));
    for (nowayout, feeds) in [(STOPS, None), (RUNS_ON, Some(60))] {
        let found = decided(nowayout, feeds, |machine| machine.leaving.heed(&site));
        assert_eq!(found, (HandoffMode::Kexec, vec![]));
    }
}

#[test]
fn what_the_site_config_denies_holds_when_the_settings_are_settled() {
    let site = site(&json!([{"vendor": "HPE"}]));
    let found = decided(STOPS, None, |machine| drop(machine.settle(Discovery::new(site))));
    assert_eq!(found, (HandoffMode::Reboot, vec![denied_by("vendor \"HPE\"")]));
}
