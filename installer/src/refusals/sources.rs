//! Settings from outside of the site config: none says whom to believe, and what cannot be taken ends the run before anything
//! is decided by it.

use std::sync::Arc;

use serde_json::{Value, json};

use super::published::good;
use super::trial::{Outcome, Trial};
use crate::bootvars::Efivarfs;
use crate::discovery::Sources;
use crate::failure::Code;
use crate::machine::Seams;
use crate::media::tests::{Drives, USB, disc, stick};

const SETTINGS: &str = "metalstrap.repository, metalstrap.mirrors, metalstrap.report_url, metalstrap.host, \
                        metalstrap.connections, metalstrap.network_timeout, metalstrap.reboot_on_failure_after";

/// A run on a machine with these drives, and with what else stands beside their `sys`: `cmdline`, `DMI`.
pub(super) fn on(drives: Drives) -> Trial {
    let mut trial = Trial::of(&good());
    trial.changes = Arc::new(move |seams: Seams| {
        let at = |name: &str| drives.sys().with_file_name(name);
        let sources = Sources {
            command_line: at("cmdline"),
            smbios: at("DMI"),
            variables: Box::new(Efivarfs::at(&at("efivars"))),
            sys: drives.sys(),
            dev: drives.dev(),
        };
        Seams { sources: Some(sources), ..seams }
    });
    trial
}

/// With a BMC's virtual disc that has these settings.
fn with_disc(drives: Drives, settings: &[u8]) -> Drives {
    let image = disc("METALSTRAP", &[("SETTINGS.TXT;1", settings)]);
    drives.with(&format!("{USB}/sr0"), &[("device/model", "Virtual CDROM0\n")], &image)
}

fn with_disk(drives: Drives, path: &str, settings: &[u8]) -> Drives {
    let image = stick("METALSTRAP", 1440, "12", &[("SETTINGS.TXT", settings)]);
    drives.with(path, &[("device/model", "ST4000NM\n"), ("serial", "Z1\n")], &image)
}

/// What the last event of this step and state says.
fn fields(outcome: &Outcome, step: &str, state: &str) -> Value {
    let events = outcome.events();
    let mut of_step = events.iter().filter(|event| event["step"] == step && event["state"] == state);
    of_step.next_back().unwrap_or_else(|| panic!("{step} {state}"))["fields"].clone()
}

#[tokio::test]
async fn a_medium_that_says_whom_to_believe() {
    for key in ["root", "ca", "pins", "clock_floor", "time_servers"] {
        let settings = format!("metalstrap.connections=2\nmetalstrap.{key}=x\n");
        let outcome = on(with_disc(Drives::new(), settings.as_bytes())).run().await;
        let text = format!(
            "looking for settings: reading SETTINGS.TXT on sr0 (Virtual CDROM0): the labelled medium sets metalstrap.{key}, and \
             there is no such setting; there are {SETTINGS}"
        );
        outcome.before_the_plan(Code::Discovery, &text);
    }
}

#[tokio::test]
async fn a_labelled_disk_left_behind_that_poses_as_virtual_media() {
    let wipes = b"metalstrap.host=serial-OTHER\n";
    // On USB it is believed as much as the medium of today: nobody can tell which one is meant.
    let drives = with_disc(Drives::new(), b"metalstrap.connections=2\n");
    let outcome = on(with_disk(drives, &format!("{USB}/sdb"), wipes)).run().await;
    outcome.before_the_plan(
        Code::Discovery,
        "looking for settings: there may be one medium with the label METALSTRAP, and there are several: sdb (ST4000NM, serial \
         Z1); sr0 (Virtual CDROM0)",
    );
}

#[tokio::test]
async fn a_fixed_disk_with_the_label_changes_nothing() {
    let path = "pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda";
    let outcome = on(with_disk(Drives::new(), path, b"metalstrap.connections=2\nmetalstrap.root=x\n")).run().await;
    outcome.installed();
    let warning = "sda (ST4000NM, serial Z1) has the label METALSTRAP and is not believed: it is neither on USB nor removable nor \
                   optical";
    assert_eq!(fields(&outcome, "discovery", "warning"), json!({"message": warning}));
    for step in ["discovery", "plan"] {
        let settings = fields(&outcome, step, "info")["settings"].clone();
        let sources: Vec<_> = settings.as_array().unwrap().iter().map(|setting| &setting["source"]).collect();
        assert_eq!(sources, vec!["site-config"; 4], "{step}");
    }
}

#[tokio::test]
async fn a_site_config_that_ignores_media_has_none_looked_at() {
    let mut trial = on(with_disc(Drives::new(), b"metalstrap.root=x\n"));
    trial.site["ignore_media"] = true.into();
    let outcome = trial.run().await;
    outcome.installed();
    assert!(!outcome.told().contains("CDROM"), "{}", outcome.told());
}

#[tokio::test]
async fn what_a_medium_sets_is_told_with_its_name() {
    let settings = b"# Rack 7\r\nmetalstrap.connections=2\r\nmetalstrap.reboot_on_failure_after=60\r\n";
    let outcome = on(with_disc(Drives::new(), settings)).run().await;
    outcome.installed();
    let name = "sr0 (Virtual CDROM0)";
    let of_disc =
        |setting: &str, value: &str| json!({"setting": setting, "value": value, "source": "medium", "medium": name});
    for step in ["discovery", "plan"] {
        let settings = fields(&outcome, step, "info")["settings"].clone();
        let settings: Vec<_> =
            settings.as_array().unwrap().iter().filter(|setting| setting["source"] == "medium").collect();
        assert_eq!(settings, [&of_disc("connections", "2"), &of_disc("reboot_on_failure_after", "60")], "{step}");
    }
    let line = "setting connections from the labelled medium sr0 (Virtual CDROM0): 2";
    assert!(outcome.told().contains(line), "{}", outcome.told());
}

#[tokio::test]
async fn a_medium_with_a_file_that_is_not_for_us() {
    let reading = "looking for settings: reading SETTINGS.TXT on sr0 (Virtual CDROM0)";
    for (settings, problem) in [
        (
            b"repository=https://evil.test\n".to_vec(),
            "line 1 is \"repository=https://evil.test\", neither metalstrap.KEY=VALUE \
                                                      nor a comment (#)"
                .to_owned(),
        ),
        (
            b"metalstrap.repository=http://evil.test\n".to_vec(),
            "the labelled medium's metalstrap.repository is \
                                                               \"http://evil.test\", not an https:// URL"
                .to_owned(),
        ),
        (
            b"metalstrap.host=a\nmetalstrap.host=\n".to_vec(),
            "the labelled medium's metalstrap.host cannot be taken: \"a\" is no \
             host: not `default`, `uuid-…`, `serial-…` or `mac-…`; the labelled medium sets metalstrap.host twice"
                .to_owned(),
        ),
        (vec![b'#'; 40_000], "it has 40000 bytes, more than the 32768 allowed".to_owned()),
    ] {
        let outcome = on(with_disc(Drives::new(), &settings)).run().await;
        outcome.before_the_plan(Code::Discovery, &format!("{reading}: {problem}"));
    }
}
