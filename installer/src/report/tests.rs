use std::io::{BufRead as _, BufReader};
use std::time::Duration;

use serde_json::json;

use super::*;
use crate::access::Access;
use crate::console::Consoles;
use crate::ending::Message;
use crate::post::Poster;
use crate::resolve::{Resolver, Servers};
use crate::screen::{ConsoleScreen, Events};
use crate::test_server::{reply, serve};

/// Keeps lines and events in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(pub(crate) Arc<Mutex<Vec<String>>>);

impl Screen for Lines {
    fn line(&self, text: &str) {
        self.0.lock().unwrap().push(text.to_owned());
    }
    fn progress(&self, _text: &str) {}
    fn event(&self, json: &str) {
        self.0.lock().unwrap().push(json.to_owned());
    }
}

#[test]
fn a_failed_step_is_told_and_names_itself_in_the_error() {
    let lines = Lines::default();
    let tell = Reporter::new("r".into(), Box::new(lines.clone()), None);
    let error = tell.step("plan", "Planning the disk", |_| -> Result<()> { anyhow::bail!("too small") }).unwrap_err();
    assert_eq!(format!("{error:#}"), "planning the disk: too small");
    let lines = lines.0.lock().unwrap();
    let events: Vec<Value> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let states: Vec<&str> = events.iter().filter_map(|event| event["state"].as_str()).collect();
    assert_eq!(states, ["started", "failed"]);
    assert_eq!(events[1]["sequence"], 1);
    assert_eq!(events[1]["fields"]["error"], "too small");
    assert!(lines[0].starts_with("{\"metalstrap\":1,\"run\":\"r\",\"sequence\":0,\"at\":0"), "{}", lines[0]);
    let seconds = lines[1].split("Planning the disk: failed after ").nth(1).and_then(|rest| rest.strip_suffix(" s"));
    assert!(seconds.is_some_and(|seconds| seconds.parse::<f64>().is_ok()), "{}", lines[1]);
}

#[test]
fn a_console_that_is_not_there_is_told_where_people_look() {
    let (consoles, person) = Consoles::pty();
    let tell = Reporter::new("r".into(), Box::new(ConsoleScreen::new(consoles, Events::Nowhere)), None);
    tell.show_on(&[]);
    tell.show_on(&["nosuch7".to_owned()]);
    let mut line = String::new();
    BufReader::new(person).read_line(&mut line).unwrap();
    assert_eq!(line, "warning: the site config's console nosuch7 is no terminal of this machine\r\n");
    assert_eq!(tell.outbox().waiting(), 1);
}

/// It is what the supervisor has to go by when the installer dies.
#[test]
fn the_supervisor_hears_with_each_step_how_far_the_run_got_with_the_disk() {
    let pipe = EndingPipe::nowhere();
    let tell = Reporter::new("r".into(), Box::new(Lines::default()), Some(pipe.clone()));
    let beside = Touched::Beside("vda".into(), "debian_13.1".into());
    let complete = Touched::Complete("vda".into());
    tell.step("lock", "Locking the disk", |_| Ok(())).unwrap();
    tell.touches(beside.clone());
    tell.step("esp", "Writing boot loader and UKI", |_| Ok(())).unwrap();
    tell.touches(complete.clone());
    tell.step("attestation", "Attesting the machine", |_| Ok(())).unwrap();
    let step = |step: &str, touched: &Touched| Message::Step { step: step.to_owned(), touched: touched.clone() };
    let expected = [
        step("lock", &Touched::Nothing),
        step("lock", &beside),
        step("esp", &beside),
        step("esp", &complete),
        step("attestation", &complete),
    ];
    assert_eq!(pipe.told(), expected);
}

#[test]
fn every_event_is_kept_for_the_report() {
    let tell = Reporter::new("r".into(), Box::new(Lines::default()), None);
    tell.step("plan", "Planning the disk", |_| Ok(())).unwrap();
    tell.warn("boot-entry", "NVRAM is full");
    assert_eq!(tell.outbox().waiting(), 3);
}

#[tokio::test]
async fn what_is_only_posted_is_shown_nowhere() {
    let server = serve(|_| {}, |_, _| reply("200 OK", b"")).await;
    let lines = Lines::default();
    let tell = Reporter::new("r".into(), Box::new(lines.clone()), None);
    let posted = fields([("firmware_log", "AAAA".into())]);
    tell.tell_and_post("run", "finished", fields([("release", "tiny_1".into())]), [posted, Map::new()]);
    tell.tell("run", "info", Map::new());
    let url = format!("https://127.0.0.1:{}/report", server.port);
    let poster = Poster::new(&url, Access::of_ca(&server.ca).unwrap(), Resolver::learnt(Servers::default())).unwrap();
    tell.outbox().start(poster);
    tell.outbox().settle(Duration::from_secs(30)).await.unwrap();
    let requests = server.requests();
    let events = |text: &str| text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>();
    let sent = events(requests[0].split_once("\r\n\r\n").unwrap().1);
    let shown = events(&lines.0.lock().unwrap().join("\n"));
    assert_eq!(shown[0]["fields"], json!({"release": "tiny_1"}));
    assert_eq!(sent[0]["fields"], json!({"release": "tiny_1", "firmware_log": "AAAA"}));
    let numbers = |events: &[Value]| events.iter().map(|event| event["sequence"].clone()).collect::<Vec<_>>();
    assert_eq!((numbers(&shown), numbers(&sent)), (vec![json!(0), json!(1)], vec![json!(0), json!(1)]));
    assert_eq!(shown[1], sent[1]);
}

#[tokio::test]
async fn what_no_server_takes_is_left_out() {
    let answer = |_, request: &str| reply(if request.len() > 4096 { "413 Payload Too Large" } else { "200 OK" }, b"");
    let server = serve(|_| {}, answer).await;
    let tell = Reporter::new("r".into(), Box::new(Lines::default()), None);
    let posted = fields([("firmware_log", "A".repeat(8192).into())]);
    let instead = fields([("firmware_log_left_out", "no server took it".into())]);
    tell.tell_and_post("run", "finished", fields([("release", "tiny_1".into())]), [posted, instead]);
    let url = format!("https://127.0.0.1:{}/report", server.port);
    let poster = Poster::new(&url, Access::of_ca(&server.ca).unwrap(), Resolver::learnt(Servers::default())).unwrap();
    tell.outbox().start(poster);
    tell.outbox().settle(Duration::from_secs(30)).await.unwrap();
    let requests = server.requests();
    let sent: Value = serde_json::from_str(requests.last().unwrap().split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(requests.len(), 3);
    assert_eq!(sent["fields"], json!({"release": "tiny_1", "firmware_log_left_out": "no server took it"}));
}

#[test]
fn texts_from_outside_come_as_escapes() {
    let lines = Lines::default();
    let tell = Reporter::new("r".into(), Box::new(lines.clone()), None);
    let evil = "\u{1b}]0;owned\u{7}\u{9b}\r\n\u{202e}";
    let shown = "\\u{1b}]0;owned\\u{7}\\u{9b}\\r\\n\\u{202e}";
    tell.warn("discovery", evil);
    tell.drops("https://mirror.test", evil);
    tell.step("plan", "Planning the disk", |_| -> Result<()> { anyhow::bail!("{evil}") }).unwrap_err();
    assert_eq!(tell.mirrors_dropped(), [format!("https://mirror.test: {shown}")]);
    // What is no text for people stays what it is, in JSON that a terminal can have.
    tell.tell("plan", "info", fields([("label", evil.into())]));
    let lines = lines.0.lock().unwrap();
    assert!(!lines.iter().any(|line| line.chars().any(|c| c.is_control() || c == '\u{202e}')), "{lines:?}");
    assert_eq!(lines[0], format!("warning: {shown}"));
    let events: Vec<Value> = lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let texts: Vec<_> =
        events.iter().flat_map(|event| [&event["fields"]["message"], &event["fields"]["error"]]).collect();
    let dropped = format!("mirror https://mirror.test is dropped: {shown}");
    let expected = [json!(shown), json!(dropped), json!(shown)];
    assert_eq!(
        texts.into_iter().filter(|text| text.is_string()).collect::<Vec<_>>(),
        expected.iter().collect::<Vec<_>>()
    );
    assert_eq!(events.last().unwrap()["fields"]["label"], evil);
    assert!(lines.last().unwrap().contains(r"\u001b]0;owned\u0007\u009b\r\n\u202e"), "{lines:?}");
}
