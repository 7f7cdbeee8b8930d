//! Parts that are fetched before they are asked for.

use super::testing::*;
use crate::test_server::{partial, reply};

#[tokio::test]
async fn what_was_fetched_ahead_is_not_asked_for_again_and_the_rest_is() {
    let server = server(|_, request| partial(&content(), request)).await;
    let mirrors = mirrors([&server]);
    mirrors.fetch_ahead(vec![(PATH.to_owned(), 1000..2000)]);
    let got = collect(&mirrors, 1000..1500).await;
    assert!(got.result.is_ok() && got.bytes == content()[1000..1500]);
    let got = collect(&mirrors, 1500..3000).await;
    assert!(got.result.is_ok() && got.bytes == content()[1500..3000]);
    assert_eq!(asked(&server), [(1000, 2000), (2000, 3000)]);
    // Each byte serves once: what was wrong is fetched again.
    assert!(collect(&mirrors, 1000..1500).await.result.is_ok());
    assert_eq!(asked(&server), [(1000, 2000), (2000, 3000), (1000, 1500)]);
}

#[tokio::test]
async fn what_cannot_be_fetched_ahead_is_the_error_of_who_needs_it() {
    let server = server(|_, _| reply("404 Not Found", b"")).await;
    let mirrors = mirrors([&server]);
    mirrors.fetch_ahead(vec![(PATH.to_owned(), 1000..2000)]);
    let got = collect(&mirrors, 1000..2000).await;
    assert_eq!(got.error(&[&server]), "fetching A/os/payloads/a.zst: the server answered 404 Not Found");
    assert_eq!(asked(&server), [(1000, 2000)]);
}

#[tokio::test]
async fn what_is_wrong_with_more_than_is_needed_is_nothing_to_who_needs_less() {
    let server = server(|_, request| partial(&content()[..1500], request)).await;
    let mirrors = mirrors([&server]);
    mirrors.fetch_ahead(vec![(PATH.to_owned(), 1000..2000)]);
    let got = collect(&mirrors, 1000..1500).await;
    assert!(got.result.is_ok() && got.bytes == content()[1000..1500]);
    assert_eq!(asked(&server), [(1000, 2000), (1000, 1500)]);
}
