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

/// The error of the second of two parts, when the answer to its request is another one, and the number of requests.
async fn changed(
    headers: &'static str,
    second: impl Fn(&[u8], &str) -> Reply + Send + Sync + 'static,
) -> (String, usize) {
    let bytes = content();
    let server = server(move |number, request| match number {
        1 => with_header(partial(&bytes, request), headers),
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
async fn a_file_that_changes_between_two_parts_is_not_mixed() {
    let said = ("the file changed while it was fetched".to_owned(), 2);
    let tag = "ETag: \"a1\"";
    // A server that knows If-Range sends the whole of the new file.
    assert_eq!(changed(tag, |bytes, _| with_header(reply("200 OK", bytes), "ETag: \"b2\"")).await, said);
    assert_eq!(changed(DATES, |bytes, _| reply("200 OK", bytes)).await, said);
    // One that does not still says what it sends.
    assert_eq!(changed(tag, |bytes, request| with_header(partial(bytes, request), "ETag: \"b2\"")).await, said);
    // And the length tells where nothing else does.
    assert_eq!(changed("X: y", |bytes, request| partial(&bytes[1..], request)).await, said);
    assert_eq!(changed("X: y", |bytes, _| reply("200 OK", &bytes[1..])).await, said);
    assert_eq!(changed("X: y", |_, request| partial(&[0; 5], request)).await, said);
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
