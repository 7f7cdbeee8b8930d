//! Servers that are not believed, and servers that answer with errors.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rcgen::{CertificateParams, SanType, date_time_ymd};

use super::published::{HOST, Published, RELEASE, good, host, payload_path, target_path};
use super::trial::{Outcome, Trial, short};
use crate::clock;
use crate::failure::Code;
use crate::test_server::{Reply, TestServer, asked_path, asked_range, partial, reply, serve};

const METADATA: &str = "checking the repository's metadata";
const CERTIFICATE: &str =
    "checking the repository's metadata: fetching REPOSITORY/metadata/2.root.json: the certificate of 127.0.0.1 ";

/// What a right server answers.
pub fn answer(files: &BTreeMap<String, Vec<u8>>, request: &str) -> Reply {
    let path = asked_path(request).strip_prefix("os/").unwrap();
    match files.get(path) {
        None => reply("404 Not Found", b""),
        Some(content) if asked_range(request).is_some() => partial(content, request),
        Some(content) => reply("200 OK", content),
    }
}

/// A server that answers the requests for which `other` says so in another way. It is told path, number among the
/// requests for this path, and the right answer.
pub async fn server(
    published: &Published,
    other: impl Fn(&str, usize, Reply) -> Reply + Send + Sync + 'static,
) -> TestServer {
    let files = published.files.clone();
    let asked = Mutex::<BTreeMap<String, usize>>::default();
    serve(
        |_| {},
        move |_, request| {
            let path = asked_path(request).strip_prefix("os/").unwrap().to_owned();
            let number = {
                let mut asked = asked.lock().unwrap();
                let count = asked.entry(path.clone()).or_default();
                *count += 1;
                *count
            };
            other(&path, number, answer(&files, request))
        },
    )
    .await
}

/// How often a server was asked for `path`.
pub fn times(server: &TestServer, path: &str) -> usize {
    server.requests().iter().filter(|request| asked_path(request) == format!("os/{path}")).count()
}

#[tokio::test]
async fn a_right_server_installs() {
    let server = server(&good(), |_, _, right| right).await;
    Trial::at(&good(), &server).run().await.installed();
}

async fn with_certificate(adjust: impl FnOnce(&mut CertificateParams)) -> (Outcome, usize) {
    let published = good();
    let files = published.files.clone();
    let server = serve(adjust, move |_, request| answer(&files, request)).await;
    let outcome = Trial::at(&published, &server).run().await;
    assert!(server.requests().is_empty());
    (outcome, server.connections())
}

#[tokio::test]
async fn a_server_with_a_certificate_of_another_ca_is_not_asked() {
    let published = good();
    let mut server = server(&published, |_, _, right| right).await;
    server.ca = serve(|_| {}, |_, _| reply("200 OK", b"")).await.ca;
    let text = format!("{CERTIFICATE}is not from a CA that the site config names");
    Trial::at(&published, &server).run().await.before_the_plan(Code::Certificate, &text);
    assert_eq!((server.requests().len(), server.connections()), (0, 1));
}

#[tokio::test]
async fn a_server_with_an_expired_certificate_or_another_name_is_not_asked() {
    let before = clock::now();
    let (outcome, connections) = with_certificate(|params| params.not_after = date_time_ymd(2020, 2, 29)).await;
    assert_eq!(connections, 1);
    let text = |now| {
        let now = clock::utc(now);
        format!("{CERTIFICATE}expired on 2020-02-29 00:00:00 UTC; this machine's clock shows {now}")
    };
    let happened = outcome.failure().happened;
    let expected = (before..=clock::now()).map(text).find(|text| *text == happened).unwrap_or_else(|| text(before));
    outcome.before_the_plan(Code::Certificate, &expected);
    let (outcome, connections) = with_certificate(|params| {
        params.subject_alt_names = vec![SanType::DnsName("mirror.example".try_into().unwrap())];
    })
    .await;
    assert_eq!(connections, 1);
    outcome.before_the_plan(Code::Certificate, &format!("{CERTIFICATE}is for mirror.example, not for 127.0.0.1"));
}

/// A file of each kind, what is done where it is fetched, and whether that is before the plan.
fn stages(published: &Published) -> [(String, &'static str, bool); 4] {
    let manifest = serde_json::to_vec(&published.manifest).unwrap();
    let host = serde_json::to_vec(&host()).unwrap();
    [
        ("metadata/timestamp.json".to_owned(), METADATA, true),
        (target_path(HOST, &host), "fetching the host config", true),
        (target_path(RELEASE, &manifest), "fetching the manifest", true),
        (payload_path(&published.manifest.filesystems[0].data), "writing the root file system", false),
    ]
}

/// The refusal when every request for one file gets `status`, and how often it was asked for.
async fn with_status(path: &str, status: &'static str) -> (Outcome, usize) {
    let failing = path.to_owned();
    let published = good();
    let server =
        server(&published, move |path, _, right| if path == failing { reply(status, b"no") } else { right }).await;
    let outcome = Trial::at(&published, &server).run().await;
    (outcome, times(&server, path))
}

#[tokio::test]
async fn errors_that_stay_are_asked_once() {
    for status in ["404 Not Found", "403 Forbidden"] {
        for (path, doing, before) in stages(&good()) {
            let (outcome, times) = with_status(&path, status).await;
            assert_eq!(times, 1, "{status} {path}");
            let text = format!("{doing}: fetching REPOSITORY/{path}: the server answered {status}");
            match before {
                // Object stores answer 403 for what is not there.
                true if doing == METADATA => {
                    let text = format!("{METADATA}: REPOSITORY: the repository has no {path}, or does not give it out");
                    outcome.before_the_plan(Code::Metadata, &text);
                }
                true => outcome.before_the_plan(Code::Repository, &text),
                false => outcome.after_the_plan(Code::Repository, &text),
            }
        }
    }
}

#[tokio::test]
async fn errors_that_may_pass_are_asked_again_and_then_said() {
    for status in ["500 Internal Server Error", "503 Service Unavailable\r\nRetry-After: 3600"] {
        for (path, doing, before) in stages(&good()) {
            let (outcome, times) = with_status(&path, status).await;
            assert_eq!(times, 3, "{status} {path}");
            let said = status.split('\r').next().unwrap();
            let text =
                format!("{doing}: fetching REPOSITORY/{path}: giving up after 3 attempts: the server answered {said}");
            match before {
                true => outcome.before_the_plan(Code::Repository, &text),
                false => outcome.after_the_plan(Code::Repository, &text),
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_pause_gets_it_and_then_installs() {
    let published = good();
    for (path, ..) in stages(&published) {
        let asked = Arc::<Mutex<Vec<Instant>>>::default();
        let (busy, times) = (path.clone(), Arc::clone(&asked));
        let server = server(&published, move |path, number, right| {
            if path != busy {
                return right;
            }
            times.lock().unwrap().push(Instant::now());
            if number == 1 { reply("503 Service Unavailable\r\nRetry-After: 1", b"") } else { right }
        })
        .await;
        let mut trial = Trial::at(&published, &server);
        trial.limits = crate::http::Limits { asked_most: Duration::from_secs(3), ..short() };
        trial.run().await.installed();
        let asked = asked.lock().unwrap();
        let pause = asked[1] - asked[0];
        assert!(pause >= Duration::from_secs(1), "{path}: {pause:?}");
    }
}
