//! What a server may answer instead of what was asked for.

use std::sync::Mutex;
use std::time::Instant;

use jiff::Timestamp;

use super::testing::{PATH, asked, asked_paths, content, limits, server, source, source_within};
use super::*;
use crate::clock;
use crate::test_server::{partial, reply};

/// The time between the first two requests, when the first answer is `status` with this `Retry-After`.
async fn pause(status: &'static str, asked: String) -> std::time::Duration {
    let bytes = content();
    let times = Arc::<Mutex<Vec<Instant>>>::default();
    let seen = Arc::clone(&times);
    let server = server(move |number, request| {
        seen.lock().unwrap().push(Instant::now());
        let busy = format!("{status}\r\nRetry-After: {asked}");
        if number == 1 { reply(&busy, b"later") } else { partial(&bytes, request) }
    })
    .await;
    let limits = Limits { asked_most: std::time::Duration::from_secs(4), ..limits() };
    let source = source_within(server.port, &server.ca, limits);
    let (sent, got) = collect(&source, PATH, 7..90).await;
    sent.unwrap();
    assert_eq!((got, server.connections()), (content()[7..90].to_vec(), 1));
    let times = times.lock().unwrap();
    assert_eq!(times.len(), 2);
    times[1] - times[0]
}

/// An HTTP date so many seconds from now.
fn date(seconds: i64) -> String {
    let time = Timestamp::from_second(clock::now() + seconds).unwrap();
    time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

#[tokio::test]
async fn retry_after_is_honoured_as_seconds_and_as_a_date() {
    let second = std::time::Duration::from_secs(1);
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let [number, later] = [pause(status, "1".to_owned()).await, pause(status, date(3)).await];
        assert!(number >= second && later >= second, "{status}: {number:?} {later:?}");
        // What has passed already, or is no time at all, leaves our own pause.
        let [passed, nonsense] = [pause(status, date(-100)).await, pause(status, "soon".to_owned()).await];
        assert!(passed < second && nonsense < second, "{status}: {passed:?} {nonsense:?}");
    }
}

#[tokio::test]
async fn a_wait_that_the_server_asks_for_is_told() {
    let bytes = content();
    let busy = || {
        let bytes = bytes.clone();
        server(move |number, request| match number {
            1 => reply("503 Service Unavailable\r\nRetry-After: 1", b""),
            _ => partial(&bytes, request),
        })
    };
    let limits = Limits { asked_most: std::time::Duration::from_secs(4), ..limits() };
    let (server, waits, started) = (busy().await, crate::waits::Waits::default(), Instant::now());
    let source = source_within(server.port, &server.ca, limits).telling(waits.clone());
    collect(&source, PATH, 7..90).await.0.unwrap();
    let told = waits.at(started).unwrap();
    assert!(told.starts_with(&format!("https://127.0.0.1:{}/os is left alone, for ", server.port)), "{told}");
    assert_eq!(waits.at(Instant::now()), None);
    // The same where the fetch goes over mirrors, all of which rest.
    let (server, started) = (busy().await, Instant::now());
    let tell = crate::report::Reporter::new("r".to_owned(), Box::new(Deaf), None);
    let source: Arc<dyn Source> = Arc::new(source_within(server.port, &server.ca, limits));
    super::testing::collect(&Mirrors::new(vec![source]).telling(&tell), 7..90).await.result.unwrap();
    let told = tell.waits().at(started).unwrap();
    assert!(told.starts_with(&format!("https://127.0.0.1:{}/os is left alone, for ", server.port)), "{told}");
}

/// A screen that nobody looks at.
#[derive(Debug)]
struct Deaf;

impl crate::report::Screen for Deaf {
    fn line(&self, _: &str) {}
    fn progress(&self, _: &str) {}
    fn event(&self, _: &str) {}
}

#[tokio::test]
async fn a_whole_file_for_a_part_is_refused_before_its_body() {
    let bytes = content();
    let server = server({
        let bytes = bytes.clone();
        move |_, _| reply("200 OK", &bytes)
    })
    .await;
    let source = source(&server);
    let (sink, mut chunks) = mpsc::channel(4);
    let trouble = source.attempt(PATH, 123_456..200_000, Unranged::Refused, sink).await.unwrap_err();
    assert!(trouble.error.is::<NoRanges>());
    assert_eq!((trouble.error.to_string(), trouble.again), ("the server sends only whole files".into(), Again::Never));
    assert_eq!(chunks.recv().await, None);
    // The rest of that answer is nowhere in the way, and from the file's start on it is what was asked for.
    let (sink, mut chunks) = mpsc::channel(400);
    source.attempt(PATH, 0..200_000, Unranged::Refused, sink).await.unwrap();
    let mut got = Vec::new();
    while let Some(chunk) = chunks.recv().await {
        got.extend_from_slice(&chunk);
    }
    assert!(got == bytes[..200_000]);
    assert_eq!((server.requests().len(), server.connections()), (2, 2));
}

#[tokio::test]
async fn concurrent_fetches_share_the_connections_that_wait() {
    let bytes = content();
    let server = server({
        let bytes = bytes.clone();
        move |_, request| partial(&bytes, request)
    })
    .await;
    let source = source(&server);
    let fetch = |part: u64| collect(&source, PATH, part * 50_000..(part + 1) * 50_000);
    for _ in 0..3 {
        let parts = tokio::join!(fetch(0), fetch(1), fetch(2), fetch(3), fetch(4), fetch(5));
        let parts = [parts.0, parts.1, parts.2, parts.3, parts.4, parts.5];
        let all: Vec<u8> = parts.into_iter().flat_map(|(sent, got)| sent.map(|()| got).unwrap()).collect();
        assert!(all == bytes);
    }
    assert_eq!(server.requests().len(), 18);
    assert!((1..=6).contains(&server.connections()), "{}", server.connections());
}

#[tokio::test]
async fn a_redirect_costs_no_connection() {
    let bytes = content();
    let server = server({
        let bytes = bytes.clone();
        move |_, request| match request.starts_with("GET /b ") {
            true => partial(&bytes, request),
            false => reply("302 Found\r\nLocation: /b", b"<p>over there</p>"),
        }
    })
    .await;
    let source = source(&server);
    for range in [3..9, 9..70_000] {
        let (sent, got) = collect(&source, PATH, range.clone()).await;
        sent.unwrap();
        assert!(got == bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]);
    }
    assert_eq!(asked_paths(&server), ["os/payloads/a.zst", "b", "os/payloads/a.zst", "b"]);
    assert_eq!((asked(&server)[3], server.connections()), ((9, 70_000), 1));
}
