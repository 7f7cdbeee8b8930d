//! A link that is too slow for as many connections as there are.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::fetch::{Attempting, Fetching, Trouble, Unranged};
use crate::http::{Limits, TooSlow};

const ATTEMPTS: u32 = 3;
/// As many as [`Mirrors`] open by themselves.
const CONNECTIONS: u32 = 8;

/// A mirror of which the first so many attempts at frames bring little, too slowly.
#[derive(Debug)]
struct Narrow {
    repository: Repository,
    slow: u32,
    attempts: AtomicU32,
}

impl Narrow {
    async fn send(&self, path: &str, range: Range<u64>, sink: &mpsc::Sender<Bytes>) -> Result<(), Trouble> {
        let file = fs::read(self.repository.directory.path().join(path)).map_err(anyhow::Error::from)?;
        let [start, end] = [range.start, range.end].map(|at| usize::try_from(at).unwrap());
        // The seek table, at the end, comes before there are several connections.
        let is_slow = end < file.len() && self.attempts.fetch_add(1, Ordering::SeqCst) < self.slow;
        let end = if is_slow { start + 1000 } else { end };
        for piece in file[start..end].chunks(10_000) {
            if sink.send(Bytes::copy_from_slice(piece)).await.is_err() {
                return Ok(());
            }
        }
        if is_slow {
            Err(anyhow::Error::from(TooSlow("only 1000 bytes came in 60 s".to_owned())).into())
        } else {
            Ok(())
        }
    }
}

impl Source for Narrow {
    fn fetch<'a>(&'a self, path: &'a str, range: Range<u64>, sink: mpsc::Sender<Bytes>) -> Fetching<'a> {
        Box::pin(async move { self.send(path, range, &sink).await.map_err(|trouble| trouble.error) })
    }

    fn attempt<'a>(
        &'a self,
        path: &'a str,
        range: Range<u64>,
        _: Unranged,
        sink: mpsc::Sender<Bytes>,
    ) -> Attempting<'a> {
        Box::pin(async move { self.send(path, range, &sink).await })
    }

    fn limits(&self) -> Limits {
        let [backoff, backoff_most] = [1, 2].map(Duration::from_millis);
        Limits { attempts: ATTEMPTS, backoff, backoff_most, ..Limits::default() }
    }

    small_files_from!(self, self.repository.source);

    fn describe(&self) -> String {
        "https://narrow".to_owned()
    }
}

/// Brings a content over a link that is too slow for so many attempts.
async fn over_a_link(slow: u32) -> anyhow::Result<Tally> {
    // Enough for a range of each connection.
    let content = bytes(31, 4 << 20);
    let repository = Repository::new();
    let payload = repository.publish(&content);
    let (_, region) = recording(4 << 20);
    let mirrors = only(Narrow { repository, slow, attempts: AtomicU32::new(0) });
    assert_eq!(mirrors.connections(), u64::from(CONNECTIONS));
    let tally = bring(&mirrors, &payload, &open_tree(&content), &region, &[]).await?;
    assert!(on_disk(&region, content.len()) == content);
    Ok(tally)
}

#[tokio::test]
async fn the_last_connection_goes_on_alone_where_the_link_was_too_slow_for_all() {
    assert_eq!(over_a_link(CONNECTIONS * ATTEMPTS).await.unwrap().fetched, 1024);
    // What is too slow for one is too slow.
    let error = over_a_link((CONNECTIONS + 1) * ATTEMPTS).await.unwrap_err();
    let text = format!("{error:#}");
    assert_eq!(code_of(&error), Code::Repository, "{text}");
    assert!(text.ends_with("giving up after 3 attempts: only 1000 bytes came in 60 s"), "{text}");
}
