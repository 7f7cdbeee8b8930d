//! The shell's words are run by a shell, with a curl that says how it was called.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::*;

fn taken(name: &str) -> Sealed {
    Sealed { name: name.to_owned(), size: Some(0), bytes: Vec::new() }
}

#[test]
fn the_units_are_no_others_of_the_os() {
    let names = |taken: &[Sealed]| units(taken, None, "{}\n").into_iter().map(|unit| unit.name).collect::<Vec<_>>();
    let unit = "systemd.extra-unit.metalstrap-confirm.service";
    let drop_in = "systemd.unit-dropin.multi-user.target~metalstrap-confirm";
    let encoded = [
        "systemd.extra-unit.metalstrap-confirm-encoded.service",
        "systemd.unit-dropin.multi-user.target~metalstrap-confirm-encoded",
    ];
    let all = [unit, drop_in, encoded[0], encoded[1]];
    assert_eq!(names(&[taken("systemd.unit-dropin.multi-user.target")]), all);
    for one in all {
        assert_eq!(names(&[taken(one)]), [""; 0]);
    }
}

/// systemd before and after the correction of issue 43621 reads one of both each; of one that reads both, one runs.
#[test]
fn the_units_come_in_the_two_forms_of_which_an_os_reads_one() {
    let all = units(&[], None, "{}\n");
    let forms: Vec<_> = all.iter().map(|unit| unit.form).collect();
    assert_eq!(forms, [FileForm::Binary, FileForm::Binary, FileForm::Base64, FileForm::Base64]);
    let line = |unit: &Unit, start: &str| -> Vec<String> {
        unit.content.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    };
    let [binary, wants_binary, encoded, wants_encoded] = <[Unit; 4]>::try_from(all).unwrap();
    assert_eq!(wants_binary.content, "[Unit]\nWants=metalstrap-confirm.service\n");
    assert_eq!(wants_encoded.content, "[Unit]\nWants=metalstrap-confirm-encoded.service\n");
    assert_eq!(line(&binary, "After="), ["After=multi-user.target"]);
    assert_eq!(line(&encoded, "After="), ["After=multi-user.target metalstrap-confirm.service"]);
    for unit in [&binary, &encoded] {
        assert_eq!(
            line(unit, "RuntimeDirectory"),
            ["RuntimeDirectory=metalstrap-confirm", "RuntimeDirectoryPreserve=yes"]
        );
        let conditions = ["ConditionPathExists=!/etc/initrd-release", "ConditionPathExists=!/run/metalstrap-confirm"];
        assert_eq!(line(unit, "Condition"), conditions);
    }
    assert_eq!(line(&binary, "Exec"), line(&encoded, "Exec"));
}

#[test]
fn nothing_from_outside_stands_in_the_unit() {
    let hostile = "https://report.test/'$(reboot)`id`%n\"";
    let to = ReportTo { url: hostile.to_owned(), ca: "'\n%H$HOME".to_owned(), pins: vec!["sha256//AA+/=".to_owned()] };
    let [Unit { content: unit, .. }, ..]: [Unit; 4] = units(&[], Some(&to), "{\"a\":\"'$(id)\"}\n").try_into().unwrap();
    for foreign in ["reboot", "report.test", "HOME", "$(id)"] {
        assert!(!unit.contains(foreign), "{unit}");
    }
    // What would mean something to systemd in such a line.
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=-:/bin/sh -c ")).unwrap();
    assert_eq!(command.matches('\'').count(), 2, "{command}");
    assert!(command.starts_with('\'') && command.ends_with('\'') && !command.contains(['%', '\\']), "{command}");
    let environment = unit.lines().find(|line| line.starts_with("Environment=")).unwrap();
    assert!(
        environment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/= \";".contains(&byte)),
        "{environment}"
    );
}

/// Runs what the unit runs to tell, and returns the arguments of curl, one a line, and what it was given to send.
fn told(to: &ReportTo, event: &str) -> (Vec<String>, String) {
    let place = tempfile::tempdir().unwrap();
    let curl = place.path().join("curl");
    // Not written by this process: a child of another test that is between fork and exec would have a copy of the descriptor, and
    // what is open for writing is not executed.
    let script = "#!/bin/sh\nprintf '%s\\n' \"$@\" >args\n";
    let write = "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"";
    assert!(Command::new("/bin/sh").args(["-c", write]).arg(&curl).arg(script).status().unwrap().success());
    let path = format!("{}:{}", place.path().display(), std::env::var("PATH").unwrap());
    let environment = [("EVENT", event), ("URL", to.url.as_str()), ("CA", to.ca.as_str())];
    let status = Command::new("/bin/sh")
        .args(["-c", TELL])
        .envs(environment.map(|(name, text)| (name, STANDARD.encode(text))))
        .env("PINS", to.pins.join(";"))
        .env("PATH", path)
        .env("RUNTIME_DIRECTORY", place.path())
        .status();
    assert!(status.unwrap().success());
    let read = |name: &str| fs::read_to_string(place.path().join(name)).unwrap_or_default();
    (read("args").lines().map(str::to_owned).collect(), read("event"))
}

#[test]
fn the_event_is_posted_to_whoever_the_site_config_believes() {
    let url = "https://report.test/a'b?c=$(id)&d=[1-2]";
    let to = ReportTo { url: url.to_owned(), ca: "CA".to_owned(), pins: Vec::new() };
    let event = "{\"metalstrap\":1,\"state\":\"confirmed\"}\n";
    let (arguments, sent) = told(&to, event);
    assert_eq!(sent, event);
    assert_eq!(arguments.last().unwrap(), url);
    assert!(arguments.windows(2).any(|pair| pair == ["--cacert", "ca"]), "{arguments:?}");
    assert!(arguments.windows(2).any(|pair| pair == ["--data-binary", "@event"]), "{arguments:?}");
    assert!(arguments.iter().all(|argument| argument != "--insecure" && argument != "--pinnedpubkey"), "{arguments:?}");

    let to = ReportTo { ca: String::new(), pins: vec!["sha256//A=".into(), "sha256//B=".into()], ..to };
    let (arguments, _) = told(&to, event);
    assert!(arguments.windows(2).any(|pair| pair == ["--pinnedpubkey", "sha256//A=;sha256//B="]), "{arguments:?}");
    assert!(arguments.contains(&"--insecure".to_owned()), "{arguments:?}");

    assert_eq!(told(&ReportTo::default(), event), (Vec::new(), String::new()));
}

#[test]
fn both_variables_go_and_no_others() {
    let place = tempfile::tempdir().unwrap();
    let marker = format!("{}-{VENDOR}", marker::NAME);
    let next = format!("{BOOT_NEXT}-{GLOBAL}");
    let clear = |there: &[&str]| {
        there.iter().for_each(|name| fs::write(place.path().join(name), "").unwrap());
        let script = clear_in(place.path().to_str().unwrap());
        assert!(Command::new("/bin/sh").args(["-c", &script]).status().unwrap().success());
        let left = fs::read_dir(Path::new(place.path())).unwrap();
        left.map(|file| file.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
    };
    let order = format!("BootOrder-{GLOBAL}");
    assert_eq!(clear(&[&marker, &next, &order]), [order.as_str()]);
    assert_eq!(clear(&[&next]), [order.as_str()]);
    assert_eq!(clear(&[]), [order.as_str()]);
}
