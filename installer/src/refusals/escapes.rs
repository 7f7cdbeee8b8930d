//! Strings from outside that would steer a terminal, or a shell: whoever reads of the refusal sees them as escapes, on the
//! failure page, in the events and in the record.

use std::fs;
use std::io::{BufRead as _, BufReader};

use metalstrap_release::discovery::Setting;
use serde_json::json;

use super::published::{RELEASE, good, target_path};
use super::servers::server;
use super::sources::on;
use super::trial::{Outcome, Trial, refused};
use crate::console::Consoles;
use crate::escapes;
use crate::failure::{Code, Failure};
use crate::hold;
use crate::media::tests::Drives;
use crate::test_server::reply;

/// Sets a window's title, erases the screen, begins a line of its own, turns the direction of writing, and starts a program.
const EVIL: &str = "\u{1b}]0;owned\u{7}\u{9b}2J\r\n*** INSTALLED ***\u{202e}$(reboot)`id`";
const SHOWN: &str = "\\u{1b}]0;owned\\u{7}\\u{9b}2J\\r\\n*** INSTALLED ***\\u{202e}$(reboot)`id`";

/// What the terminal of the person at the machine gets of the failure page.
fn on_a_terminal(failure: &Failure) -> Vec<String> {
    let (consoles, person) = Consoles::pty();
    hold::show(&consoles, failure);
    let mut lines = Vec::new();
    // The terminal itself adds the carriage returns.
    for line in BufReader::new(person).lines() {
        lines.push(line.unwrap());
        if lines.last().is_some_and(|line| line.starts_with("More about it:")) {
            break;
        }
    }
    lines
}

/// Neither the page nor an event has the strings as they came.
async fn is_shown_as_escapes(outcome: &Outcome) {
    let failure = outcome.failure();
    let page = on_a_terminal(&failure);
    assert!(page.iter().all(|line| *line == escapes::line(line)), "{page:?}");
    assert!(page.contains(&format!("What happened: {}", failure.happened)), "{page:?}");
    let (_, events) = outcome.reported().await;
    let last = events.last().unwrap();
    assert_eq!((&last["step"], &last["state"]), (&json!("run"), &json!("failed")));
    for event in events.iter().filter(|event| event["state"] == "failed") {
        for text in ["happened", "error"].map(|field| event["fields"][field].as_str().unwrap_or_default()) {
            assert_eq!(text, escapes::line(text));
        }
    }
}

fn settings() -> String {
    Setting::ALL.map(|setting| format!("metalstrap.{setting}")).join(", ")
}

/// A machine whose SMBIOS table has this one string of its maker's.
fn with_smbios(text: &[u8]) -> Drives {
    let drives = Drives::new();
    let table = [[11, 5, 0, 0, 1].as_slice(), text, &[0, 0, 127, 4, 1, 0, 0, 0]].concat();
    fs::write(drives.sys().with_file_name("DMI"), table).unwrap();
    drives
}

#[tokio::test]
async fn strings_of_smbios_with_terminal_escapes() {
    let prefix = "io.systemd.credential:metalstrap.";
    // An eight-bit control sequence introducer on its own is no UTF-8.
    let unknown = [prefix.as_bytes(), b"ho\x9b", EVIL.as_bytes(), b"=x"].concat();
    let value = [prefix, "host=", EVIL].concat().into_bytes();
    for (text, problem) in [
        (
            unknown,
            format!(" sets metalstrap.ho\u{fffd}{SHOWN}, and there is no such setting; there are {}", settings()),
        ),
        (value, "'s metalstrap.host holds something else than printable ASCII characters".to_owned()),
    ] {
        let outcome = on(with_smbios(&text)).run().await;
        outcome.before_the_plan(Code::Discovery, &format!("looking for settings: the SMBIOS table{problem}"));
        is_shown_as_escapes(&outcome).await;
    }
}

#[tokio::test]
async fn words_of_the_command_line_with_terminal_escapes() {
    let drives = Drives::new();
    let line = format!("panic=30 \"metalstrap.{EVIL}=x\"\n");
    fs::write(drives.sys().with_file_name("cmdline"), line).unwrap();
    let outcome = on(drives).run().await;
    let text = format!(
        "looking for settings: the kernel command line sets metalstrap.{SHOWN}, and there is no such setting; there are {}",
        settings()
    );
    outcome.before_the_plan(Code::Discovery, &text);
    is_shown_as_escapes(&outcome).await;
}

#[tokio::test]
async fn names_in_metadata_with_terminal_escapes() {
    let name = format!("{EVIL}/..");
    let outcome = refused(|mut published| {
        published.edit("targets", |signed| signed["targets"] = json!({}));
        published.set_target("targets", &name, b"{}");
        published
    });
    let outcome = outcome.await;
    // An empty name ends at column 709; both counts have the quotes.
    let column = 709 + serde_json::to_string(&name).unwrap().len() - 2;
    let text = format!(
        "checking the repository's metadata: REPOSITORY: metadata/1.targets.json is not valid: The target name '{SHOWN}/..' is \
         unsafe. Interpreting it as a path would lead to an empty filename at line 1 column {column}"
    );
    outcome.before_the_plan(Code::Metadata, &text);
    is_shown_as_escapes(&outcome).await;
}

#[tokio::test]
async fn an_error_page_of_a_server_with_terminal_escapes() {
    let published = good();
    let path = target_path(RELEASE, &serde_json::to_vec(&published.manifest).unwrap());
    let failing = path.clone();
    let answer = move |path: &str, _: usize, right| {
        if path == failing { reply("403 Forbidden", EVIL.as_bytes()) } else { right }
    };
    let server = server(&published, answer).await;
    let outcome = Trial::at(&published, &server).run().await;
    let text = format!("fetching the manifest: fetching REPOSITORY/{path}: the server answered 403 Forbidden");
    outcome.before_the_plan(Code::Repository, &text);
    is_shown_as_escapes(&outcome).await;
}
