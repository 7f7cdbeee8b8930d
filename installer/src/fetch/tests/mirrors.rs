//! Several servers with the same payloads.

use super::testing::{
    Got, PATH, asked, asked_paths, collect, collect_path, content, cut, header, mirrors, server, source, with_header,
};
use super::*;
use crate::failure::{Code, code_of};
use crate::fetch::MirrorId;
use crate::test_server::{Reply, TestServer, Then, partial, reply};

/// A right server.
async fn right() -> TestServer {
    let bytes = content();
    server(move |_, request| partial(&bytes, request)).await
}

/// A server that always answers so.
async fn always(status: &'static str) -> TestServer {
    server(move |_, _| reply(status, b"")).await
}

/// A server that knows no ranges.
async fn unranged() -> TestServer {
    let bytes = content();
    server(move |_, _| reply("200 OK", &bytes)).await
}

fn ids(mirrors: &Mirrors, servers: &[&TestServer]) -> Vec<MirrorId> {
    let ids: Vec<MirrorId> = (0..servers.len()).map(MirrorId).collect();
    for (id, server) in ids.iter().zip(servers) {
        assert_eq!(mirrors.describe(*id), format!("https://127.0.0.1:{}/os", server.port));
    }
    ids
}

#[track_caller]
fn whole(got: &Got, start: usize, end: usize) {
    got.result.as_ref().unwrap();
    assert!(got.bytes == content()[start..end]);
}

#[tokio::test]
async fn fetches_begin_at_the_mirrors_by_turns() {
    let (a, b) = (right().await, right().await);
    let mirrors = mirrors([&a, &b]);
    let ids = ids(&mirrors, &[&a, &b]);
    for turn in 0..4_u64 {
        let got = collect(&mirrors, turn * 100..turn * 100 + 50).await;
        assert_eq!(got.from, [ids[usize::try_from(turn % 2).unwrap()]]);
    }
    assert_eq!(asked(&a), [(0, 50), (200, 250)]);
    assert_eq!(asked(&b), [(100, 150), (300, 350)]);
}

#[tokio::test]
async fn where_one_mirror_breaks_off_the_next_goes_on_at_the_next_byte() {
    for then in [Then::Close, Then::Stall] {
        let bytes = content();
        let a = server(move |_, request| cut(partial(&bytes, request), 70_000, then)).await;
        let b = right().await;
        // It rests for longer than the other one is looked for.
        let rest = std::time::Duration::from_secs(20);
        let limits = Limits { backoff: rest, backoff_most: rest, ..super::testing::limits() };
        let source = |server: &TestServer| super::testing::source_within(server.port, &server.ca, limits);
        let mirrors = Mirrors::new(vec![Arc::new(source(&a)), Arc::new(source(&b))]);
        let got = collect(&mirrors, 10..300_000).await;
        whole(&got, 10, 300_000);
        assert_eq!(got.from, ids(&mirrors, &[&a, &b]));
        assert_eq!((asked(&a), asked(&b)), (vec![(10, 300_000)], vec![(70_010, 300_000)]));
        assert_eq!(mirrors.dropped(), []);
    }
}

#[tokio::test]
async fn a_mirror_that_sends_too_slowly_is_left_and_what_has_come_stays() {
    let bytes = content();
    let slow = server(move |_, request| cut(partial(&bytes, request), 70_000, Then::Drip)).await;
    let b = right().await;
    let grace = std::time::Duration::from_millis(200);
    let hurried = Limits { grace, rate: 1 << 30, ..super::testing::limits() };
    let slow_source = Arc::new(super::testing::source_within(slow.port, &slow.ca, hurried)) as Arc<dyn Source>;
    let mirrors = Mirrors::new(vec![slow_source, Arc::new(source(&b))]);
    let ids = ids(&mirrors, &[&slow, &b]);
    let started = std::time::Instant::now();
    let got = collect(&mirrors, 0..300_000).await;
    got.result.as_ref().unwrap();
    // Else it would drip for an hour and a half.
    assert!(started.elapsed() < std::time::Duration::from_secs(30), "{:?}", started.elapsed());
    let (start, end) = asked(&b)[0];
    assert!((70_001..200_000).contains(&start) && end == 300_000, "{start}");
    // Bytes that drip are nobody's content.
    assert!(got.bytes[..70_000] == content()[..70_000] && got.bytes[start..] == content()[start..]);
    assert_eq!((got.bytes.len(), got.from, asked(&slow)), (300_000, ids, vec![(0, 300_000)]));
}

#[tokio::test]
async fn two_mirrors_that_break_off_take_turns_at_every_byte() {
    let broken = || {
        let bytes = content();
        server(move |_, request| cut(partial(&bytes, request), 66_000, Then::Close))
    };
    let (a, b) = (broken().await, broken().await);
    let mirrors = mirrors([&a, &b]);
    whole(&collect(&mirrors, 0..300_000).await, 0, 300_000);
    let mut starts: Vec<usize> = asked(&a).into_iter().chain(asked(&b)).map(|(start, _)| start).collect();
    starts.sort_unstable();
    assert_eq!(starts, [0, 66_000, 132_000, 198_000, 264_000]);
    assert!(asked(&a).len() >= 2 && asked(&b).len() >= 2, "{:?} {:?}", asked(&a), asked(&b));
}

/// Fetches the content apart, with a cut at each 50000 bytes: the pieces, each with its sender.
async fn apart(mirrors: &Mirrors) -> Vec<(Bytes, MirrorId)> {
    let cuts: Vec<u64> = (0..6).map(|cut| cut * 50_000).collect();
    let (sink, mut pieces) = mpsc::channel::<Piece>(1);
    let receive = async {
        let mut all = Vec::new();
        while let Some(Piece { bytes, from }) = pieces.recv().await {
            all.push((bytes, from));
        }
        all
    };
    let (sent, all) = tokio::join!(mirrors.fetch_apart(PATH, 0..300_000, &cuts, sink), receive);
    sent.unwrap();
    all
}

#[tokio::test]
async fn what_is_fetched_apart_changes_its_mirror_only_at_a_cut() {
    // One that breaks off is kept on with.
    let bytes = content();
    let a = server(move |_, request| cut(partial(&bytes, request), 70_000, Then::Close)).await;
    let b = right().await;
    let both = mirrors([&a, &b]);
    let ids = ids(&both, &[&a, &b]);
    let all = apart(&both).await;
    assert!(all.iter().all(|(_, from)| *from == ids[0]));
    assert!(all.iter().flat_map(|(bytes, _)| bytes.to_vec()).eq(content()));
    assert_eq!(b.requests().len(), 0);
    // One that is gone for good is not, and the next one begins at the last cut.
    let bytes = content();
    let a = server(move |number, request| match number {
        1 => cut(partial(&bytes, request), 70_000, Then::Close),
        _ => reply("404 Not Found", b""),
    })
    .await;
    let all = apart(&mirrors([&a, &b])).await;
    let of = |id: MirrorId| -> Vec<u8> {
        all.iter().filter(|(_, from)| *from == id).flat_map(|(bytes, _)| bytes.to_vec()).collect()
    };
    assert!(of(ids[0]) == content()[..70_000] && of(ids[1]) == content()[50_000..]);
    assert_eq!((asked(&a), asked(&b)), (vec![(0, 300_000), (70_000, 300_000)], vec![(50_000, 300_000)]));
}

#[tokio::test]
async fn a_liar_is_dropped_and_named_and_not_asked_again() {
    let (a, b) = (right().await, right().await);
    let mirrors = mirrors([&a, &b]);
    let ids = ids(&mirrors, &[&a, &b]);
    assert!(mirrors.drop_liar(ids[0], "payloads/a.zst is corrupt at byte 4096 of its content"));
    // What it is dropped for is what was found first.
    assert!(mirrors.drop_liar(ids[0], "another block"));
    let name = |server: &TestServer| format!("https://127.0.0.1:{}/os", server.port);
    let reason = "payloads/a.zst is corrupt at byte 4096 of its content".to_owned();
    assert_eq!(mirrors.dropped(), [(name(&a), reason.clone())]);
    for _ in 0..2 {
        assert_eq!(collect(&mirrors, 5..70).await.from, [ids[1]]);
    }
    assert_eq!(a.requests().len(), 0);
    assert!(!mirrors.drop_liar(ids[1], "it lied too"));
    assert_eq!(mirrors.dropped(), [(name(&a), reason), (name(&b), "it lied too".to_owned())]);
    let got = collect(&mirrors, 5..70).await;
    let mut texts = [
        format!("{}: dropped: payloads/a.zst is corrupt at byte 4096 of its content", name(&a)),
        format!("{}: dropped: it lied too", name(&b)),
    ];
    texts.sort();
    let error = got.result.unwrap_err();
    assert_eq!(format!("{error:#}"), format!("fetching payloads/a.zst: {}", texts.join("; ")));
    assert_eq!((code_of(&error), b.requests().len()), (Code::Corrupt, 2));
}

#[tokio::test]
async fn a_mirror_that_is_dropped_while_it_sends_is_left_at_once() {
    let (a, b) = (right().await, right().await);
    let mirrors = mirrors([&a, &b]);
    let ids = ids(&mirrors, &[&a, &b]);
    let (sink, mut pieces) = mpsc::channel::<Piece>(1);
    let receive = async {
        let mut all: Vec<(Bytes, MirrorId)> = Vec::new();
        while let Some(piece) = pieces.recv().await {
            if all.is_empty() {
                assert!(mirrors.drop_liar(piece.from, "the first piece"));
            }
            all.push((piece.bytes, piece.from));
        }
        all
    };
    let (sent, all) = tokio::join!(mirrors.fetch(PATH, 0..300_000, sink), receive);
    sent.unwrap();
    let bytes: Vec<u8> = all.iter().flat_map(|(bytes, _)| bytes.to_vec()).collect();
    assert!(bytes == content());
    let of_a: usize = all.iter().filter(|(_, from)| *from == ids[0]).map(|(bytes, _)| bytes.len()).sum();
    assert_eq!((asked(&a), asked(&b)), (vec![(0, 300_000)], vec![(of_a, 300_000)]));
}

#[tokio::test]
async fn a_file_that_one_mirror_lacks_is_asked_there_once_and_others_still() {
    let bytes = content();
    let a = server(move |_, request| match request.starts_with("GET /os/payloads/a.zst ") {
        true => reply("404 Not Found", b"no"),
        false => partial(&bytes, request),
    })
    .await;
    let b = right().await;
    let mirrors = mirrors([&a, &b]);
    let ids = ids(&mirrors, &[&a, &b]);
    for _ in 0..4 {
        let got = collect(&mirrors, 5..70).await;
        assert_eq!(got.from, [ids[1]]);
        whole(&got, 5, 70);
    }
    let got = collect_path(&mirrors, "payloads/b.zst", 5..70).await;
    assert_eq!(got.from, [ids[0]]);
    assert_eq!(asked_paths(&a), ["os/payloads/a.zst", "os/payloads/b.zst"]);
}

#[tokio::test]
async fn when_all_fail_each_is_named_with_its_last_error() {
    let a = always("404 Not Found").await;
    let b = always("503 Service Unavailable\r\nRetry-After: 3600").await;
    let mirrors = mirrors([&a, &b]);
    let got = collect(&mirrors, 5..70).await;
    let mut texts = [
        (a.port, "A/os: the server answered 404 Not Found"),
        (b.port, "B/os: giving up after 3 attempts: the server answered 503 Service Unavailable"),
    ];
    // In the order of their URLs.
    texts.sort_by_key(|(port, _)| port.to_string());
    let text = format!("fetching payloads/a.zst: {}; {}", texts[0].1, texts[1].1);
    assert_eq!(got.error(&[&a, &b]), text);
    assert_eq!((a.requests().len(), b.requests().len()), (1, 3));
    assert_eq!(code_of(&got.result.unwrap_err()), Code::Repository);
}

#[tokio::test]
async fn with_one_mirror_the_words_and_attempts_are_those_of_the_source() {
    for (status, attempts) in [("404 Not Found", 1), ("503 Service Unavailable", 3)] {
        let alone = always(status).await;
        let (sent, _) = super::collect(&source(&alone), PATH, 5..70).await;
        let expected = format!("{:#}", sent.unwrap_err());
        assert_eq!(alone.requests().len(), attempts);
        let got = collect(&mirrors([&alone]), 5..70).await;
        assert_eq!(format!("{:#}", got.result.unwrap_err()), expected);
        assert_eq!(alone.requests().len(), 2 * attempts);
    }
}

#[tokio::test]
async fn a_mirror_that_failed_rests_for_all_fetches() {
    let bytes = content();
    let a = server(move |number, request| match number {
        1 => reply("503 Service Unavailable\r\nRetry-After: 2", b""),
        _ => partial(&bytes, request),
    })
    .await;
    let b = right().await;
    let patient = |server: &TestServer| {
        let limits = Limits { asked_most: std::time::Duration::from_secs(5), ..super::testing::limits() };
        Arc::new(super::testing::source_within(server.port, &server.ca, limits)) as Arc<dyn Source>
    };
    let mirrors = Mirrors::new(vec![patient(&a), patient(&b)]);
    let ids = ids(&mirrors, &[&a, &b]);
    let started = std::time::Instant::now();
    while started.elapsed() < std::time::Duration::from_secs(1) {
        assert_eq!(collect(&mirrors, 5..70).await.from, [ids[1]]);
    }
    assert_eq!(a.requests().len(), 1);
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let froms = [collect(&mirrors, 5..70).await.from, collect(&mirrors, 5..70).await.from];
    assert!(froms.contains(&vec![ids[0]]), "{froms:?}");
}

#[tokio::test]
async fn ranges_come_from_the_mirror_that_has_them() {
    let (a, b) = (unranged().await, right().await);
    let mirrors = mirrors([&a, &b]);
    let ids = ids(&mirrors, &[&a, &b]);
    for _ in 0..4 {
        let got = collect(&mirrors, 100_000..200_000).await;
        whole(&got, 100_000, 200_000);
        assert_eq!(got.from, [ids[1]]);
    }
    assert_eq!((a.requests().len(), b.requests().len()), (1, 4));
    assert!(mirrors.ranged(PATH));
    mirrors.drop_liar(ids[1], "it lied");
    assert!(!mirrors.ranged(PATH));
}

#[tokio::test]
async fn without_ranges_anywhere_the_caller_hears_it_and_gets_the_whole_file() {
    for count in [1, 2] {
        let (a, b) = (unranged().await, unranged().await);
        let mirrors = if count == 1 { mirrors([&a]) } else { mirrors([&a, &b]) };
        let got = collect(&mirrors, 100_000..200_000).await;
        assert!(got.result.as_ref().unwrap_err().is::<NoRanges>() && got.bytes.is_empty());
        let place = if count == 1 { "A/os/payloads/a.zst" } else { "payloads/a.zst" };
        assert_eq!(got.error(&[&a]), format!("fetching {place}: the server sends only whole files"));
        assert!(!mirrors.ranged(PATH) && mirrors.ranged("payloads/b.zst"));
        // Each mirror is asked once only, however many parts are wanted.
        assert!(collect(&mirrors, 1..2).await.result.unwrap_err().is::<NoRanges>());
        assert_eq!(a.requests().len() + b.requests().len(), count);
        whole(&collect(&mirrors, 0..300_000).await, 0, 300_000);
        assert_eq!(a.requests().len() + b.requests().len(), count + 1);
    }
}

#[tokio::test]
async fn a_whole_file_that_breaks_off_is_resumed_without_ranges() {
    let bytes = content();
    let a = server(move |number, _| {
        let whole = reply("200 OK", &bytes);
        if number < 3 { cut(whole, 70_000 * number, Then::Close) } else { whole }
    })
    .await;
    whole(&collect(&mirrors([&a]), 0..300_000).await, 0, 300_000);
    assert_eq!(asked(&a), [(0, 300_000), (70_000, 300_000), (140_000, 300_000)]);
}

#[tokio::test]
async fn a_file_that_changes_on_one_mirror_comes_from_the_next() {
    let bytes = content();
    let a = server(move |number, request| match number {
        1 => with_header(partial(&bytes, request), "ETag: \"a1\""),
        _ => with_header(reply("200 OK", &bytes[1..]), "ETag: \"b2\""),
    })
    .await;
    let b = right().await;
    let mirrors = mirrors([&a, &b]);
    for range in [0..10_u64, 10..20, 20..30, 30..40] {
        let (start, end) = (usize::try_from(range.start).unwrap(), usize::try_from(range.end).unwrap());
        whole(&collect(&mirrors, range).await, start, end);
    }
    assert_eq!((asked(&a), asked(&b)), (vec![(0, 10), (20, 30)], vec![(10, 20), (20, 30), (30, 40)]));
    assert_eq!(header(&a.requests()[1], "if-range"), Some("\"a1\""));
}

#[tokio::test]
async fn wrong_parts_of_a_file_send_nobody_anything() {
    let a = server(|_, _| reply("206 Partial Content\r\nContent-Range: bytes 0-64/300000", &[0; 65])).await;
    let b = right().await;
    let got = collect(&mirrors([&a, &b]), 5..70).await;
    whole(&got, 5, 70);
    let got = collect(&mirrors([&a]), 5..70).await;
    assert_eq!(got.error(&[&a]), "fetching A/os/payloads/a.zst: the server sent bytes 0-64, not 5-69");
    assert!(got.bytes.is_empty());
}

#[tokio::test]
async fn who_hangs_up_ends_the_fetch() {
    let a = right().await;
    let (sink, mut pieces) = mpsc::channel::<Piece>(1);
    let mirrors = mirrors([&a]);
    let hang_up = async {
        let first = pieces.recv().await.unwrap();
        drop(pieces);
        first.bytes.len()
    };
    let (sent, first) = tokio::join!(mirrors.fetch(PATH, 0..300_000, sink), hang_up);
    sent.unwrap();
    assert!((1..300_000).contains(&first));
}

#[tokio::test]
async fn directories_are_mirrors_too() {
    let (place, content) = repository();
    let silent = server(|_, _| Reply { bytes: Vec::new(), then: Then::Close }).await;
    let directory = Arc::new(DirectorySource::new(place.path())) as Arc<dyn Source>;
    let mirrors = Mirrors::new(vec![Arc::new(source(&silent)), Arc::clone(&directory)]);
    let got = collect(&mirrors, 5..2_000_003).await;
    got.result.unwrap();
    assert!(got.bytes == content[5..2_000_003]);
    let end = u64::try_from(content.len()).unwrap() + 7;
    let got = collect(&Mirrors::from(directory), 0..end).await;
    let text = format!("fetching {}/{PATH}: it ends 7 bytes too early", place.path().display());
    assert_eq!(format!("{:#}", got.result.unwrap_err()), text);
    let got = collect(&Mirrors::new(Vec::new()), 0..end).await;
    assert_eq!(format!("{:#}", got.result.unwrap_err()), "fetching payloads/a.zst: there is no mirror");
}
