//! Servers whose answers have no end, or say that they have none within reach: what is signed is small, and so is what is read.

use metalstrap_release::{host, manifest, metadata};

use super::published::{HOST, Published, RELEASE, good, target_path};
use super::servers::server;
use super::trial::Trial;
use crate::failure::Code;
use crate::test_server::{Reply, Then};

const METADATA: &str = "checking the repository's metadata";

/// The files that are read as a whole, what is done where they are fetched, and the most that is read of each.
fn documents(published: &Published) -> [(String, &'static str, usize); 4] {
    let release = serde_json::to_vec(&published.manifest).unwrap();
    let config = serde_json::to_vec(&super::published::host()).unwrap();
    [
        // Asked for first, and usually not there.
        ("metadata/2.root.json".to_owned(), METADATA, metadata::MAX_BYTES),
        ("metadata/timestamp.json".to_owned(), METADATA, metadata::MAX_BYTES),
        (target_path(HOST, &config), "fetching the host config", host::MAX_BYTES),
        (target_path(RELEASE, &release), "fetching the manifest", manifest::MAX_BYTES),
    ]
}

/// What becomes of it when `answer` is what every request for the file gets.
async fn refused(path: &str, doing: &str, most: usize, answer: impl Fn() -> Reply + Send + Sync + 'static) {
    let published = good();
    let endless = path.to_owned();
    let server = server(&published, move |path, _, right| if path == endless { answer() } else { right }).await;
    let text = format!("{doing}: fetching REPOSITORY/{path}: it has more than {most} bytes");
    Trial::at(&published, &server).run().await.before_the_plan(Code::Repository, &text);
}

#[tokio::test]
async fn an_answer_that_goes_on_and_on_is_refused_at_the_limit() {
    for (path, doing, most) in documents(&good()) {
        // Without a length, what comes until the connection closes is the body.
        let answer = move || {
            let mut bytes = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
            bytes.resize(bytes.len() + most + 1, b' ');
            Reply { bytes, then: Then::Drip }
        };
        refused(&path, doing, most, answer).await;
    }
}

#[tokio::test]
async fn an_answer_that_says_a_huge_length_is_refused_by_its_head() {
    for (path, doing, most) in documents(&good()) {
        let answer = || Reply {
            bytes: format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{{", 1_u64 << 62).into_bytes(),
            then: Then::Stall,
        };
        refused(&path, doing, most, answer).await;
    }
}
