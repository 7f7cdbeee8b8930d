//! The HTTPS source and the poster against a scripted server.

use std::ops::Range;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::access::Access;
use crate::failure::{Code, code_of};
use crate::fetch::{HttpsSource, Source as _};
use crate::http::Limits;
use crate::post::Poster;
use crate::resolve::{Resolver, Servers};
use crate::test_server::{Reply, TestServer, Then, partial, reply, serve};

fn limits() -> Limits {
    let short = Duration::from_secs(2);
    let pause = Duration::from_millis(2);
    Limits {
        connect: Duration::from_secs(5),
        stall: short,
        attempt_bytes: 65_536,
        attempts: 4,
        backoff: pause,
        backoff_most: 4 * pause,
        asked_most: 4 * pause,
        ..Limits::default()
    }
}

fn access(server: &TestServer) -> Access {
    Access::of_ca(&server.ca).unwrap()
}

fn source(server: &TestServer) -> HttpsSource {
    source_within(server, limits())
}

fn source_within(server: &TestServer, limits: Limits) -> HttpsSource {
    let url = format!("https://127.0.0.1:{}/os/", server.port);
    HttpsSource::with_limits(&url, access(server), Resolver::learnt(Servers::default()), limits).unwrap()
}

async fn collect(source: &HttpsSource, range: Range<u64>) -> (Result<()>, Vec<u8>) {
    let (sink, mut chunks) = mpsc::channel::<Bytes>(4);
    let receive = async {
        let mut all = Vec::new();
        while let Some(chunk) = chunks.recv().await {
            all.extend_from_slice(&chunk);
        }
        all
    };
    tokio::join!(source.fetch("payloads/a.zst", range, sink), receive)
}

fn content() -> Vec<u8> {
    (0..300_000_u32).map(|i| i.to_le_bytes()[usize::try_from(i % 3).unwrap()]).collect()
}

/// The error of a fetch of bytes 100 to 200 from a server that always answers so.
async fn refused(answer: impl Fn(usize, &str) -> Reply + Send + Sync + 'static) -> (String, usize, Code) {
    let server = serve(|_| {}, answer).await;
    let error = collect(&source(&server), 100..200).await.0.unwrap_err();
    let text = format!("{error:#}").replace(&server.port.to_string(), "PORT");
    (text, server.requests().len(), code_of(&error))
}

#[tokio::test]
async fn ranges_come_exactly_and_over_one_connection() {
    let bytes = content();
    let server = serve(|_| {}, {
        let bytes = bytes.clone();
        move |_, request| partial(&bytes, request)
    })
    .await;
    let source = source(&server);
    assert_eq!(source.describe(), format!("https://127.0.0.1:{}/os", server.port));
    for range in [0..1, 5..300_000, 299_999..300_000, 7..7] {
        let (sent, got) = collect(&source, range.clone()).await;
        sent.unwrap();
        assert!(got == bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]);
    }
    assert_eq!((server.requests().len(), server.connections()), (3, 1));
    let first = server.requests().remove(0);
    let head = format!(
        "GET /os/payloads/a.zst HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nuser-agent: metalstrap/0.1.0\r\n\
         range: bytes=0-0\r\n\r\n",
        server.port
    );
    assert_eq!(first, head);
}

#[tokio::test]
async fn a_broken_connection_is_resumed_at_the_next_byte() {
    let bytes = content();
    let server = serve(|_| {}, {
        let bytes = bytes.clone();
        // Every answer but the last breaks off after 70000 bytes; one stalls there.
        move |number, request| {
            let mut whole = partial(&bytes, request);
            let head = whole.bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            whole.bytes.truncate(head + 70_000);
            whole.then = if number == 2 { Then::Stall } else { Then::Close };
            whole
        }
    })
    .await;
    let (sent, got) = collect(&source(&server), 10..300_000).await;
    sent.unwrap();
    assert!(got == bytes[10..]);
    let ranges: Vec<_> =
        server.requests().iter().filter_map(|request| crate::test_server::asked_range(request)).collect();
    let starts = [10, 70_010, 140_010, 210_010, 280_010];
    assert_eq!(ranges, starts.map(|start| (start, 300_000)));
}

#[tokio::test]
async fn attempts_that_bring_a_few_bytes_each_are_given_up() {
    // Answers that are whole, but shorter than what was asked for.
    let server = serve(
        |_| {},
        |_, request| {
            let (first, _) = crate::test_server::asked_range(request).unwrap();
            let head = format!("206 Partial Content\r\nContent-Range: bytes {first}-{}/300000", first + 9);
            reply(&head, &[7; 10])
        },
    )
    .await;
    let (sent, got) = collect(&source(&server), 0..300_000).await;
    let url = format!("https://127.0.0.1:{}/os/payloads/a.zst", server.port);
    let text = format!("fetching {url}: giving up after 4 attempts: an answer that ends after 10 bytes");
    assert_eq!((format!("{:#}", sent.unwrap_err()), got), (text, vec![7; 40]));
}

#[tokio::test]
async fn a_server_that_drips_has_stalled() {
    let server = serve(
        |_| {},
        |_, request| {
            let (first, end) = crate::test_server::asked_range(request).unwrap();
            let range = format!("Content-Range: bytes {first}-{}/{end}\r\nContent-Length: {}", end - 1, end - first);
            let bytes = format!("HTTP/1.1 206 Partial Content\r\n{range}\r\n\r\n").into_bytes();
            Reply { bytes, then: Then::Drip }
        },
    )
    .await;
    let limits = Limits { window: Duration::from_millis(250), window_bytes: 100, ..limits() };
    let (sent, got) = collect(&source_within(&server, limits), 0..300_000).await;
    let url = format!("https://127.0.0.1:{}/os/payloads/a.zst", server.port);
    let text = format!("fetching {url}: giving up after 4 attempts: fewer than 100 bytes came in 0.25 s");
    assert_eq!(format!("{:#}", sent.unwrap_err()), text);
    assert!(!got.is_empty() && server.requests().len() == 4, "{} bytes", got.len());
}

#[tokio::test]
async fn a_server_without_ranges_is_skipped_through() {
    let bytes = content();
    let server = serve(|_| {}, {
        let bytes = bytes.clone();
        move |_, _| reply("200 OK", &bytes)
    })
    .await;
    let (sent, got) = collect(&source(&server), 123_456..200_000).await;
    sent.unwrap();
    assert!(got == bytes[123_456..200_000]);
    let (sent, _) = collect(&source(&server), 0..300_001).await;
    let url = format!("https://127.0.0.1:{}/os/payloads/a.zst", server.port);
    assert_eq!(
        format!("{:#}", sent.unwrap_err()),
        format!("fetching {url}: the file ends at byte 300000, not at 300001")
    );
}

#[tokio::test]
async fn lasting_errors_are_asked_once_and_passing_ones_again() {
    let fetching = "fetching https://127.0.0.1:PORT/os/payloads/a.zst: ";
    for (status, said) in [("404 Not Found", "404 Not Found"), ("403 Forbidden", "403 Forbidden")] {
        let answer = refused(move |_, _| reply(status, b"no")).await;
        assert_eq!(answer, (format!("{fetching}the server answered {said}"), 1, Code::Repository));
    }
    for status in
        ["408 Request Timeout", "429 Too Many Requests", "500 Internal Server Error", "503 Service Unavailable"]
    {
        let head = format!("{status}\r\nRetry-After: 3600");
        let answer = refused(move |_, _| reply(&head, b"")).await;
        let text = format!("{fetching}giving up after 4 attempts: the server answered {status}");
        assert_eq!(answer, (text, 4, Code::Repository));
    }
    let closing = |_: usize, _: &str| Reply { bytes: b"HTTP/1.1 206".to_vec(), then: Then::Close };
    let text =
        format!("{fetching}giving up after 4 attempts: asking 127.0.0.1:PORT: the connection was closed too early");
    assert_eq!(refused(closing).await, (text, 4, Code::Repository));
    let silent = |_: usize, _: &str| Reply { bytes: Vec::new(), then: Then::Stall };
    let text = format!("{fetching}giving up after 4 attempts: asking 127.0.0.1:PORT: no answer in 2 s");
    assert_eq!(refused(silent).await, (text, 4, Code::Repository));
}

#[tokio::test]
async fn a_wrong_range_is_refused() {
    let fetching = "fetching https://127.0.0.1:PORT/os/payloads/a.zst: ";
    for (header, said) in [
        ("Content-Range: bytes 0-99/300", "the server sent bytes 0-99, not 100-199"),
        ("Content-Range: bytes 100-200/300", "the server sent bytes 100-200, not 100-199"),
        ("Content-Range: bytes 100-149/150", "the file has only 150 bytes, not 200"),
        ("Content-Range: lines 1-2/3", "the server sent the range \"lines 1-2/3\""),
        ("X: y", "the server sent part of a file without saying which"),
    ] {
        let answer = refused(move |_, _| reply(&format!("206 Partial Content\r\n{header}"), &[0; 100])).await;
        assert_eq!(answer, (format!("{fetching}{said}"), 1, Code::Repository));
    }
}

#[tokio::test]
async fn redirects_lead_only_to_https_and_not_round_for_ever() {
    let bytes = content();
    let server = serve(|_| {}, {
        let bytes = bytes.clone();
        move |_, request| match request.starts_with("GET /mirror/b ") {
            true => partial(&bytes, request),
            false => reply("302 Found\r\nLocation: /mirror/b", b""),
        }
    })
    .await;
    let (sent, got) = collect(&source(&server), 3..9).await;
    sent.unwrap();
    assert_eq!(got, bytes[3..9]);
    let fetching = "fetching https://127.0.0.1:PORT/os/payloads/a.zst: ";
    let plain = refused(|_, _| reply("301 Moved\r\nLocation: http://127.0.0.1/b", b"")).await;
    let text = format!("{fetching}the server redirected to http://127.0.0.1/b, which is not https");
    assert_eq!(plain, (text, 1, Code::Repository));
    let round = refused(|_, _| reply("307 Temporary Redirect\r\nLocation: a.zst", b"")).await;
    assert_eq!(round, (format!("{fetching}the server redirected more than 5 times"), 6, Code::Repository));
}

#[tokio::test]
async fn a_small_file_comes_whole_or_not_at_all() {
    let server = serve(
        |_| {},
        |number, _| match number {
            1 => reply("502 Bad Gateway", b""),
            _ => reply("200 OK", b"{\"format\": 1}"),
        },
    )
    .await;
    let source = source(&server);
    assert_eq!(source.get("targets/m.json", 13).await.unwrap(), b"{\"format\": 1}");
    let error = source.get("targets/m.json", 12).await.unwrap_err();
    let url = format!("https://127.0.0.1:{}/os/targets/m.json", server.port);
    assert_eq!(format!("{error:#}"), format!("fetching {url}: it has more than 12 bytes"));
    let error = source.get("../secret", 12).await.unwrap_err();
    assert!(format!("{error:#}").ends_with("/os/../secret: \"../secret\" leads out of the repository"), "{error:#}");
}

/// The error of a connection to a server with this certificate.
async fn certificate(adjust: impl FnOnce(&mut rcgen::CertificateParams), ca: Option<String>) -> String {
    let mut server = serve(adjust, |_, _| reply("200 OK", b"")).await;
    server.ca = ca.unwrap_or(server.ca);
    let error = source(&server).get("m", 9).await.unwrap_err();
    assert_eq!((code_of(&error), server.connections()), (Code::Certificate, 1));
    format!("{error:#}").replace(&format!("fetching https://127.0.0.1:{}/os/m: ", server.port), "")
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_is_refused_in_plain_words() {
    let other = serve(|_| {}, |_, _| reply("200 OK", b"")).await.ca;
    assert_eq!(
        certificate(|_| {}, Some(other)).await,
        "the certificate of 127.0.0.1 is not from a CA that the site config names"
    );
    let named = certificate(
        |params| {
            params.subject_alt_names = ["deploy.example", "mirror.example"]
                .map(|name| rcgen::SanType::DnsName(name.try_into().unwrap()))
                .to_vec();
        },
        None,
    )
    .await;
    assert_eq!(named, "the certificate of 127.0.0.1 is for deploy.example and mirror.example, not for 127.0.0.1");
    let expired = certificate(|params| params.not_after = rcgen::date_time_ymd(2020, 2, 29), None).await;
    let start = "the certificate of 127.0.0.1 expired on 2020-02-29 00:00:00 UTC; this machine's clock shows 2";
    assert!(expired.starts_with(start), "{expired}");
    let early = certificate(|params| params.not_before = rcgen::date_time_ymd(2090, 1, 1), None).await;
    let start = "the certificate of 127.0.0.1 is valid only from 2090-01-01 00:00:00 UTC; this machine's clock shows 2";
    assert!(early.starts_with(start), "{early}");
}

#[tokio::test]
async fn a_report_is_delivered_when_the_server_comes_round() {
    let server = serve(
        |_| {},
        |number, _| match number {
            1 => reply("503 Service Unavailable", b""),
            2 => Reply { bytes: Vec::new(), then: Then::Close },
            _ => reply("204 No Content", b""),
        },
    )
    .await;
    let url = format!("https://127.0.0.1:{}/events?key=1", server.port);
    let poster = Poster::with_limits(&url, access(&server), Resolver::learnt(Servers::default()), limits()).unwrap();
    poster.post(b"{\"a\":1}\n{\"b\":2}\n".to_vec(), Duration::from_secs(20)).await.unwrap();
    let last = server.requests().pop().unwrap();
    let head = format!(
        "POST /events?key=1 HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nuser-agent: metalstrap/0.1.0\r\n\
         content-type: application/x-ndjson\r\ncontent-length: 16\r\n\r\n{{\"a\":1}}\n{{\"b\":2}}\n",
        server.port
    );
    assert_eq!((last, server.requests().len()), (head, 3));
}

#[tokio::test]
async fn a_report_that_nobody_takes_ends_in_time() {
    let server = serve(
        |_| {},
        |_, request| match request.starts_with("POST /no ") {
            true => reply("401 Unauthorized", b""),
            false => reply("503 Service Unavailable", b""),
        },
    )
    .await;
    let post = async |path: &str, timeout: u64| {
        let url = format!("https://127.0.0.1:{}/{path}", server.port);
        let poster =
            Poster::with_limits(&url, access(&server), Resolver::learnt(Servers::default()), limits()).unwrap();
        let error = poster.post(b"{}\n".to_vec(), Duration::from_secs(timeout)).await.unwrap_err();
        format!("{error:#}").replace(&format!("reporting to {url}: "), "")
    };
    assert_eq!(post("no", 20).await, "the server answered 401 Unauthorized");
    assert_eq!(post("busy", 3).await, "no acknowledgement in 3 s: the server answered 503 Service Unavailable");
}
