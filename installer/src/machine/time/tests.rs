use serde_json::Value;

use super::*;
use crate::clock::tests::Boot;
use crate::config::Place;
use crate::eventlog::Measurer;
use crate::machine::Seams;
use crate::refusals::published;
use crate::report::tests::Lines;
use crate::resolve::Servers;
use crate::test_server::{TestServer, reply, serve};

/// 2090-01-01 00:00:00 UTC: when the image was built, so late that the real clock of whoever runs this is before it.
const BUILT: i64 = 3_786_912_000;
/// 2092-06-01 12:00:00 UTC, and a header that says so.
const JUNE: i64 = 3_863_160_000;
const SAYS_JUNE: &str = "Date: Sun, 01 Jun 2092 12:00:00 GMT";

impl Lines {
    /// The fields of the events with this state.
    fn events(&self, state: &str) -> Vec<Value> {
        let lines = self.0.lock().unwrap();
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        events
            .filter(|event| event["step"] == "clock" && event["state"] == state)
            .map(|event| event["fields"].clone())
            .collect()
    }
}

/// A machine in the netboot image, as far as it concerns its clock.
fn machine<'a>(place: &'a Place, tell: &'a Reporter, clock: Option<Clock>) -> Machine<'a> {
    Machine::new(place, tell, Measurer::off(), clock, Seams::default())
}

/// A repository's server that has nothing, with a certificate that is valid from one New Year to another.
async fn server(from: i32, to: i32) -> TestServer {
    let adjust = move |params: &mut rcgen::CertificateParams| {
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(to, 1, 1);
    };
    serve(adjust, |_, _| reply(&format!("404 Not Found\r\n{SAYS_JUNE}"), b"")).await
}

fn site(server: &TestServer) -> Site {
    let root: Value = serde_json::from_slice(&published::good().files["metadata/1.root.json"]).unwrap();
    let repository = format!("https://127.0.0.1:{}/os", server.port);
    Site::parse(json!({"format": 1, "repository": repository, "root": root, "ca": server.ca}).to_string().as_bytes())
        .unwrap()
}

#[tokio::test]
async fn what_the_clock_rests_on_is_told() {
    let (boot, lines, server) = (Boot::showing(10), Lines::default(), server(2080, 2095).await);
    let tell = Reporter::new("r".into(), Box::new(lines.clone()), None);
    let mut machine = machine(&Place::Netboot, &tell, Some(boot.run_of(&BUILT.to_string()).unwrap()));
    machine.ask_time(&site(&server), &Resolver::learnt(Servers::default())).await;
    assert_eq!(boot.wall.shows(), JUNE);
    let time = "2092-06-01 12:00:00 UTC";
    let said = json!({"server": "127.0.0.1", "says": time});
    let expected = json!({"source": "server-date", "time": time, "offset": JUNE - 10, "servers": [], "date": said});
    assert_eq!(lines.events("info"), [expected]);
    assert!(lines.0.lock().unwrap().contains(&format!("clock: {time} by the date that 127.0.0.1 sends")));

    machine.set_hardware_clock();
    let set = json!({"hardware_clock_was": "1970-01-01 00:00:10 UTC", "hardware_clock_set_to": time});
    assert_eq!(lines.events("info")[1..], [set]);
}

#[tokio::test]
async fn nothing_of_it_happens_on_a_running_system() {
    let (lines, server) = (Lines::default(), server(2080, 2095).await);
    let tell = Reporter::new("r".into(), Box::new(lines.clone()), None);
    let mut machine = machine(&Place::Netboot, &tell, None);
    machine.ask_time(&site(&server), &Resolver::learnt(Servers::default())).await;
    machine.set_hardware_clock();
    assert_eq!((lines.0.lock().unwrap().len(), server.connections()), (0, 0));
}

/// What a machine whose hardware clock can be right does with a certificate that the system's clock refuses: the refusal, how
/// often it has connected, and what its clock shows then.
async fn refused(own: i64, from: i32, to: i32) -> (String, usize, i64) {
    let (boot, lines, server) = (Boot::showing(own), Lines::default(), server(from, to).await);
    let tell = Reporter::new("r".into(), Box::new(lines), None);
    let mut machine = machine(&Place::Netboot, &tell, Some(boot.run_of(&BUILT.to_string()).unwrap()));
    let (site, resolver) = (site(&server), Resolver::learnt(Servers::default()));
    let source = machine.repository(&site, &resolver).unwrap();
    let error = machine.load_repository(source, &site, &resolver, &[]).await.unwrap_err();
    assert_eq!(code_of(&error), Code::Certificate);
    (format!("{error:#}"), server.connections(), boot.wall.shows())
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_yet_is_judged_again_by_the_servers_date() {
    // The system's clock is the real one, which the fake clock of this machine does not set: so it is refused once more. Its
    // connections: refused, refused by the machine's clock, good at its first second, good at the date, refused.
    let (text, connections, shows) = refused(BUILT, 2091, 2095).await;
    assert!(text.contains("is valid only from 2091-01-01 00:00:00 UTC"), "{text}");
    assert_eq!((connections, shows), (5, JUNE));
}

#[tokio::test]
async fn a_certificate_that_has_expired_stays_refused() {
    let (text, connections, shows) = refused(BUILT, 2019, 2020).await;
    assert!(text.contains("expired on 2020-01-01 00:00:00 UTC"), "{text}");
    assert_eq!((connections, shows), (2, BUILT));
}
