//! A file that changes while it is fetched.

use super::testing::{PATH, asked_paths, content, cut, header, server, source, with_header};
use super::*;
use crate::failure::{Code, code_of};
use crate::test_server::{Reply, Then, partial, reply};

const DATES: &str = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nDate: Sun, 06 Nov 1994 08:50:37 GMT";

/// Two parts of a file whose answers have these headers: the `If-Range` of each of the two requests.
async fn sent_with(headers: &'static str) -> [Option<String>; 2] {
    let bytes = content();
    let server = server(move |_, request| with_header(partial(&bytes, request), headers)).await;
    let source = source(&server);
    for range in [0..10, 10..20] {
        collect(&source, PATH, range).await.0.unwrap();
    }
    let requests = server.requests();
    [0, 1].map(|number: usize| header(&requests[number], "if-range").map(str::to_owned))
}

#[tokio::test]
async fn later_requests_name_the_version_of_the_first_answer() {
    assert_eq!(sent_with("ETag: \"a1\"").await, [None, Some("\"a1\"".to_owned())]);
    assert_eq!(sent_with(DATES).await, [None, Some("Sun, 06 Nov 1994 08:49:37 GMT".to_owned())]);
    // A weak tag may not be sent; a date may, but not one that a second change could share.
    assert_eq!(sent_with("ETag: W/\"a1\"").await, [None, None]);
    let young = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nDate: Sun, 06 Nov 1994 08:49:38 GMT";
    assert_eq!(sent_with(young).await, [None, None]);
    assert_eq!(sent_with("Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT").await, [None, None]);
    assert_eq!(sent_with("X: y").await, [None, None]);
}

/// The error of the second of two parts, when the answer to its request is of another file, and the number of requests.
async fn changed(second: impl Fn(&[u8], &str) -> Reply + Send + Sync + 'static) -> (String, usize) {
    let bytes = content();
    let server = server(move |number, request| match number {
        1 => with_header(partial(&bytes, request), "ETag: \"a1\""),
        _ => second(&bytes, request),
    })
    .await;
    let source = source(&server);
    collect(&source, PATH, 0..10).await.0.unwrap();
    let (sent, got) = collect(&source, PATH, 10..20).await;
    let error = sent.unwrap_err();
    assert_eq!((code_of(&error), got.len()), (Code::Repository, 0));
    let at = format!("fetching https://127.0.0.1:{}/os/{PATH}: ", server.port);
    (format!("{error:#}").strip_prefix(&at).unwrap().to_owned(), server.requests().len())
}

#[tokio::test]
async fn a_file_of_another_length_is_not_mixed_with_the_one_before() {
    let said = ("the file changed while it was fetched".to_owned(), 2);
    // A server that knows If-Range sends the whole of the new file; one that does not still says what it sends.
    assert_eq!(changed(|bytes, _| with_header(reply("200 OK", &bytes[1..]), "ETag: \"b2\"")).await, said);
    assert_eq!(changed(|bytes, _| reply("200 OK", &bytes[1..])).await, said);
    assert_eq!(changed(|bytes, request| partial(&bytes[1..], request)).await, said);
    assert_eq!(changed(|_, request| partial(&[0; 5], request)).await, said);
}

/// A server behind whose name there are two, by turns, whose files have tags of their own. Those that know `If-Range` send the
/// whole file for the other's tag.
async fn two_behind_one_name(knows_if_range: bool) -> crate::test_server::TestServer {
    let bytes = content();
    server(move |number, request| {
        let tag = if number % 2 == 1 { "\"a1\"" } else { "\"b2\"" };
        let other = header(request, "if-range").is_some_and(|sent| sent != tag);
        let answer = if knows_if_range && other { reply("200 OK", &bytes) } else { partial(&bytes, request) };
        with_header(answer, &format!("ETag: {tag}"))
    })
    .await
}

#[tokio::test]
async fn tags_that_differ_for_the_same_bytes_cost_a_request_and_no_more() {
    let bytes = content();
    let ranges = [0..10, 10..20, 20..70_000, 70_000..300_000_u64];
    for (knows_if_range, sent) in [
        (true, &[None, Some("\"a1\""), None, None, None][..]),
        // The other tag comes with the part itself.
        (false, &[None, Some("\"a1\""), None, None][..]),
    ] {
        let server = two_behind_one_name(knows_if_range).await;
        let source = source(&server);
        for range in ranges.clone() {
            let (sent, got) = collect(&source, PATH, range.clone()).await;
            sent.unwrap();
            assert!(got == bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]);
        }
        let requests = server.requests();
        let named: Vec<_> = requests.iter().map(|request| header(request, "if-range")).collect();
        assert_eq!(named, sent, "knows If-Range: {knows_if_range}");
        // Nor is it left alone for it, where there is no other.
        let server = two_behind_one_name(knows_if_range).await;
        let mirrors = super::testing::mirrors([&server]);
        for range in ranges.clone() {
            super::testing::collect(&mirrors, range).await.result.unwrap();
        }
    }
}

#[tokio::test]
async fn a_date_that_differs_for_the_same_length_is_not_named_again() {
    let bytes = content();
    let server = server(move |number, request| match number {
        1 => with_header(partial(&bytes, request), DATES),
        // It has been copied there since: for the old date it sends the whole.
        2 => reply("200 OK", &bytes),
        _ => partial(&bytes, request),
    })
    .await;
    let source = source(&server);
    for range in [0..10, 10..20, 20..30] {
        collect(&source, PATH, range).await.0.unwrap();
    }
    let requests = server.requests();
    let named: Vec<_> = requests.iter().map(|request| header(request, "if-range").is_some()).collect();
    assert_eq!(named, [false, true, false, false]);
}

#[tokio::test]
async fn a_server_without_ranges_may_send_the_same_file_again() {
    let bytes = content();
    let server = server({
        let bytes = bytes.clone();
        move |number, _| {
            let whole = with_header(reply("200 OK", &bytes), "ETag: \"a1\"");
            if number == 1 { cut(whole, 100_000, Then::Close) } else { whole }
        }
    })
    .await;
    let (sent, got) = collect(&source(&server), PATH, 0..300_000).await;
    sent.unwrap();
    assert!(got == bytes);
    assert_eq!(header(&server.requests()[1], "if-range"), Some("\"a1\""));
}

#[tokio::test]
async fn a_version_is_that_of_the_url_that_a_redirect_led_to() {
    let bytes = content();
    // Two caches with tags of their own, by turns.
    let server = server({
        let bytes = bytes.clone();
        move |number, request| match request.split(' ').nth(1) {
            Some("/one") => with_header(partial(&bytes, request), "ETag: \"1\""),
            Some("/two") => with_header(partial(&bytes, request), "ETag: \"2\""),
            _ if number % 4 == 1 => reply("307 Temporary Redirect\r\nLocation: /one\r\nETag: \"r\"", b""),
            _ => reply("307 Temporary Redirect\r\nLocation: /two\r\nETag: \"r\"", b""),
        }
    })
    .await;
    let source = source(&server);
    for range in [0..10, 10..20, 20..30, 30..40] {
        let (sent, got) = collect(&source, PATH, range.clone()).await;
        sent.unwrap();
        assert_eq!(got, bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]);
    }
    let here = "os/payloads/a.zst";
    assert_eq!(asked_paths(&server), [here, "one", here, "two", here, "one", here, "two"]);
    let requests = server.requests();
    let sent: Vec<_> = requests.iter().map(|request| header(request, "if-range")).collect();
    assert_eq!(sent, [None, None, None, None, None, Some("\"1\""), None, Some("\"2\"")]);
}
